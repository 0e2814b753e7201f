"""Counts and checksums once more, in one thread and without Faust: no cut-over on its word alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from reshelve.context import RunContext
from reshelve.model import add_checksums
from reshelve.validator.changed import ChangeLog
from reshelve.validator.compare import PartitionSums, add_sums, differing_buckets
from reshelve.validator.log import DocumentLog
from reshelve.validator.measure import measure_target, measure_topic
from reshelve.validator.target import open_point_in_time
from reshelve.validator.verdict import oldest_version


@dataclass(frozen=True, slots=True)
class Recomputation:
    """What topic and index hold. The checksums are Σ `document_checksum` mod 2**64.

    differing  partitions in which topic and index do not agree
    version    the lowest of the partitions' newest watermarks; None where a partition has none
    ends       offset up to which each partition of `documents` was read"""

    topic_documents: int
    topic_checksum: int
    target_documents: int
    target_checksum: int
    differing: tuple[int, ...]
    version: int | None = None
    ends: Mapping[int, int] = field(default_factory=dict)


def recompute(context: RunContext, report: Callable[[str], None] = lambda text: None) -> Recomputation:
    """Counts and checksums of topic and index, whatever the spec asks of the validators. Raises ReshelveError.

    The topic is read up to where it ended at the start; what is written and indexed meanwhile is a difference."""
    partitions = context.partitions
    report("recomputing counts and checksums for the cut-over's gates")
    ends = context.cluster.stable_ends(context.run.topic("documents"), partitions)
    target = _target_sums(context)
    logs = [
        DocumentLog(context.cluster, context.run.topic("documents"), p, partitions, ends[p]) for p in range(partitions)
    ]
    topic = [_topic_sums(context, log) for log in logs]
    return Recomputation(
        topic_documents=sum(sums.documents for sums in topic),
        topic_checksum=add_checksums(sums.checksum for sums in topic),
        target_documents=sum(sums.documents for sums in target),
        target_checksum=add_checksums(sums.checksum for sums in target),
        differing=tuple(
            number
            for number, (here, there) in enumerate(zip(topic, target, strict=True))
            if differing_buckets(here, there, counts=True, checksums=True)
        ),
        version=oldest_version(log.version for log in logs),
        ends=ends,
    )


def _target_sums(context: RunContext) -> list[PartitionSums]:
    """Of the index, for each partition of the topic."""
    point = open_point_in_time(context.opensearch, context.plan.index)
    try:
        slices = [measure_target(point, n, partitions=context.partitions, buckets=1) for n in range(point.slices)]
    finally:
        point.close()
    return [add_sums(parts) for parts in zip(*slices, strict=True)]


def _topic_sums(context: RunContext, log: DocumentLog) -> PartitionSums:
    changes = ChangeLog(context.cluster, context.run, log.partition, log.partitions)
    return measure_topic(log, changes.changed_keys(), partitions=log.partitions, buckets=1).sums
