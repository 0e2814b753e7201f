"""A replay: stretches of `documents` that are indexed once more. What is read of them; decisions only, no I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias, TypeVar

from confluent_kafka import KafkaError

from reshelve.errors import BlockedError, UsageError

Wants: TypeAlias = Callable[[bytes, bytes | None], bool]
"""Whether a record, by its key and value, is to be indexed."""


@dataclass(frozen=True)
class Stretch:
    """What one indexer works off, and then ends.

    group   keeps the offsets; nobody ever joins it
    starts  by partition, the offset that is read first
    ends    by the same partitions, the offset that is not read any more
    wants   None: every record
    """

    group: str
    starts: Mapping[int, int]
    ends: Mapping[int, int]
    wants: Wants | None = None


class Placed(Protocol):
    """A record of Kafka's, or an error that it came with in place of one."""

    def partition(self) -> int | None: ...
    def offset(self) -> int | None: ...
    def error(self) -> KafkaError | None: ...


M = TypeVar("M", bound=Placed)


class Remainder:
    """The partitions of a stretch that have not been read to their end."""

    def __init__(self, stretch: Stretch) -> None:
        self._ends = {p: end for p, end in stretch.ends.items() if stretch.starts[p] < end}

    def __bool__(self) -> bool:
        return bool(self._ends)

    def cut(self, messages: Iterable[M]) -> tuple[list[M], dict[int, int]]:
        """What of the messages lies before the ends, and the ends that are reached with them, by partition.

        That one is reached is known by what stands at it or behind: the last record before it may be gone, or may be
        the marker of a transaction. At the end of a partition that is the error that says so."""
        kept: list[M] = []
        reached: dict[int, int] = {}
        for message in messages:
            error, partition, offset = message.error(), message.partition(), message.offset()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                kept.append(message)
                continue
            assert partition is not None and offset is not None
            end = self._ends.get(partition)
            if end is None:
                continue
            if offset >= end:
                reached[partition] = self._ends.pop(partition)
                continue
            kept.append(message)
            if offset == end - 1 and error is None:
                reached[partition] = self._ends.pop(partition)
        return kept, reached


@dataclass(frozen=True, slots=True)
class Start:
    """Where a replay begins: at offsets (other partitions are left out), at a time (milliseconds since 1970 UTC), or,
    with neither, at the beginning."""

    offsets: tuple[tuple[int, int], ...] = ()
    at: int | None = None

    @property
    def is_beginning(self) -> bool:
        return not self.offsets and self.at is None


@dataclass(frozen=True, slots=True)
class Extent:
    """Of a topic, by partition: the first offset that it still has, and its end."""

    begins: Mapping[int, int]
    ends: Mapping[int, int]


def places(topic: str, start: Start, extent: Extent, since: Mapping[int, int], needed: Iterable[int]) -> dict[int, int]:
    """The offset at which each partition is begun; those that have nothing for the replay are left out.

    since   by partition, the first offset at or after the start's time; negative: none is
    needed  the partitions that hold what is asked for
    Raises UsageError for an offset that is none, BlockedError for one that the topic has no more."""
    if start.is_beginning:
        found = dict.fromkeys(extent.ends, 0)
    elif start.at is not None:
        found = {p: since[p] if since[p] >= 0 else end for p, end in extent.ends.items()}
    else:
        found = dict(start.offsets)
        for partition, offset in start.offsets:
            if partition not in extent.ends or not 0 <= offset <= extent.ends[partition]:
                raise _no_offset(topic, partition, offset, extent)
    wanted = {p: found[p] for p in sorted(set(needed) & found.keys())}
    for partition, offset in wanted.items():
        if offset < extent.begins[partition]:
            raise _gone(topic, partition, extent.begins[partition])
    return {p: offset for p, offset in wanted.items() if offset < extent.ends[p]}


def _no_offset(topic: str, partition: int, offset: int, extent: Extent) -> UsageError:
    if partition not in extent.ends:
        why = f"it has the partitions 0 to {len(extent.ends) - 1}"
    else:
        why = f"partition {partition} goes from {extent.begins[partition]} to {extent.ends[partition]}"
    return UsageError(
        f"topic {topic} has no offset {partition}:{offset}", why=why, remedy="name one that it has with --from-offset"
    )


def _gone(topic: str, partition: int, begin: int) -> BlockedError:
    return BlockedError(
        "the topic does not hold all that is to be replayed",
        where=f"{topic}/{partition}",
        why=f"the records before offset {begin} are gone: its retention or somebody deleted them (compaction leaves "
        "where a topic begins as it was)",
        remedy="what is still there can be applied to the run's own index with --from-offset or --from-time; "
        "to make an index of everything, start a new run",
    )


def only(keys: frozenset[bytes] | None) -> Wants | None:
    """Records of these keys; of every key when there are none named."""
    return None if keys is None else lambda key, _value: key in keys


def deletes(keys: frozenset[bytes] | None) -> Wants:
    """Tombstones of these keys, or of every key."""
    return lambda key, value: value is None and (keys is None or key in keys)
