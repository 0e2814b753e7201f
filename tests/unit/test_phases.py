"""Which page tasks may be written: those of the phases whose predecessors the receipts tile."""

from __future__ import annotations

from reshelve.model import PhasePlan
from reshelve.phases import is_copied, may_begin

A = PhasePlan("a", None, ("5",), (), 0, 1, 10)
B = PhasePlan("b", ("5",), ("9",), ("a",), 2, 2, 10)
C = PhasePlan("c", ("9",), None, (), 3, 4, 10)
D = PhasePlan("d", ("20",), None, ("b", "c"), 5, 5, 10)
ALL = {0, 1, 2, 3, 4, 5}


def names(open_segments: set[int]) -> list[str]:
    return [phase.name for phase in may_begin((A, B, C, D), open_segments)]


def test_at_first_those_that_need_none() -> None:
    assert names(ALL) == ["a", "c"]


def test_a_phase_begins_when_all_of_the_one_before_is_copied() -> None:
    assert names(ALL - {0}) == ["a", "c"]
    assert names(ALL - {0, 1}) == ["a", "b", "c"]
    assert names(ALL - {0, 1, 2}) == ["a", "b", "c"]
    assert names(ALL - {0, 1, 2, 3, 4}) == ["a", "b", "c", "d"]


def test_copied_means_every_segment() -> None:
    assert not is_copied(C, {4})
    assert is_copied(C, {0, 1, 2, 5})
