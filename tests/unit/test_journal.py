from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from reshelve import redaction
from reshelve.journal import Event, chain_faults
from reshelve.model import RunId
from reshelve.redaction import remember_secret
from reshelve.schemas.codec import CodecError

RUN = RunId("docs", "20260102-030405-abcd")
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
_DATA = st.dictionaries(st.text(max_size=4), _JSON, max_size=3)
_ENTRIES = st.lists(st.tuples(st.sampled_from(["planned", "started", "stage", "completed"]), _DATA), max_size=6)


def chain(entries: list[tuple[str, dict[str, Any]]]) -> list[Event]:
    events: list[Event] = []
    for kind, data in entries:
        events.append(Event.after(events[-1] if events else None, RUN, kind, data, NOW))
    return events


@given(_ENTRIES)
def test_a_chain_is_whole_also_when_read_back(entries: list[tuple[str, dict[str, Any]]]) -> None:
    events = chain(entries)
    assert chain_faults(events) == []
    read = [Event.decode(event.encode()) for event in events]
    assert read == events and chain_faults(read) == []


@given(_ENTRIES, st.data())
def test_any_change_of_an_entry_is_found(entries: list[tuple[str, dict[str, Any]]], data: st.DataObject) -> None:
    events = chain(entries)
    assume(events)
    number = data.draw(st.integers(0, len(events) - 1))
    one = events[number]
    changes: dict[str, Any] = {
        "run": "docs.other",
        "sequence": one.sequence + 1,
        "at": one.at + "0",
        "kind": one.kind + "x",
        "data": {**one.data, "new": 1},
        "previous": "0" * 64,
        "hash": "0" * 64,
    }
    field = data.draw(st.sampled_from(sorted(changes)))
    changed = replace(one, **{field: changes[field]})
    assert chain_faults([*events[:number], changed, *events[number + 1 :]])


@given(_ENTRIES, st.data())
def test_an_entry_rewritten_with_a_fitting_hash_is_found_by_the_next(
    entries: list[tuple[str, dict[str, Any]]], data: st.DataObject
) -> None:
    events = chain(entries)
    assume(len(events) > 1)
    number = data.draw(st.integers(0, len(events) - 2))
    forged = replace(events[number], data={"forged": True})
    forged = replace(forged, hash=forged.digest())
    assert chain_faults([*events[:number], forged, *events[number + 1 :]])


@given(_ENTRIES, st.data())
def test_a_removed_or_repeated_entry_is_found(entries: list[tuple[str, dict[str, Any]]], data: st.DataObject) -> None:
    """The last one can be cut off unseen: a chain does not know its end."""
    events = chain(entries)
    assume(len(events) > 1)
    number = data.draw(st.integers(0, len(events) - 2))
    assert chain_faults(events[:number] + events[number + 1 :])
    assert chain_faults([*events[: number + 1], *events[number:]])


@given(_ENTRIES, st.data())
def test_another_order_is_found(entries: list[tuple[str, dict[str, Any]]], data: st.DataObject) -> None:
    events = chain(entries)
    shuffled = data.draw(st.permutations(events))
    assume(shuffled != events)
    assert chain_faults(shuffled)


def test_garbage_is_no_entry() -> None:
    with pytest.raises(CodecError):
        Event.decode(b"garbage")


def test_secrets_do_not_enter_the_journal_but_a_plan_is_kept_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_known", set())
    remember_secret("postgres")  # a password that is a word of every plan
    blocked = Event.after(None, RUN, "blocked", {"why": ["url http://u:x@h", 'say "postgres"']}, NOW)
    assert blocked.data == {"why": ["url http://u:***@h", 'say "***"']}
    plan = {"plan": {"spec": {"source": {"postgres": {}}}, "spec_text": "password: ${PW}\n x: 1"}}
    assert Event.after(None, RUN, "planned", plan, NOW).data == plan
