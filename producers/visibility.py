"""What a snapshot of the source sees. Pure: PostgreSQL's own rule for `pg_snapshot`, without a round trip."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SnapshotIds:
    """A `pg_snapshot`, in 64-bit transaction ids.

    xmin  the lowest that was still running; all below have ended
    xmax  one past the highest that had ended
    xip   those between that were running
    """

    xmin: int
    xmax: int
    xip: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> SnapshotIds:
        """`xmin:xmax:xip,xip…`, as PostgreSQL writes it. Raises ValueError."""
        xmin, xmax, running = text.split(":")
        return cls(int(xmin), int(xmax), frozenset(map(int, running.split(","))) if running else frozenset())

    @property
    def clock(self) -> int:
        """How many transactions had ended, but for a constant: snapshots of one primary are totally ordered by it
        (docs/decisions/0002-snapshot-clock.md)."""
        return self.xmax - len(self.xip)

    def sees(self, xid: int) -> bool:
        """Whether the transaction, if it committed, is visible: `pg_visible_in_snapshot`."""
        return xid < self.xmin or (xid < self.xmax and xid not in self.xip)


def may_read(xmin: int, slot_xid: int) -> bool:
    """Whether pages may be read at a snapshot with that xmin.

    `slot_xid` was taken after the slot was made. A transaction that had committed before the slot's start, so that it
    is never decoded, but was not yet visible then, has a lower id: once xmin is past it, it is visible. All later ones
    are decoded."""
    return xmin > slot_xid
