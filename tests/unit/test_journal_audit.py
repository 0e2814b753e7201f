from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from reshelve.errors import UsageError
from reshelve.journal import Event
from reshelve.journal_audit import Anchor, Audit, Record, anchor_faults, anchor_text, audit
from reshelve.model import RunId

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ONE, OTHER = RunId("docs", "1"), RunId("towns", "1")


def chain(run: RunId, entries: int, word: str = "") -> list[Event]:
    events: list[Event] = []
    for number in range(entries):
        events.append(Event.after(events[-1] if events else None, run, "stage", {"stage": f"{word}{number}"}, NOW))
    return events


def records(*events: Event) -> list[Record]:
    return [Record(offset, event.run, event.encode()) for offset, event in enumerate(events)]


def faults_since(anchored: Audit, now: Audit, cluster: str = "K") -> list[str]:
    return list(anchor_faults(now, Anchor.parse(anchor_text(anchored, "K", NOW)), cluster))


def test_chains_lie_among_each_other_and_each_is_checked() -> None:
    one, other = chain(ONE, 3), chain(OTHER, 2)
    found = audit(records(one[0], other[0], one[1], other[1], one[2]))
    assert found.faults == () and found.entries == 5 and found.heads[str(ONE)].hash == one[2].hash
    (fault,) = audit(records(one[0], other[0], one[2], other[1])).faults
    assert "docs.1 entry 2" in fault
    assert audit(records(one[0], other[0], one[2], other[1]), reindex="towns").faults == ()


def test_a_record_that_is_no_entry_or_another_run_s_is_told() -> None:
    one = chain(ONE, 1)
    assert "no entry" in audit([Record(0, "docs.1", b"garbage")]).faults[0]
    assert "is an entry of docs.1" in audit([Record(0, "docs.2", one[0].encode())]).faults[0]
    assert "begins at offset 7" in audit(records(*one), 7).faults[0]


def test_anchored_heads_show_what_a_chain_alone_does_not() -> None:
    before = audit(records(*chain(ONE, 3), *chain(OTHER, 1)))
    grown = audit(records(*chain(ONE, 5), *chain(OTHER, 1), *chain(RunId("new", "1"), 1)))
    assert faults_since(before, before) == [] and faults_since(before, grown) == []
    cut = audit(records(*chain(ONE, 2), *chain(OTHER, 1)))
    rewritten = audit(records(*chain(ONE, 4, "another "), *chain(OTHER, 1)))
    gone = audit(records(*chain(ONE, 3)))
    for forged, why in ((cut, "docs.1 was cut"), (rewritten, "docs.1 was rewritten"), (gone, "towns.1 is gone")):
        assert forged.faults == ()
        (fault,) = faults_since(before, forged)
        assert why in fault
    assert "another Kafka cluster" in faults_since(before, before, cluster="K2")[0]


def test_what_is_no_anchor_is_refused() -> None:
    text = anchor_text(audit(records(*chain(ONE, 1))), "K", NOW)
    assert Anchor.parse(text).heads[str(ONE)].sequence == 0
    for wrong in ("", "[]", "{}", text.replace('"v": 1', '"v": 2'), text.replace('"sequence"', '"number"')):
        with pytest.raises(UsageError, match="no heads"):
            Anchor.parse(wrong)


def test_a_changed_entry_is_found_with_its_place() -> None:
    one = chain(ONE, 3)
    (fault,) = audit(records(one[0], replace(one[1], data={"stage": "forged"}), one[2])).faults
    assert fault == "docs.1 entry 1 (stage) was changed"
