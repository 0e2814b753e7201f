"""Drift of single keys, topic against index: behind sums that do not agree, and of keys that are in no sum.

Of the first, only the keys of the differing buckets are looked at. They go to a temporary SQLite database, so that an
index that differs in every document fills a disk's corner, not memory, and the counts stay exact.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, TypeAlias

from reshelve.validator.compare import Drift, Written, classify, expected_version, judge
from reshelve.validator.log import DocumentLog
from reshelve.validator.measure import bucket_of
from reshelve.validator.newest import scratch
from reshelve.validator.target import Check, PointInTime

_BATCH: Final = 1_000  # keys asked for at once

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


Add: TypeAlias = Callable[[bytes, Drift, int | None, int | None], None]
"""Takes a drifted key: its class, the version that should be there and the one that is, None for none."""


def list_drift(
    log: DocumentLog,
    point: PointInTime,
    add: Add,
    *,
    buckets: int,
    differing: frozenset[int],
    unsettled: Collection[bytes] = frozenset(),
) -> None:
    """Compare topic and index key by key in the differing buckets of a partition, but for the unsettled keys. Of a key
    that stands in the topic several times, the highest version counts. `add` gets them in the order of their keys.

    Raises as `DocumentLog` and `PointInTime.scan` do."""

    def wanted(key: bytes) -> bool:
        place, bucket = bucket_of(key, log.partitions, buckets)
        return place == log.partition and bucket in differing and key not in unsettled

    with scratch() as sides:
        sides.execute(_TABLE)
        sides.executemany(
            _TOPIC,
            (
                (key, version, document is None)
                for key, rest, version, document in log
                if rest % buckets in differing and key not in unsettled
            ),
        )
        for number in range(point.slices):
            for hits in point.scan(number, log.check):
                keys = ((hit["_id"].encode(), hit["_version"]) for hit in hits)
                sides.executemany(_TARGET, (pair for pair in keys if wanted(pair[0])))
        for key, topic_version, target_version in sides.execute(_DIFFERENT):
            drift = classify(topic_version, target_version)
            if drift is not None:
                add(key, drift, topic_version, target_version)


def judge_unsettled(
    point: PointInTime,
    add: Add,
    *,
    lower: Mapping[bytes, Written],
    candidates: Mapping[bytes, Sequence[Written]],
    check: Check = lambda: None,
) -> None:
    """Judge the keys of `candidates`, each by itself, by what the point in time has of them. `lower`: as
    `measure_topic` tells it. Raises as `PointInTime.versions` does."""
    unsettled = sorted(candidates)
    for start in range(0, len(unsettled), _BATCH):
        check()
        keys = unsettled[start : start + _BATCH]
        found = point.versions(keys)
        for key in keys:
            drift = judge(lower.get(key), candidates[key], found.get(key))
            if drift is not None:
                add(key, drift, expected_version(lower.get(key), candidates[key]), found.get(key))
