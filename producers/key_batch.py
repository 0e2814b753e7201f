"""What a key reader works on at once, and what comes of it. Pure: a model test drives it through seeded schedules."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass, field

from reshelve.model import KeyTask, Watermark
from reshelve.producers.visibility import SnapshotIds


@dataclass(slots=True)
class KeyBatch:
    """Records of `changes`, in their order; repeated changes of a key are one.

    keys   to be read again
    xids   of the transactions that changed them
    marks  the newest watermark of each partition: what came before it in the partition is in this batch or was done
    """

    keys: dict[bytes, None] = field(default_factory=dict)
    xids: set[int] = field(default_factory=set)
    marks: dict[int, Watermark] = field(default_factory=dict)

    def add(self, partition: int, key: bytes, record: KeyTask | Watermark) -> None:
        if isinstance(record, Watermark):
            self.marks[partition] = record
        else:
            self.keys[key] = None
            self.xids.add(record.after_xid)

    def readable(self, ids: SnapshotIds) -> bool:
        """Whether a snapshot sees every transaction of the batch: the log runs ahead of visibility, and a key read
        too early would keep its old value for good."""
        return all(map(ids.sees, self.xids))


def vanished(asked: Iterable[bytes], found: Set[bytes]) -> list[bytes]:
    """The keys that the query does not return: they become tombstones. A row's own text of its key counts, which may
    be another than the asked one though the database calls them equal (1.0 and 1.00)."""
    return [key for key in asked if key not in found]
