"""Whole documents that differ, source against index, while both go on: which of them a change under way explains.

A key is read from the source at a snapshot of version V, then from the index. What it had been changed by, up to V, is

    in `changes`    as a key task that no key reader has done: it is *pending*
    in `documents`  as a record that no indexer has done: the key is *unsettled*
    in the index

and nowhere else. What changed it after V, and is in the index already, was written to `documents` after `Places` was
taken, so it makes the key unsettled, too. A difference of any other key is there to stay, until somebody repairs it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from reshelve.context import RunContext
from reshelve.model import partition_of
from reshelve.validator.changed import ChangeLog
from reshelve.validator.log import read_between
from reshelve.validator.target import Check


@dataclass(frozen=True, slots=True)
class Places:
    """By partition: what the indexers have committed of `documents`, and the key readers of `changes`.

    To be taken before the source is read (and so before the index is)."""

    indexed: Mapping[int, int]
    read: Mapping[int, int]


@dataclass(frozen=True)
class Excuses:
    """To be used in this order, for each batch of keys anew:

    1. `now`
    2. read the keys from the source at one snapshot, then from the index (in real time, not at a point in time)
    3. `excused` for those that differ

    live  changes are followed: a watermark of any clock comes sooner or later
    """

    context: RunContext
    live: bool
    check: Check = lambda: None

    def now(self) -> Places:
        """Raises ReshelveError."""
        cluster, run, partitions = self.context.cluster, self.context.run, self.context.partitions
        indexed = cluster.committed(run.group("indexer"), run.topic("documents"), partitions)
        read = cluster.committed(run.group("keys"), run.topic("changes"), partitions)
        return Places({p: o or 0 for p, o in indexed.items()}, {p: o or 0 for p, o in read.items()})

    def excused(self, places: Places, keys: Collection[bytes], version: int) -> frozenset[bytes]:
        """Which of these keys a change under way explains; to be read again, or not judged. Of the others the
        difference is definite. `version`: of the snapshot at which the source was read, or of the latest of several.

        Costs a reading of what the indexers and key readers have before them, and waits until a watermark of
        `version` has come. Raises ReshelveError, Unreachable when it does not come."""
        wanted = self._by_partition(keys)
        found = self._unsettled(places, keys, wanted)
        for partition, asked in wanted.items():
            if left := frozenset(asked) - found:
                found |= self._pending(places, partition, left, version)
        return frozenset(found)

    def _by_partition(self, keys: Collection[bytes]) -> dict[int, list[bytes]]:
        found: dict[int, list[bytes]] = {}
        for key in keys:
            found.setdefault(partition_of(key, self.context.partitions), []).append(key)
        return found

    def _unsettled(self, places: Places, keys: Collection[bytes], partitions: Collection[int]) -> set[bytes]:
        """Up to an end that is looked up after the index was read."""
        cluster, topic, among = self.context.cluster, self.context.run.topic("documents"), frozenset(keys)
        ends = cluster.written_ends(topic, self.context.partitions)
        starts = {p: places.indexed[p] for p in partitions}
        records = read_between(cluster, topic, starts, ends, self.context.partitions, self.check)
        return {key for key, *_ in records if key in among}

    def _pending(self, places: Places, partition: int, keys: frozenset[bytes], version: int) -> frozenset[bytes]:
        changes = ChangeLog(self.context.cluster, self.context.run, partition, self.context.partitions, self.check)
        return changes.pending(keys, places.read[partition], version if self.live else None)
