from __future__ import annotations

from dataclasses import replace

import pytest

from reshelve.consumers.alias import Alias
from reshelve.cutover import GateFacts, gates, require_open
from reshelve.errors import GateClosed
from reshelve.receipts import Tiling
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


def test_every_closed_gate_is_named_with_value_threshold_and_remedy() -> None:
    facts = replace(_OPEN, rejects=3, found_uuid="U3")
    with pytest.raises(GateClosed) as caught:
        require_open(gates(facts))
    assert caught.value.where == "rejects empty, index unchanged"
    assert "rejects empty: 3 (needed: 0)" in caught.value.why
    assert "reshelve rejects" in caught.value.remedy and "new run" in caught.value.remedy
