"""What an indexer has under way, and what of it may be committed: decisions only, no I/O.

The rules, which make the order of bulk requests not matter and a kill at any moment harmless:

- of a batch's records with one key only the newest version is written; the others are superseded by it
- two batches with a key in common are never under way together
- batches leave in the order in which they came, each once all of it is durable: what may be committed is a
  contiguous prefix of every partition
- a watermark that lies in that prefix is the partition's applied clock, and is committed with the offset
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from reshelve.applied import Applied, newest
from reshelve.model import Watermark


class Versioned(Protocol):
    """A record to be written: a document or a tombstone."""

    @property
    def version(self) -> int: ...


T = TypeVar("T", bound=Versioned)


@dataclass(slots=True, eq=False)
class Batch(Generic[T]):
    """Records on their way.

    items       the newest version of each key
    superseded  records that a newer one of the batch replaced
    offsets     by partition, how far it is read once all of this is durable
    watermarks  by partition, the newest that lies before that offset
    """

    items: dict[bytes, T] = field(default_factory=dict)
    superseded: int = 0
    offsets: dict[int, int] = field(default_factory=dict)
    watermarks: dict[int, Watermark] = field(default_factory=dict)

    def add(self, key: bytes, item: T) -> None:
        """One more record, in the order of the topic. Two of one version have the same content.

        Sent both, an older one that has to be sent again might come after a newer delete, and OpenSearch forgets
        the versions of deletes."""
        known = self.items.get(key)
        if known is None:
            self.items[key] = item
            return
        self.superseded += 1
        if item.version > known.version:
            self.items[key] = item

    def mark(self, partition: int, watermark: Watermark) -> None:
        """A watermark, in the order of the topic."""
        known = self.watermarks.get(partition)
        if known is None or (watermark.version, watermark.at) > (known.version, known.at):
            self.watermarks[partition] = watermark


B = TypeVar("B", bound=Batch)  # type: ignore[type-arg]


@dataclass(frozen=True, slots=True)
class Place:
    """What is committed of a partition: the offset, and the applied clock there (None: no watermark yet)."""

    offset: int
    applied: Applied | None


class InFlight(Generic[B]):
    """The batches under way, oldest first, and the prefix that is done.

    room  batches that may be under way together
    """

    def __init__(self, room: int) -> None:
        self._room = room
        self._under_way: deque[B] = deque()
        self._done: dict[int, int] = {}
        self._passed: dict[int, Applied] = {}
        self._applied: dict[int, Applied | None] = {}

    def __len__(self) -> int:
        return len(self._under_way)

    @property
    def oldest(self) -> B:
        """The batch that leaves next."""
        return self._under_way[0]

    def may_submit(self, batch: B) -> bool:
        """Whether a batch may set out now; otherwise the oldest has to be finished first."""
        return len(self._under_way) < self._room and all(
            batch.items.keys().isdisjoint(other.items.keys()) for other in self._under_way
        )

    def submit(self, batch: B) -> None:
        """The batch sets out. Raises ValueError when it may not."""
        if not self.may_submit(batch):
            raise ValueError("no room, or a key of the batch is under way already")
        self._under_way.append(batch)

    def finish(self) -> B:
        """The oldest batch is durable, every record of it: it leaves, and joins the prefix."""
        batch = self._under_way.popleft()
        self._done |= batch.offsets
        for partition, mark in batch.watermarks.items():
            passed = newest((self._passed.get(partition), Applied(mark.version, mark.at)))
            assert passed is not None
            self._passed[partition] = passed
        return batch

    @property
    def uncommitted(self) -> bool:
        """Whether something of the prefix is still to be committed."""
        return bool(self._done)

    def unrecalled(self) -> list[int]:
        """Partitions to be committed whose committed applied clock has to be looked up first (`recall`): committed
        without it, the clock of the worker that had them before would be lost."""
        return [partition for partition in self._done if partition not in self._applied]

    def recall(self, partition: int, applied: Applied | None) -> None:
        """What was committed with the partition's offset before."""
        self._applied[partition] = applied

    def to_commit(self) -> dict[int, Place]:
        """The prefix, by partition; those that are not recalled are left out."""
        return {
            partition: Place(offset, newest((self._applied[partition], self._passed.get(partition))))
            for partition, offset in self._done.items()
            if partition in self._applied
        }

    def committed(self) -> None:
        """What `to_commit` said is committed."""
        for partition, place in self.to_commit().items():
            self._applied[partition] = place.applied
            self._passed.pop(partition, None)
            del self._done[partition]

    def forget(self, partitions: Iterable[int]) -> None:
        """These partitions are another worker's. Nothing of them is committed any more, nor what is under way: it
        would put the offset back behind that worker's, and one that is at the end already never commits again."""
        for partition in partitions:
            self._done.pop(partition, None)
            self._passed.pop(partition, None)
            self._applied.pop(partition, None)
            for batch in self._under_way:
                batch.offsets.pop(partition, None)
                batch.watermarks.pop(partition, None)

    def disown(self) -> None:
        """Give up what is done: the partitions were taken away before it was committed."""
        self._done.clear()
        self._passed.clear()
        self._applied.clear()
