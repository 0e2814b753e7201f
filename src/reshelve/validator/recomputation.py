"""Counts and checksums once more, in one thread and without Faust: no cut-over on its word alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from reshelve.context import RunContext
from reshelve.model import add_checksums, partition_of
from reshelve.validator.alignment import align, read_unsettled
from reshelve.validator.changed import ChangeLog
from reshelve.validator.compare import Drift, PartitionSums, Written, differing_buckets
from reshelve.validator.drift import judge_unsettled
from reshelve.validator.log import DocumentLog
from reshelve.validator.measure import measure_index, measure_topic
from reshelve.validator.target import PointInTime
from reshelve.validator.verdict import oldest_version
from reshelve.validator.waived import is_excused, read_waived, rejects_end


@dataclass(frozen=True, slots=True)
class Recomputation:
    """What topic and index hold, but for the unsettled and the waived keys.

    The checksums are Σ `document_checksum` mod 2**64.

    differing  partitions in which topic and index do not agree, unsettled keys included
    version    the lowest of the partitions' newest watermarks; None where a partition has none
    ends       offset up to which each partition of `documents` was read
    unsettled  keys with a record behind it: judged one by one
    """

    topic_documents: int
    topic_checksum: int
    target_documents: int
    target_checksum: int
    differing: tuple[int, ...]
    version: int | None = None
    ends: Mapping[int, int] = field(default_factory=dict)
    unsettled: int = 0


def recompute(context: RunContext, report: Callable[[str], None] = lambda text: None) -> Recomputation:
    """Counts and checksums of topic and index, whatever the spec asks of the validators, while both go on.

    Raises ReshelveError."""
    report("recomputing counts and checksums for the cut-over's gates")
    partitions = context.partitions
    aligned = align(context, report)
    try:
        waived = read_waived(context, rejects_end(context))
        behind = read_unsettled(context, aligned.settled, aligned.written)
        unsettled = {key: list[Written]() for key in waived} | behind
        target = measure_index(aligned.point, partitions, unsettled=unsettled.keys())
        measured = [
            _measure(context, aligned.point, p, aligned.settled[p], unsettled, waived) for p in range(partitions)
        ]
    finally:
        aligned.point.close()
    topic = [one.sums for one in measured]
    return Recomputation(
        topic_documents=sum(sums.documents for sums in topic),
        topic_checksum=add_checksums(sums.checksum for sums in topic),
        target_documents=sum(sums.documents for sums in target),
        target_checksum=add_checksums(sums.checksum for sums in target),
        differing=tuple(
            number
            for number, (here, there) in enumerate(zip(measured, target, strict=True))
            if here.drifted or differing_buckets(here.sums, there, counts=True, checksums=True)
        ),
        version=oldest_version(one.version for one in measured),
        ends=dict(enumerate(aligned.settled)),
        unsettled=len(behind),
    )


@dataclass(frozen=True, slots=True)
class _Measured:
    """A partition of the topic. drifted: unsettled keys that the index has otherwise than it may."""

    sums: PartitionSums
    drifted: int
    version: int | None


def _measure(
    context: RunContext,
    point: PointInTime,
    number: int,
    end: int,
    unsettled: Mapping[bytes, Sequence[Written]],
    waived: Collection[bytes],
) -> _Measured:
    partitions = context.partitions
    log = DocumentLog(context.cluster, context.run.topic("documents"), number, partitions, end)
    changed = ChangeLog(context.cluster, context.run, number, partitions).changed_keys()
    here = {key: records for key, records in unsettled.items() if partition_of(key, partitions) == number}
    topic = measure_topic(log, changed, partitions=partitions, buckets=1, unsettled=here.keys())
    drifted: list[tuple[bytes, Drift]] = []
    judge_unsettled(point, lambda key, drift, *_: drifted.append((key, drift)), lower=topic.lower, candidates=here)
    return _Measured(topic.sums, sum(not is_excused(key, drift, waived) for key, drift in drifted), log.version)
