"""Counts and checksums of one side: a partition of the topic, a slice of the index.

Both are streamed; what is kept is the sums and the samples, whatever the size, and of changed keys a
temporary table.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final
from zlib import crc32

import xxhash

from reshelve.errors import BlockedError
from reshelve.model import add_checksums
from reshelve.validator.changed import ChangedKeys
from reshelve.validator.compare import PartitionSums, Written, add_sums
from reshelve.validator.log import LogRecord
from reshelve.validator.newest import NewestVersions, scratch
from reshelve.validator.target import Check, PointInTime

_RANKS: Final = 1 << 64


class Accumulator:
    """Sums of keys and versions by partition and bucket.

    partition = crc32(key) % partitions (as `model.partition_of`), bucket = crc32(key) // partitions % buckets."""

    def __init__(self, partitions: int, buckets: int) -> None:
        self.partitions, self.buckets = partitions, buckets
        self.counts = [0] * (partitions * buckets)
        self.checksums = [0] * (partitions * buckets)

    def add(self, key: bytes, version: int) -> int:
        """Returns the partition of `key`."""
        rest, partition = divmod(crc32(key), self.partitions)
        slot = partition * self.buckets + rest % self.buckets
        self.counts[slot] += 1
        self.checksums[slot] += xxhash.xxh3_64_intdigest(key, version)
        return partition

    def partition(self, number: int) -> PartitionSums:
        part = slice(number * self.buckets, (number + 1) * self.buckets)
        return PartitionSums(tuple(self.counts[part]), tuple(add_checksums([c]) for c in self.checksums[part]))


def bucket_of(key: bytes, partitions: int, buckets: int) -> tuple[int, int]:
    """(partition, bucket) of a key."""
    rest, partition = divmod(crc32(key), partitions)
    return partition, rest % buckets


@dataclass(frozen=True, slots=True)
class Sample:
    """A key of the topic, chosen to be compared whole, with its newest record: None is a tombstone."""

    key: bytes
    version: int
    document: bytes | None


class KeySample:
    """A uniform sample of `size` keys out of a stream in which keys repeat, each with its newest record.

    It keeps the keys with the smallest hashes, a bottom-k sample (https://doi.org/10.1145/1281100.1281133): how often
    a key comes does not matter, and one that was passed over need never be taken up again. The same seed takes the
    same keys."""

    def __init__(self, size: int, seed: str) -> None:
        self._size, self._seed = size, xxhash.xxh3_64_intdigest(seed.encode())
        self._ranks: list[tuple[int, bytes]] = []  # a heap, of the ranks negated: its first is the highest
        self._newest: dict[bytes, Sample] = {}
        self._limit = _RANKS if size else -1

    def offer(self, key: bytes, version: int, document: bytes | None) -> None:
        rank = xxhash.xxh3_64_intdigest(key, self._seed)
        if rank > self._limit:
            return
        known = self._newest.get(key)
        if known is not None:
            if version > known.version:
                self._newest[key] = Sample(key, version, document)
            return
        self._newest[key] = Sample(key, version, document)
        heapq.heappush(self._ranks, (-rank, key))
        if len(self._ranks) > self._size:
            del self._newest[heapq.heappop(self._ranks)[1]]
        if len(self._ranks) == self._size:
            self._limit = -self._ranks[0][0]

    @property
    def items(self) -> list[Sample]:
        return list(self._newest.values())


@dataclass(frozen=True, slots=True)
class TopicMeasure:
    """The sums of the documents of a partition, each key at its newest version.

    page_records     documents of keys that were never changed: each was written with a page
    changed_records  documents (no tombstones) among the records of all other keys: of a page or of a change
    lower            of the unsettled keys, which are not in the sums, the newest record there is; none: not in it"""

    sums: PartitionSums
    page_records: int
    changed_records: int
    lower: Mapping[bytes, Written]


def measure_topic(
    log: Iterable[LogRecord],
    changed: ChangedKeys | None,
    *,
    partitions: int,
    buckets: int,
    unsettled: Collection[bytes] = frozenset(),
    samples: KeySample | None = None,
) -> TopicMeasure:
    """Read a partition of `documents`; `samples` fills on the way.

    changed    the keys named in `changes` up to a moment after the log's end was looked up; None: no key
    unsettled  keys with a record behind the log's end: they don't count

    The record of a key that was never changed is its only one: pages are disjoint key ranges, written once each. It
    goes straight into the sums. The others' newest versions are found out in a temporary table and added at the end.
    That no other key stands in the topic twice is proven by the index, which counts it once, and by the receipts.
    Raises BlockedError for a tombstone of a key that was never changed, and as the log does."""
    counts, checksums = [0] * buckets, [0] * buckets
    digest = xxhash.xxh3_64_intdigest

    def add(key: bytes, rest: int, version: int) -> None:
        counts[rest % buckets] += 1
        checksums[rest % buckets] += digest(key, version)

    changed_records = 0
    lower: dict[bytes, Written] = {}
    with scratch() as connection:
        newest = NewestVersions(connection)
        for key, rest, version, document in log:
            if key in unsettled:
                if key not in lower or version > lower[key].version:
                    lower[key] = Written(version, document is None)
                changed_records += document is not None
            elif changed is not None and rest in changed:
                newest.put(key, version, document is None)
                changed_records += document is not None
            elif document is None:
                raise _unexplained(key)
            else:
                add(key, rest, version)
            if samples is not None:
                samples.offer(key, version, document)
        page_records = sum(counts)
        for key, version in newest.present():
            add(key, crc32(key) // partitions, version)
    sums = PartitionSums(tuple(counts), tuple(add_checksums([one]) for one in checksums))
    return TopicMeasure(sums, page_records, changed_records, lower)


def _unexplained(key: bytes) -> BlockedError:
    return BlockedError(
        "the topic can't be validated",
        where=f"key {key.decode('utf-8', 'replace')}",
        why="it has a tombstone, and no key task of `changes` names it",
        remedy="find out who else writes to the run's topics, then start a new run",
    )


def measure_target(
    point: PointInTime,
    number: int,
    *,
    partitions: int,
    buckets: int,
    unsettled: Collection[bytes] = frozenset(),
    check: Check = lambda: None,
) -> list[PartitionSums]:
    """The sums of slice `number` of the index, for each partition of the topic, without the unsettled keys.

    Raises as `PointInTime.scan` does."""
    sums = Accumulator(partitions, buckets)
    add = sums.add
    for hits in point.scan(number, check):
        for hit in hits:
            key = hit["_id"].encode()
            if key not in unsettled:
                add(key, hit["_version"])
    return [sums.partition(p) for p in range(partitions)]


def measure_index(
    point: PointInTime,
    partitions: int,
    *,
    unsettled: Collection[bytes] = frozenset(),
    check: Check = lambda: None,
) -> list[PartitionSums]:
    """The sums of all its slices, one after the other. Raises as `PointInTime.scan` does."""
    slices = [
        measure_target(point, number, partitions=partitions, buckets=1, unsettled=unsettled, check=check)
        for number in range(point.slices)
    ]
    return [add_sums(parts) for parts in zip(*slices, strict=True)]
