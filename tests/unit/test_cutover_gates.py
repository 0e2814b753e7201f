from __future__ import annotations

from dataclasses import replace

import pytest

from reshelve.applied import Applied
from reshelve.approval.decision import Decision
from reshelve.approval.payload import Payload
from reshelve.approval.standing import Standing
from reshelve.consumers.alias import Alias
from reshelve.errors import GateClosed
from reshelve.gates import Following, GateFacts, LiveFacts, gates, require_open, standing
from reshelve.producers.slot import SlotState
from reshelve.receipts import Tiling
from reshelve.validator.queries import QueriesVerdict
from reshelve.validator.recomputation import Recomputation
from reshelve.validator.verdict import PartitionVerdict, Validation

_TILING = Tiling(segments=2, open=(), faults=(), rows=10, documents=10, left_out=0, rejected=0, bytes=100, checksum=77)
_CLEAN = Validation("check", "2026-01-02T03:04:05+00:00", 1.0, 10, (PartitionVerdict(0, 10, "4d", 10, True, True, 5),))
_SAME = Recomputation(10, 77, 10, 77, ())
_OPEN = GateFacts(
    tiling=_TILING,
    positions={0: 12, 1: 9},
    ends={0: 12, 1: 9},
    validation=_CLEAN,
    recomputed=_SAME,
    rejects=0,
    index="cities-2",
    created_uuid="U2",
    found_uuid="U2",
    alias=Alias("cities", ("cities-1",)),
    previous_index="cities-1",
    previous_uuid="U1",
    found_previous_uuid="U1",
)


def _closed(facts: GateFacts) -> list[str]:
    return [gate.name for gate in gates(facts) if not gate.open]


@pytest.mark.parametrize(
    "facts",
    [
        _OPEN,
        replace(_OPEN, positions={0: 13, 1: 9}),
        replace(_OPEN, positions={0: 12}, ends={0: 12, 1: 0}),  # nothing was ever written to partition 1
        replace(_OPEN, alias=Alias("cities", ("cities-2",))),  # swapped already, by the run before a crash
        replace(
            _OPEN, alias=Alias("cities"), previous_index=None, previous_uuid=None, found_previous_uuid=None
        ),  # the first generation
    ],
)
def test_all_gates_are_open(facts: GateFacts) -> None:
    assert _closed(facts) == []
    require_open(gates(facts))


@pytest.mark.parametrize(
    ("facts", "closed"),
    [
        (replace(_OPEN, tiling=replace(_TILING, open=((1, ("5",)),))), ["receipts tile"]),
        (replace(_OPEN, tiling=replace(_TILING, faults=("overlap",))), ["receipts tile"]),
        (replace(_OPEN, positions={0: 11, 1: 9}), ["topic drained"]),
        (replace(_OPEN, positions={0: 12, 1: None}), ["topic drained"]),
        (replace(_OPEN, rejects=1), ["rejects empty"]),
        (replace(_OPEN, validation=None), ["validation clean"]),
        (replace(_OPEN, validation=replace(_CLEAN, faults=("topic",))), ["validation clean"]),
        (replace(_OPEN, recomputed=replace(_SAME, differing=(1,))), ["counts and checksums, recomputed"]),
        (replace(_OPEN, recomputed=replace(_SAME, target_checksum=78)), ["counts and checksums, recomputed"]),
        (replace(_OPEN, recomputed=replace(_SAME, target_documents=9)), ["counts and checksums, recomputed"]),
        (replace(_OPEN, recomputed=Recomputation(9, 70, 9, 70, ())), ["counts and checksums, recomputed"]),
        (replace(_OPEN, found_uuid=None), ["index unchanged"]),
        (replace(_OPEN, found_uuid="U3"), ["index unchanged"]),
        (replace(_OPEN, alias=Alias("cities")), ["alias where it was"]),
        (replace(_OPEN, alias=Alias("cities", ("cities-0",))), ["alias where it was"]),
        (replace(_OPEN, alias=Alias("cities", ("cities-1", "cities-2"))), ["alias where it was"]),
        (replace(_OPEN, alias=Alias("cities", is_index=True)), ["alias where it was"]),
        (replace(_OPEN, alias=Alias("cities", is_data_stream=True)), ["alias where it was"]),
        (replace(_OPEN, found_previous_uuid="U9"), ["alias where it was"]),
    ],
)
def test_each_gate_closes_for_its_reason(facts: GateFacts, closed: list[str]) -> None:
    assert _closed(facts) == closed


def test_a_swap_that_needs_an_approval_waits_for_it() -> None:
    missing = Standing(Decision(None, reasons=("it expired",)), "signed by alice", remedy="reshelve approve")
    (closed,) = [gate for gate in gates(replace(_OPEN, approval=missing)) if not gate.open]
    assert (closed.name, closed.value, closed.threshold) == ("approved", "it expired", "signed by alice")
    assert closed.remedy == "reshelve approve" and not closed.passing
    payload = Payload("run", "alice", "cities", "cities", "h", "K", "O", None, "n", "2026-01-01T00:00:00+00:00")
    given = Standing(Decision(payload, "SHA256:x", 0), "signed by alice")
    found = gates(replace(_OPEN, approval=given))
    require_open(found)
    assert [gate.value for gate in found if gate.name == "approved"] == ["by alice (SHA256:x)"]


