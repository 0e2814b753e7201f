"""What is told of a run's end, and when."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from reshelve import redaction
from reshelve.errors import SpecError
from reshelve.journal import Event
from reshelve.model import RunId
from reshelve.notify.announce import announce
from reshelve.notify.event import cloud_event, outcome
from reshelve.redaction import redact
from reshelve.spec import Spec, parse
from reshelve.spec.notify import Notify, shown_url
from reshelve.state import RunState

RUN = RunId("cities", "20260102-030405-abcd")
ERROR = {"code": "gate", "what": "w", "where": "", "why": "y", "remedy": "r"}
PLAN = {"alias": "cities", "index": "cities-2", "spec": {"why": {"kind": "schema_change", "reference": "T-1"}}}


def state_of(*entries: str | tuple[str, dict[str, Any]]) -> RunState:
    state = RunState(RUN)
    for number, entry in enumerate(entries):
        kind, data = entry if isinstance(entry, tuple) else (entry, {})
        last = Event.after(None, RUN, kind, data, datetime(2026, 1, 2, 3, 4, number, tzinfo=UTC))
        state.take(last)
    return state


@pytest.mark.parametrize(
    ("entries", "how"),
    [
        (["planned", "started"], None),
        (["planned", "started", ("blocked", ERROR)], "blocked"),
        (["planned", "started", ("failed", ERROR)], "failed"),
        (["planned", "started", "aborted"], "aborted"),
        (["planned", "started", "interrupted"], None),
        (["planned", "started", ("stopped", {"until": "copied"})], None),
        (["planned", "started", "completed"], "completed"),
        (["planned", "started", ("completed", {"following": True})], "completed"),
        (["planned", "started", ("completed", {"following": True}), "following"], None),
        (["planned", "started", ("completed", {"following": True}), "following", "retired"], None),
        (["planned", "started", ("blocked", ERROR), "started"], None),
    ],
)
def test_an_end_is_told_and_nothing_else(entries: list[Any], how: str | None) -> None:
    assert outcome(state_of(*entries)) == how


def test_the_event_is_a_cloud_event_that_can_be_told_from_its_repetition() -> None:
    state = state_of(("planned", {"plan": PLAN, "owner": "alice"}), "started", ("completed", {}))
    event = cloud_event(state, "completed")
    facts = json.loads(event.encode())
    assert {name: facts[name] for name in ("specversion", "type", "source", "subject", "datacontenttype")} == {
        "specversion": "1.0",
        "type": "io.reshelve.reindex.completed",
        "source": "/reshelve/cities",
        "subject": str(RUN),
        "datacontenttype": "application/json",
    }
    assert datetime.fromisoformat(facts["time"]).tzinfo is not None and facts["id"]
    assert facts["data"]["message"] == "Reindex complete" and facts["data"]["why"]["reference"] == "T-1"
    assert cloud_event(state, "completed").id == event.id != cloud_event(state_of("planned", "aborted"), "aborted").id


def _announced(state: RunState, notify: dict[str, Any], required: str = "none") -> tuple[list[str], list[str]]:
    """The kinds of entries, and what was said."""
    entries: list[str] = []
    said: list[str] = []

    def record(kind: str, data: dict[str, Any]) -> None:
        entries.append(kind)
        state.take(Event.after(None, RUN, kind, data, datetime.now(UTC)))

    asked = Notify.model_validate(notify)
    spec = SimpleNamespace(notify=asked, kafka=SimpleNamespace(replication_factor=None),
                           approval=SimpleNamespace(required=required))  # fmt: skip
    announce(cast(Any, SimpleNamespace(spec=spec)), state, record, said.append)
    return entries, said


def test_a_command_gets_the_event_once_and_one_that_fails_ends_nothing(tmp_path: Path) -> None:
    state = state_of("planned", "started", ("blocked", ERROR))
    file = tmp_path / "told"
    notify = {"commands": [["sh", "-c", f"cat >> {file}"], ["sh", "-c", "echo no >&2; exit 3"], ["/no/such"]]}
    entries, said = _announced(state, notify)
    assert entries == ["notify_failed", "notify_failed", "notified"]
    assert "exit code 3: no" in said[0] and "No such file" in said[1]
    assert json.loads(file.read_text())["data"]["error"] == ERROR
    assert _announced(state, notify) == ([], [])  # it was told


def test_a_plan_that_nobody_approved_starts_no_command(tmp_path: Path) -> None:
    file = tmp_path / "told"
    notify = {"commands": [["touch", str(file)]]}
    waiting = state_of("planned", "started", ("blocked", ERROR))
    entries, said = _announced(waiting, notify, required="signed")
    assert entries == ["notified"] and "nobody has approved" in said[0] and not file.exists()
    approved = state_of("planned", "started", ("approval_used", {"by": "alice"}), ("blocked", ERROR))
    _announced(approved, notify, required="signed")
    assert file.exists()


_SPEC = """reindex: cities
source: {{postgres: {{url: "postgresql://h/d", key: id, query: select 1 as id}}}}
target: {{opensearch: {{url: "http://h", alias: cities, index: index.json}}}}
kafka: {{bootstrap: "h:1"}}
changes: none
notify: {}
"""


def _parse(notify: str, **environ: str) -> Spec:
    return parse(_SPEC.format(notify), name="s.yaml", folder=Path(), environ=environ, definition={})


def test_secrets_of_webhooks_are_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_known", set())
    hook = '{url: "https://hooks.example.com/${TOKEN}", headers: {Authorization: "Bearer ${KEY}", X-Team: search}}'
    spec = _parse(f"{{webhooks: [{hook}]}}", TOKEN="T0/B0/hidden", KEY="k-hidden")
    assert "hidden" not in json.dumps(spec.public()) and "hidden" not in repr(spec)
    assert spec.public()["notify"]["webhooks"] == [
        {"url": "https://hooks.example.com/***", "headers": {"Authorization": "***", "X-Team": "***"}}
    ]
    assert "hidden" not in redact("POST https://hooks.example.com/T0/B0/hidden with Bearer k-hidden")
    assert spec.notify.webhooks[0].headers["Authorization"] == "Bearer k-hidden"


@pytest.mark.parametrize(
    ("notify", "why"),
    [
        ('{webhooks: [{url: "http://h", headers: {Authorization: Bearer abcdef}}]}', "secret written"),
        ('{webhooks: [{url: "http://h", headers: {X-Api-Key: "abcdef12345 ${K}"}}]}', "secret written"),
        ('{webhooks: [{url: "http://u:pass@h/x"}]}', "secret written"),
        ('{webhooks: [{url: "ftp://h"}]}', "http:// or https://"),
        ('{webhooks: [{url: "http://h", headers: {"a b": c}}]}', "no name of a header"),
        ("{commands: [[]]}", "is empty"),
        ("{topic: a b}", "does not match"),
    ],
)
def test_what_is_wrong_is_said(notify: str, why: str) -> None:
    with pytest.raises(SpecError) as caught:
        _parse(notify, K="k")
    assert why in caught.value.why


def test_an_address_is_shown_without_what_may_be_secret() -> None:
    assert [shown_url(url) for url in ("http://h:1", "http://h/", "https://u:p@h/x?y=z", "http://h?token=1")] == [
        "http://h:1",
        "http://h/",
        "https://h/***",
        "http://h/***",
    ]
