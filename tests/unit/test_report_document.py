"""What a report says of a run, from its entries."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

from reshelve.journal import Event
from reshelve.model import ChangePlan, RunId
from reshelve.report import FORMATS, render, report_facts
from reshelve.state import RunState

RUN = RunId("cities", "20260102-030405-abcd")
SPEC = {
    "source": {"postgres": {"url": "postgresql://h/d", "query": "select 1 as id"}},
    "scope": {"where": None, "keys": None},
    "approval": {"required": "signed"},
    "delegates": ["bob"],
    "why": {"kind": "schema_change", "reference": "T-1", "text": "names"},
    "follow": "until_cutover",
}
PLAN = SimpleNamespace(
    reindex="cities",
    environment="production",
    spec=SPEC,
    hash="a" * 64,
    alias="cities",
    index="cities-2",
    previous_index="cities-1",
    changes=ChangePlan("none"),
    notes=("not followed",),
    forecast=SimpleNamespace(seconds_low=10.0, seconds_high=100.0, basis="assumed"),
    estimated_documents=1000,
    estimated_bytes=5_000_000,
)
COPIED = {"rows": 900, "documents": 900, "left_out": 0, "rejected": 0, "bytes": 4_500_000, "segments": 1, "checksum": 7}
USED = {"action": "run", "by": "alice", "key": "SHA256:x", "approved_at": "2026", "expires": "2027", "nonce": "n",
        "payload": "p", "signature": "s"}  # fmt: skip


def _rendered(*entries: tuple[str, dict[str, Any]]) -> tuple[dict[str, Any], str]:
    """The facts, and the Markdown; the page must come of it, too. An entry every ten seconds."""
    state = RunState(RUN)
    last = None
    for number, (kind, data) in enumerate(entries):
        at = datetime(2026, 1, 2, 3, tzinfo=UTC) + timedelta(seconds=10 * number)
        last = Event.after(last, RUN, kind, data, at)
        state.take(last)
    found = report_facts(cast(Any, PLAN), state)
    texts = {form: render(found, form) for form in FORMATS}
    assert texts["html"].startswith("<!doctype html>")
    return found, texts["md"]


def test_a_run_that_completed_tells_who_approved_and_whether_the_forecast_was_right() -> None:
    found, text = _rendered(
        ("planned", {"plan": {"approval": {}}, "owner": "alice", "why": "names"}),
        ("started", {"host": "h", "pid": 1}),
        ("approval_used", USED),
        ("stage", {"stage": "copy"}),
        ("checkpoint", {"documents": 0, "indexed": 0, "lag": 0}),
        ("checkpoint", {"documents": 900, "indexed": 450, "lag": 450}),
        ("copied", COPIED),
        ("stage", {"stage": "validate"}),
        ("rehearsed", {"sample": "1%", "documents_per_second": 5000}),
        ("notify_failed", {"whom": "webhook https://h/***", "why": "it answered 500", "what": "w"}),
        ("completed", {}),
        ("notified", {"told": ["topic signals"]}),
    )
    assert found["outcome"] == "Completed: Reindex complete" and found["forecast"]["seconds"] == 40
    assert "payload" not in found["approvals"][0] and found["approvals"][0]["signed"]
    for part in (
        "| Environment | production |",
        "| run | alice | 2026 | 2027 | `SHA256:x` |",
        "| to copy and index | 10.0 s to 1 min 40 s (assumed) | 40.0 s |",
        "| documents | about 1,000 | 900 |",
        "## Rehearsal",
        "| documents per second | 5000 |",
        "- not told: webhook https://h/***: it answered 500",
        "| Why | names |",
    ):
        assert part in text, part
    assert len(found["samples"]["rows"]) == 2 and found["log"][0]["kind"] == "planned"


def test_a_run_that_was_ended_tells_by_whom_and_what_is_left() -> None:
    _, text = _rendered(
        ("planned", {}), ("started", {}), ("aborted", {"by": "alice", "why": "wrong mapping", "left": ["index c"]})
    )
    assert "# Aborted: cities" in text and "Aborted by alice: wrong mapping." in text and "- index c" in text
    assert "Required (signed), and not given." in text and "Not validated." in text


def test_a_run_that_is_blocked_tells_why_and_the_remedy() -> None:
    error = {"code": "gate", "what": "closed", "where": "", "why": "w|y", "remedy": "open it"}
    _, text = _rendered(("planned", {}), ("started", {}), ("blocked", error))
    assert "closed: w|y" in text and "To remedy: open it" in text
