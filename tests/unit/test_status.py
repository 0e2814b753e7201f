from __future__ import annotations

import time
from typing import Any

from reshelve.cli.status import _text, status_facts
from reshelve.journal import Event
from reshelve.lease import Holder
from reshelve.model import RunId
from reshelve.state import RunState

_RUN = RunId("docs", "20260102-030405-abcd")
_HERE = Holder.here()
_CHANGES = {
    "seconds_behind": 2.25,
    "applied_at": int(time.time() * 1000) - 60_000,
    "wal_retained": 1_500_000,
    "change_lag": 1234,
}
_CHECKPOINT = {
    "documents": 10, "segments": 2, "segments_done": 2, "indexed": 10, "lag": 0, "rejects": 0, "waiting": [],
}  # fmt: skip


def state(*entries: tuple[str, dict[str, Any]]) -> RunState:
    folded = RunState(_RUN)
    for number, (kind, data) in enumerate([("started", {}), *entries]):
        folded.take(Event(str(_RUN), number, "2026-01-02T03:04:05+00:00", kind, data, "", ""))
    return folded


def test_live_changes_stand_right_after_state_reason_since_and_next() -> None:
    found = status_facts(state(("checkpoint", _CHECKPOINT | _CHANGES)), _HERE)
    assert found["state"] == "running"
    assert found["changes"]["seconds_behind"] == 2.25
    assert 60 <= found["changes"]["oldest_unapplied_seconds"] < 3600
    lines = _text(found).splitlines()
    assert [line.split()[0] for line in lines[1:9]] == [
        "reason", "since", "next", "behind", "oldest", "WAL", "changes", "read",
    ]  # fmt: skip
    assert "2.2 s" in lines[4] and "1.5 MB by the slot" in lines[6] and "lag 1,234" in lines[7]


def test_what_is_not_known_yet_is_said_so() -> None:
    unknown = dict.fromkeys(_CHANGES) | {"change_lag": 5}
    text = _text(status_facts(state(("checkpoint", _CHECKPOINT | unknown)), _HERE))
    assert "not known yet" in text and "no change is indexed yet" in text


def test_without_live_changes_nothing_is_said_of_them() -> None:
    found = status_facts(state(("checkpoint", _CHECKPOINT)), _HERE)
    assert found["changes"] is None
    assert "behind" not in _text(found)


def test_nothing_is_behind_any_more_once_a_run_has_ended() -> None:
    checkpoint = ("checkpoint", _CHECKPOINT | _CHANGES)
    assert status_facts(state(checkpoint, ("completed", {})), None)["changes"] is None
    assert status_facts(state(checkpoint, ("completed", {"following": True})), _HERE)["changes"] is not None


def test_a_completed_run_that_is_followed_and_one_whose_follower_died() -> None:
    following = state(("completed", {"following": True}))
    assert status_facts(following, _HERE)["state"] == "following"
    assert "reshelve retire" in status_facts(following, _HERE)["next"]
    assert status_facts(following, None)["state"] == "interrupted"
    assert status_facts(following, None)["next"] == f"reshelve follow {_RUN}"
    stopped = state(("completed", {"following": True}), ("interrupted", {"stage": "follow"}))
    assert status_facts(stopped, None)["next"] == f"reshelve follow {_RUN}"


def test_a_run_that_stands_for_an_adopted_index_was_never_started() -> None:
    planned = Event(str(_RUN), 0, "2026-01-02T03:04:05+00:00", "planned", {"plan": {"adopted": True}}, "", "")
    adopted = RunState(_RUN)
    adopted.take(planned)
    found = status_facts(adopted, None)
    assert (found["state"], found["stage"]) == ("interrupted", "adopt")
    assert "`reshelve repair` with its spec goes on" in found["next"]
    adopted.take(Event(str(_RUN), 1, "2026-01-02T03:04:06+00:00", "completed", {"following": False}, "", ""))
    found = status_facts(adopted, None)
    assert (found["state"], found["next"]) == ("completed", f"reshelve repair {_RUN}")
    assert "completed in stage adopt" in _text(found)
