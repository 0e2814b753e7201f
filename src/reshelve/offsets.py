"""How far the workers of a run are, by the offsets that they have committed: no worker has to be asked, or alive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from reshelve.applied import Applied
from reshelve.kafka import KafkaCluster
from reshelve.model import RunId


@dataclass(frozen=True, slots=True)
class Offsets:
    """Offsets by partition.

    committed, ends             of `documents`: what the indexers have durably passed, and how far it is written
    applied                     applied clock; empty when changes are not followed, as are the next
    key_positions, change_ends  the same as the first two, of the key readers and `changes`
    """

    committed: Mapping[int, int] = field(default_factory=dict)
    ends: Mapping[int, int] = field(default_factory=dict)
    applied: Mapping[int, Applied | None] = field(default_factory=dict)
    key_positions: Mapping[int, int] = field(default_factory=dict)
    change_ends: Mapping[int, int] = field(default_factory=dict)


def read_offsets(cluster: KafkaCluster, run: RunId, partitions: int, *, followed: bool, timeout: float) -> Offsets:
    """Ends first: what is committed at them was passed after they were read. Raises ReshelveError."""
    documents, changes = run.topic("documents"), run.topic("changes")
    ends = cluster.written_ends(documents, partitions, timeout=timeout)
    places = cluster.committed_places(run.group("indexer"), documents, partitions, timeout=timeout)
    committed = {p: place.offset or 0 for p, place in places.items()}
    if not followed:
        return Offsets(committed, ends)
    change_ends = cluster.written_ends(changes, partitions, timeout=timeout)
    passed = cluster.committed(run.group("keys"), changes, partitions, timeout=timeout)
    return Offsets(
        committed,
        ends,
        {p: Applied.decode(place.metadata) for p, place in places.items()},
        {p: offset or 0 for p, offset in passed.items()},
        change_ends,
    )


def lacking(positions: Mapping[int, int], ends: Mapping[int, int]) -> int:
    """Offsets that positions lack to their ends, over all partitions; transaction markers count too."""
    return sum(max(0, end - positions.get(p, 0)) for p, end in ends.items())
