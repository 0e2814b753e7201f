"""Completeness, proven: the copy is complete when the receipts tile every segment."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from reshelve.model import Bound, Receipt, Segment, add_checksums


@dataclass(frozen=True, slots=True)
class Tiling:
    """How far the receipts cover the segments of a plan.

    open         (segment, place up to which it is covered) of the segments that are not covered to their end
    faults       what should not be: overlaps, receipts of no segment, receipts that nothing leads up to
    """

    segments: int
    open: tuple[tuple[int, Bound], ...]
    faults: tuple[str, ...]
    rows: int
    documents: int
    left_out: int
    rejected: int
    bytes: int
    checksum: int

    @property
    def complete(self) -> bool:
        """Every segment covered from its low to its high bound, without gap or overlap."""
        return not self.open and not self.faults

    @property
    def segments_done(self) -> int:
        return self.segments - len(self.open)


def tile(segments: Sequence[Segment], receipts: Iterable[Receipt]) -> Tiling:
    """Lay the receipts end to end in each segment.

    Bounds are compared as text, never by order: a page begins exactly where the one before ended, or the
    proof fails, so no collation or type has to be understood here."""
    faults: list[str] = []
    by_low: dict[tuple[int, Bound], Receipt] = {}
    known = {segment.number for segment in segments}
    total: list[Receipt] = []
    for receipt in receipts:
        total.append(receipt)
        place = (receipt.segment, receipt.low)
        if receipt.segment not in known:
            faults.append(f"a receipt of segment {receipt.segment}, which the plan does not have")
        elif place in by_low:
            faults.append(f"segment {receipt.segment}: two receipts begin after {_show(receipt.low, 'the start')}")
        else:
            by_low[place] = receipt
    open_: list[tuple[int, Bound]] = []
    for segment in segments:
        end = _cover(segment, by_low)
        if end != (segment.high, True):
            open_.append((segment.number, end[0]))
    for (number, low), _ in sorted(by_low.items(), key=lambda item: item[0][0]):
        faults.append(f"segment {number}: the receipt after {_show(low, 'the start')} joins no other")
    return Tiling(
        segments=len(segments),
        open=tuple(open_),
        faults=tuple(faults),
        rows=sum(r.rows for r in total),
        documents=sum(r.documents for r in total),
        left_out=sum(r.left_out for r in total),
        rejected=sum(r.rejected for r in total),
        bytes=sum(r.bytes for r in total),
        checksum=add_checksums(r.checksum for r in total),
    )


def _cover(segment: Segment, by_low: dict[tuple[int, Bound], Receipt]) -> tuple[Bound, bool]:
    """Follow the receipts from the segment's low bound, taking them out of `by_low`; (place reached, at the end)."""
    place, done = segment.low, False
    while not done:
        receipt = by_low.pop((segment.number, place), None)
        if receipt is None:
            return place, False
        place = receipt.high
        done = place == segment.high
    return place, True


def _show(bound: Bound, open_end: str) -> str:
    return open_end if bound is None else "|".join(bound)
