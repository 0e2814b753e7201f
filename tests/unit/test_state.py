from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from reshelve.errors import UsageError
from reshelve.journal import Event
from reshelve.model import RunId
from reshelve.state import RunState, find_run, fold

RUN = RunId("docs", "20260102-030405-abcd")
START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
_ERROR = {"code": "gate", "what": "w", "where": "", "why": "y", "remedy": "r"}


def events(*entries: str | tuple[str, dict[str, Any]], run: RunId = RUN) -> list[Event]:
    """Entries, one a second."""
    found: list[Event] = []
    for number, entry in enumerate(entries):
        kind, data = entry if isinstance(entry, tuple) else (entry, {})
        last = found[-1] if found else None
        found.append(Event.after(last, run, kind, data, START + timedelta(seconds=number)))
    return found


def state_of(*entries: str | tuple[str, dict[str, Any]]) -> RunState:
    return fold(events(*entries))[str(RUN)]


@pytest.mark.parametrize(
    ("entries", "state", "ended"),
    [
        (["planned"], "planned", False),
        (["planned", "started"], "running", False),
        (["planned", "started", "interrupted"], "interrupted", False),
        (["planned", "started", ("stopped", {"until": "copied"})], "interrupted", False),
        (["planned", "started", ("blocked", _ERROR)], "blocked", False),
        (["planned", "started", ("failed", _ERROR)], "failed", False),
        (["planned", "started", "interrupted", "started"], "running", False),
        (["planned", "started", ("blocked", _ERROR), "started"], "running", False),
        (["planned", "started", ("failed", _ERROR), "started"], "running", False),
        (["planned", "started", ("error", {"what": "a worker died"})], "running", False),
        (["planned", "started", "completed"], "completed", True),
        (["planned", "started", ("blocked", _ERROR), "aborted"], "aborted", True),
        (["planned", "aborted"], "aborted", True),
    ],
)
def test_the_state_follows_the_entries(entries: list[Any], state: str, ended: bool) -> None:
    found = state_of(*entries)
    assert (found.state, found.ended) == (state, ended)
    assert found.events == len(entries)


def test_until_when_the_previous_index_is_kept() -> None:
    planned = ("planned", {"plan": {"spec": {"rollback": {"grace_hours": 2}}}})
    assert state_of(planned, "started").kept_until is None
    assert state_of(planned, "started", "cutover").kept_until == START + timedelta(hours=2, seconds=2)
    assert state_of(planned, "cutover", "rolled_back").kept_until is None
    assert state_of(("planned", {"plan": {"spec": {"rollback": None}}}), "cutover").kept_until is None


def test_phases_as_far_as_they_are() -> None:
    planned = ("planned", {"plan": {"phases": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}})
    began, ended = (lambda name: ("phase_began", {"phase": name})), (lambda name: ("phase_ended", {"phase": name}))
    found = state_of(planned, began("a"), ended("a"), began("b")).phase_facts()
    assert [(one["name"], bool(one["began"]), bool(one["ended"])) for one in found] == [
        ("a", True, True), ("b", True, False), ("c", False, False),
    ]  # fmt: skip


def test_a_restored_index_is_the_run_s_from_then_on() -> None:
    entries: list[Any] = ["planned", ("created", {"uuid": "a"}), "completed"]
    assert state_of(*entries).index_uuid == "a"
    restored = ("restored", {"uuid": "b", "was": "a"})
    assert state_of(*entries, restored).index_uuid == "b"
    assert state_of(*entries, restored, ("restored", {"uuid": "c", "was": "b"})).index_uuid == "c"


def test_an_error_is_told_until_the_run_goes_on_and_remembered_after() -> None:
    blocked = state_of("planned", "started", ("error", {"what": "died"}), ("blocked", _ERROR))
    assert blocked.error == _ERROR
    assert [e["what"] for e in blocked.errors] == ["died", "w"]
    again = state_of("planned", "started", ("blocked", _ERROR), "started")
    assert again.error is None and [e["what"] for e in again.errors] == ["w"]


def test_stages_keep_the_time_they_were_entered_first() -> None:
    found = state_of(
        "planned", "started", ("stage", {"stage": "create"}), ("stage", {"stage": "copy"}), "interrupted", "started",
        ("stage", {"stage": "copy"}),
    )  # fmt: skip
    assert found.stage == "copy"
    assert found.stages == {"create": "2026-01-02T03:04:07.000+00:00", "copy": "2026-01-02T03:04:08.000+00:00"}


def test_times_are_those_of_the_entries() -> None:
    found = state_of(("planned", {"owner": "me"}), "started", "interrupted", "started", "completed", "rolled_back")
    assert (found.planned_at, found.owner) == ("2026-01-02T03:04:05.000+00:00", "me")
    assert found.since == found.ended_at == "2026-01-02T03:04:09.000+00:00"
    assert found.duration_s == 3
    assert state_of("planned").duration_s is None
    assert state_of("planned", "started", "interrupted").duration_s == 1


def test_what_comes_after_the_end_does_not_change_the_outcome() -> None:
    found = state_of("planned", "started", "completed", "rolled_back", "cleaned")
    assert (found.state, found.rolled_back, found.cleaned) == ("completed", True, True)


def test_the_newest_facts_of_each_kind_are_kept() -> None:
    found = state_of("planned", ("created", {"uuid": "u1"}), ("checkpoint", {"rows": 1}), ("checkpoint", {"rows": 2}))
    assert found.index_uuid == "u1" and found.facts["checkpoint"] == {"rows": 2}
    assert state_of("planned").index_uuid == ""


def test_a_journal_without_a_plan_is_told() -> None:
    with pytest.raises(UsageError, match="holds no plan"):
        _ = state_of("started").plan


def test_runs_are_told_apart_and_found() -> None:
    other, later = RunId("other", "20260103-000000-zzzz"), RunId("docs", "20260104-000000-efgh")
    states = fold([*events("planned", "started"), *events("planned", run=other), *events("planned", run=later)])
    assert list(states) == [str(RUN), str(other), str(later)]
    assert find_run(states, str(RUN)).state == "running"
    assert find_run(states, "docs").run == later  # a reindex means its newest run
    assert find_run(states, "docs.20260102").run == RUN
    for name, words in (("docs.2026", "may be any of"), ("nothing", "no run"), ("", "may be any of")):
        with pytest.raises(UsageError, match=words):
            find_run(states, name)


@pytest.mark.parametrize("end", ["completed", "aborted"])
def test_a_run_that_ended_was_not_ended_by_the_error_it_got_over(end: str) -> None:
    """`reshelve cutover` completes a blocked run without starting it anew."""
    ended = state_of("planned", "started", ("blocked", _ERROR), end)
    assert ended.error is None
    assert [e["what"] for e in ended.errors] == ["w"]


def test_why_a_run_stopped_is_forgotten_when_it_goes_on() -> None:
    again = state_of("planned", "started", ("stopped", {"until": "copied"}), "started", "interrupted")
    assert "stopped" not in again.facts


def test_a_check_that_was_finished_is_not_gone_on_with_after_another() -> None:
    began, done, other = ("check_began", {"check": "a"}), ("validated", {"check": "a"}), ("validated", {"check": "b"})
    assert "check_began" in state_of("planned", began, other).facts
    assert "check_began" not in state_of("planned", began, done, other).facts
