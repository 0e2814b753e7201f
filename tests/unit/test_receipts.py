from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from hypothesis import assume, given
from hypothesis import strategies as st

from reshelve.model import Bound, Receipt, Segment
from reshelve.receipts import tile


def receipt(segment: int, low: Bound, high: Bound, rows: int = 1) -> Receipt:
    return Receipt(segment, low, high, rows, rows, 0, 0, rows * 10, rows, 7)


def pages(segment: Segment, cuts: Sequence[str]) -> list[Receipt]:
    edges: list[Bound] = [segment.low, *[(cut,) for cut in cuts], segment.high]
    return [receipt(segment.number, low, high) for low, high in pairwise(edges)]


_KEYS = st.lists(st.text(max_size=4), min_size=0, max_size=12, unique=True)


@st.composite
def tilings(draw: st.DrawFn) -> tuple[list[Segment], list[Receipt]]:
    """Segments, and receipts that tile them, in any order. Keys have no order of their own here."""
    cuts = draw(_KEYS)
    ends = sorted(draw(st.sets(st.integers(0, len(cuts) - 1), max_size=3))) if cuts else []
    segments, receipts = [], []
    low: Bound = None
    start = 0
    for number, end in enumerate([*ends, None]):
        high: Bound = None if end is None else (cuts[end],)
        segment = Segment(number, low, high)
        segments.append(segment)
        receipts += pages(segment, cuts[start:end])
        low, start = high, len(cuts) if end is None else end + 1
    return segments, draw(st.permutations(receipts))


@given(tilings())
def test_pages_laid_end_to_end_tile_in_whatever_order_they_come(case: tuple[list[Segment], list[Receipt]]) -> None:
    segments, receipts = case
    found = tile(segments, receipts)
    assert found.complete and found.segments_done == len(segments)
    assert (found.rows, found.documents, found.bytes) == (len(receipts), len(receipts), 10 * len(receipts))
    assert found.checksum == len(receipts)


@given(tilings(), st.data())
def test_a_gap_is_found(case: tuple[list[Segment], list[Receipt]], data: st.DataObject) -> None:
    segments, receipts = case
    lost = data.draw(st.sampled_from(receipts))
    found = tile(segments, [r for r in receipts if r is not lost])
    assert not found.complete
    assert (lost.segment, lost.low) in found.open


@given(tilings(), st.data())
def test_a_duplicate_is_found(case: tuple[list[Segment], list[Receipt]], data: st.DataObject) -> None:
    segments, receipts = case
    found = tile(segments, [*receipts, data.draw(st.sampled_from(receipts))])
    assert not found.complete and found.faults


@given(tilings(), st.data(), st.text(max_size=5))
def test_an_overlap_is_found(case: tuple[list[Segment], list[Receipt]], data: st.DataObject, inside: str) -> None:
    """A page that begins somewhere inside another, or that ends elsewhere than the next begins."""
    segments, receipts = case
    taken = data.draw(st.sampled_from(receipts))
    assume(all((inside,) not in (r.low, r.high) for r in receipts))
    assert tile(segments, [*receipts, replace(taken, low=(inside,))]).faults
    moved = [replace(taken, high=(inside,)) if r is taken else r for r in receipts]
    assert not tile(segments, moved).complete


@given(tilings())
def test_a_receipt_of_an_unknown_segment_is_found(case: tuple[list[Segment], list[Receipt]]) -> None:
    segments, receipts = case
    assert tile(segments, [*receipts, receipt(len(segments), None, None)]).faults


def test_receipts_in_a_circle_end_somewhere() -> None:
    circle = [receipt(0, None, ("a",)), receipt(0, ("a",), ("b",)), receipt(0, ("b",), ("a",))]
    found = tile([Segment(0, None, None)], circle)
    assert not found.complete


def test_nothing_read_covers_nothing() -> None:
    found = tile([Segment(0, None, ("5",)), Segment(1, ("5",), None)], [])
    assert found.open == ((0, None), (1, ("5",))) and found.segments_done == 0 and not found.faults
