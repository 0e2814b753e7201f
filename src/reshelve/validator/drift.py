"""The keys behind a difference, one by one, where the sums of topic and index do not agree.

Only the keys of the differing buckets are looked at. They go to a temporary SQLite database, so that an
index that differs in every document fills a disk's corner, not memory, and the counts stay exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from reshelve.validator.compare import Drift, classify
from reshelve.validator.log import DocumentLog
from reshelve.validator.measure import bucket_of
from reshelve.validator.newest import scratch
from reshelve.validator.target import PointInTime

LISTED: Final = 1_000
_LISTED_BYTES: Final = 300_000  # of keys: a result must fit a record of 1 MB

_TABLE: Final = "create table side (key blob primary key, topic integer, target integer, gone integer) without rowid"
_TOPIC: Final = """
insert into side (key, topic, gone) values (?, ?, ?)
on conflict (key) do update set topic = excluded.topic, gone = excluded.gone where excluded.topic > topic"""
_TARGET: Final = """
insert into side (key, target) values (?, ?)
on conflict (key) do update set target = excluded.target"""
# A key whose newest record is a tombstone is not there.
_DIFFERENT: Final = """
select key, topic, target from (select key, case when gone then null else topic end as topic, target from side)
 where topic is not target order by key"""


@dataclass(frozen=True, slots=True)
class DriftedKeys:
    """counts is exact; listed holds the first in the order of their keys, `LISTED` at most."""

    counts: dict[Drift, int]
    listed: tuple[tuple[str, Drift], ...]


def list_drift(log: DocumentLog, point: PointInTime, *, buckets: int, differing: frozenset[int]) -> DriftedKeys:
    """Compare topic and index key by key in the differing buckets of a partition. Of a key that stands in the topic
    several times, the highest version counts.

    Raises as `DocumentLog` and `PointInTime.scan` do."""

    def wanted(key: bytes) -> bool:
        place, bucket = bucket_of(key, log.partitions, buckets)
        return place == log.partition and bucket in differing

    with scratch() as sides:
        sides.execute(_TABLE)
        sides.executemany(
            _TOPIC,
            ((key, version, document is None) for key, rest, version, document in log if rest % buckets in differing),
        )
        for number in range(point.slices):
            for hits in point.scan(number, log.check):
                keys = ((hit["_id"].encode(), hit["_version"]) for hit in hits)
                sides.executemany(_TARGET, (pair for pair in keys if wanted(pair[0])))
        return _collect(sides.execute(_DIFFERENT), classify)


def _collect(
    rows: Iterator[tuple[bytes, int | None, int | None]], judge: Callable[[int | None, int | None], Drift | None]
) -> DriftedKeys:
    counts: dict[Drift, int] = {}
    listed: list[tuple[str, Drift]] = []
    room = _LISTED_BYTES
    for key, topic_version, target_version in rows:
        drift = judge(topic_version, target_version)
        if drift is None:
            continue
        counts[drift] = counts.get(drift, 0) + 1
        room -= len(key)
        if len(listed) < LISTED and room >= 0:
            listed.append((key.decode("utf-8", "replace"), drift))
    return DriftedKeys(counts, tuple(listed))
