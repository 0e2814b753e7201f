"""Counts and checksums once more, in one thread and without Faust: no cut-over on its word alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from reshelve.context import RunContext
from reshelve.model import add_checksums
from reshelve.validator.compare import add_sums, differing_buckets
from reshelve.validator.measure import measure_target, measure_topic
from reshelve.validator.target import open_point_in_time


@dataclass(frozen=True, slots=True)
class Recomputation:
    """What topic and index hold. The checksums are Σ `document_checksum` mod 2**64.

    differing  partitions in which topic and index do not agree"""

    topic_documents: int
    topic_checksum: int
    target_documents: int
    target_checksum: int
    differing: tuple[int, ...]


def recompute(context: RunContext, report: Callable[[str], None] = lambda text: None) -> Recomputation:
    """Counts and checksums of topic and index, whatever the spec asks of the validators. Raises ReshelveError."""
    partitions, topic_name = context.partitions, context.run.topic("documents")
    report("recomputing counts and checksums for the cut-over's gates")
    point = open_point_in_time(context.opensearch, context.plan.index)
    try:
        slices = [measure_target(point, n, partitions=partitions, buckets=1) for n in range(point.slices)]
    finally:
        point.close()
    target = [add_sums(parts) for parts in zip(*slices, strict=True)]
    topic = [measure_topic(context.cluster, topic_name, p, partitions=partitions, buckets=1) for p in range(partitions)]
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
    )
