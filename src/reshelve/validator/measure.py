"""Counts and checksums of one side: a partition of the topic, a slice of the index.

Both are streamed; what is kept is the sums and the samples, whatever the size.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Generic, TypeVar
from zlib import crc32

import xxhash
from confluent_kafka import Message

from reshelve.errors import BlockedError
from reshelve.kafka import KafkaCluster
from reshelve.model import add_checksums
from reshelve.schemas.codec import CodecError
from reshelve.schemas.envelope import VERSION_HEADER, EnvelopeReader
from reshelve.validator.compare import PartitionSums
from reshelve.validator.target import Check, PointInTime

_STEP: Final = 10_000  # records between two looks at `check`
T = TypeVar("T")


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


class Reservoir(Generic[T]):
    """A uniform sample of `size` out of a stream of unknown length, in one pass: Li's Algorithm L
    (https://doi.org/10.1145/198429.198435). `next` is the place in the stream, from 0, of the next item
    to `take`; all others are passed over at no cost. The same seed takes the same places."""

    def __init__(self, size: int, seed: str) -> None:
        self.items: list[T] = []
        self._size, self._random = size, random.Random(seed)
        self._weight = 1.0
        self.next = 0 if size else -1

    def take(self, item: T) -> None:
        if len(self.items) < self._size:
            self.items.append(item)
        else:
            self.items[self._random.randrange(self._size)] = item
        if len(self.items) < self._size:
            self.next += 1
            return
        # 1 - random(): in (0, 1], so that the logarithm exists.
        self._weight *= math.exp(math.log(1.0 - self._random.random()) / self._size)
        # Far along, the weight is so small that 1 - weight is 1: log1p still tells them apart.
        gap = math.log1p(-self._weight) if self._weight < 1.0 else -math.inf
        self.next += int(math.log(1.0 - self._random.random()) / gap) + 1


@dataclass(frozen=True, slots=True)
class Sample:
    """A document of the topic, chosen to be compared whole."""

    key: bytes
    version: int
    document: bytes


def records(
    cluster: KafkaCluster, topic: str, partition: int, partitions: int, check: Check
) -> Iterator[tuple[bytes, int, bytes | None]]:
    """(key, version, document) of every committed record of a partition; the document of a tombstone is None.

    Raises BlockedError when a record is not a document or lies in a partition that is not its key's, Unreachable."""
    reader = EnvelopeReader()
    for number, message in enumerate(cluster.read(topic, [partition], group=topic + ".validator")):
        if number % _STEP == 0:
            check()
        key, value = message.key(), message.value()
        if not isinstance(key, bytes) or crc32(key) % partitions != partition:
            raise _bad_record(message, "its key is not one of this partition")
        if value is None:
            yield key, _tombstone_version(message), None
            continue
        try:
            version, document = reader.open(value)
        except CodecError as error:
            raise _bad_record(message, str(error)) from error
        yield key, version, document


def _tombstone_version(message: Message) -> int:
    version = dict(message.headers() or {}).get(VERSION_HEADER)
    if version is not None:
        return int(version)
    raise _bad_record(message, "it is a tombstone without a version")


def _bad_record(message: Message, why: str) -> BlockedError:
    return BlockedError(
        "the topic can't be validated",
        where=f"{message.topic()}/{message.partition()} at offset {message.offset()}",
        why=why,
        remedy="find out who else writes to the run's topics, then start a new run",
    )


def measure_topic(
    cluster: KafkaCluster,
    topic: str,
    partition: int,
    *,
    partitions: int,
    buckets: int,
    samples: Reservoir[Sample] | None = None,
    check: Check = lambda: None,
) -> PartitionSums:
    """The sums of a partition of `documents` up to its last stable offset; `samples` fills on the way.

    Every record counts, so the sums are those of the documents only while each key stands in the topic
    once. It does: pages are disjoint key ranges, written once each. The coordinator proves it, by holding
    the count and the checksum against those of the receipts. A tombstone would need the key's other
    records: raises BlockedError (live changes are not followed yet)."""
    sums = Accumulator(partitions, buckets)
    add = sums.add
    sampler: Reservoir[Sample] = Reservoir(0, "") if samples is None else samples
    for seen, (key, version, document) in enumerate(records(cluster, topic, partition, partitions, check)):
        if document is None:
            raise BlockedError(
                "the topic can't be validated",
                where=f"{topic}/{partition}",
                why="it holds tombstones, and this release follows no live changes",
                remedy="start a new run",
            )
        add(key, version)
        if seen == sampler.next:
            sampler.take(Sample(key, version, document))
    return sums.partition(partition)


def measure_target(
    point: PointInTime, number: int, *, partitions: int, buckets: int, check: Check = lambda: None
) -> list[PartitionSums]:
    """The sums of slice `number` of the index, for each partition of the topic. Raises as `PointInTime.scan` does."""
    sums = Accumulator(partitions, buckets)
    add = sums.add
    for hits in point.scan(number, check):
        for hit in hits:
            add(hit["_id"].encode(), hit["_version"])
    return [sums.partition(p) for p in range(partitions)]