def test_every_closed_gate_is_named_with_value_threshold_and_remedy() -> None:
    facts = replace(_OPEN, rejects=3, found_uuid="U3")
    with pytest.raises(GateClosed) as caught:
        require_open(gates(facts))
    assert caught.value.where == "rejects empty, index unchanged"
    assert "rejects empty: 3 (needed: 0)" in caught.value.why
    assert "reshelve rejects" in caught.value.remedy and "new run" in caught.value.remedy


_LIVE = LiveFacts(settled={0: 5, 1: 6}, validated_version=40, ends={0: 12, 1: 9}, recomputed=_SAME)
_SLOT = SlotState(True, 1234, 1000, 900, 5_000, "reserved")
_NOW_MS = 1_800_000_000_000
_FOLLOWING = Following(
    live=_LIVE,
    key_positions={0: 5, 1: 60},
    applied={0: Applied(40, _NOW_MS - 2_000), 1: Applied(41, _NOW_MS - 1_000)},
    now_ms=_NOW_MS,
    slot=_SLOT,
    max_seconds_behind=10,
    max_wal_retained=10_000,
)
_LATER = Recomputation(12, 99, 12, 99, ())  # than the receipts: two inserts


def followed(**changes: object) -> GateFacts:
    return replace(_OPEN, recomputed=_LATER, positions={0: 20, 1: 30}, following=replace(_FOLLOWING, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "facts",
    [followed(), followed(slot=None), followed(applied={0: Applied(40, _NOW_MS + 9_000), 1: Applied(41, _NOW_MS)})],
)
def test_live_changes_that_are_followed_closely_open_every_gate(facts: GateFacts) -> None:
    assert _closed(facts) == []


def test_without_live_changes_their_gates_are_absent() -> None:
    names = {gate.name for gate in gates(followed())} - {gate.name for gate in gates(_OPEN)}
    assert names == {"settled", "applied clock", "seconds behind", "replication slot"}
    assert "replication slot" not in {gate.name for gate in gates(followed(slot=None))}


@pytest.mark.parametrize(
    ("facts", "closed"),
    [
        (followed(key_positions={0: 4, 1: 6}), ["settled"]),
        (followed(key_positions={0: 5, 1: None}), ["settled"]),
        (followed(applied={0: Applied(39, _NOW_MS), 1: Applied(41, _NOW_MS)}), ["applied clock"]),
        (followed(applied={0: Applied(40, _NOW_MS), 1: None}), ["applied clock", "seconds behind"]),
        (followed(applied={}), ["applied clock", "seconds behind"]),
        (followed(now_ms=_NOW_MS + 8_000), ["seconds behind"]),
        (followed(live=replace(_LIVE, validated_version=None)), ["applied clock"]),
        (followed(slot=SlotState(False)), ["replication slot"]),
        (followed(slot=replace(_SLOT, wal_status="lost", retained_bytes=None)), ["replication slot"]),
        (followed(slot=replace(_SLOT, invalidation="wal_removed")), ["replication slot"]),
        (followed(slot=replace(_SLOT, retained_bytes=10_000)), ["replication slot"]),
        (replace(followed(), positions={0: 11, 1: 9}), ["topic drained"]),
        (replace(followed(), recomputed=replace(_LATER, target_checksum=1)), ["counts and checksums, recomputed"]),
        (replace(followed(), recomputed=replace(_LATER, differing=(0,))), ["counts and checksums, recomputed"]),
        (
            replace(followed(live=None), ends={}, recomputed=None, validation=None),
            ["topic drained", "validation clean", "counts and checksums, recomputed", "settled", "applied clock"],
        ),
    ],
)
def test_each_gate_of_live_changes_closes_for_its_reason(facts: GateFacts, closed: list[str]) -> None:
    assert _closed(facts) == closed


def test_what_changes_while_the_swap_is_prepared_is_judged_again() -> None:
    late = followed(now_ms=_NOW_MS + 8_000)
    assert [gate.name for gate in standing(late) if not gate.open] == ["seconds behind"]


def test_waived_rejects_are_named_and_close_nothing() -> None:
    # The topic's sums are without the waived: the receipts know nothing of that.
    facts = replace(_OPEN, waivers="3 waived by ada: test data", recomputed=Recomputation(9, 70, 9, 70, ()))
    assert _closed(facts) == []
    (gate,) = [gate for gate in gates(facts) if gate.name == "rejects empty"]
    assert gate.value == "0; 3 waived by ada: test data"
    assert _closed(replace(facts, rejects=1)) == ["rejects empty"]


def test_what_was_redriven_stands_in_no_receipt() -> None:
    assert _closed(replace(_OPEN, redriven=1, recomputed=Recomputation(11, 80, 11, 80, ()))) == []


def test_searches_are_a_gate_where_a_minimum_is_set() -> None:
    name = "searches find what they found"
    verdict = QueriesVerdict("now", "cities-1", "cities-2", 10, 3, 3, 0, 0.4, 0.5, 0.5, None, ())
    assert name not in [gate.name for gate in gates(replace(_OPEN, queries=verdict))]
    assert _closed(replace(_OPEN, queries=verdict, minimum="overlap@10 at least 0.5")) == [name]
    assert _closed(replace(_OPEN, queries=None, minimum="overlap@10 at least 0.5")) == [name]
    assert _closed(replace(_OPEN, queries=replace(verdict, overlap=0.5), minimum="overlap@10 at least 0.5")) == []
