"""Whether an index holds just what the topic says: counts and checksums of both, by partition."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from reshelve.context import RunContext
from reshelve.model import add_checksums
from reshelve.validator.changed import ChangeLog
from reshelve.validator.compare import PartitionSums
from reshelve.validator.log import DocumentLog
from reshelve.validator.measure import measure_index, measure_topic
from reshelve.validator.target import open_point_in_time


@dataclass(frozen=True, slots=True)
class TopicProof:
    """Documents: keys whose newest record below the ends is one. Checksums: Σ `document_checksum` mod 2**64.

    differing  partitions in which topic and index do not agree
    """

    topic_documents: int
    topic_checksum: int
    index_documents: int
    index_checksum: int
    differing: tuple[int, ...]

    @property
    def equal(self) -> bool:
        return not self.differing

    def summary(self) -> str:
        text = f"the topic has {self.topic_documents:,} documents, the index {self.index_documents:,}"
        if self.equal:
            return text
        return f"{text}; counts or checksums differ in partitions {', '.join(map(str, self.differing))}"

    def as_dict(self) -> dict[str, Any]:
        return {
            "equal": self.equal,
            "topic_documents": self.topic_documents,
            "topic_checksum": f"{self.topic_checksum:016x}",
            "index_documents": self.index_documents,
            "index_checksum": f"{self.index_checksum:016x}",
            "differing": list(self.differing),
        }


def prove(
    context: RunContext,
    index: str,
    ends: Mapping[int, int],
    keys: frozenset[bytes] | None,
    check: Callable[[], None],
) -> TopicProof:
    """Compare the index with the topic below `ends`: partitions without an end are taken for empty.

    keys   the documents that were asked for; None: all
    check  called now and then; what it raises ends the proof
    Raises ReshelveError when either side can't be read."""
    empty = PartitionSums((0,), (0,))
    topic = [
        _topic_sums(context, partition, ends[partition], keys, check) if partition in ends else empty
        for partition in range(context.partitions)
    ]
    point = open_point_in_time(context.opensearch, index)
    try:
        found = measure_index(point, context.partitions, check=check)
    finally:
        point.close()
    return TopicProof(
        sum(sums.documents for sums in topic),
        add_checksums(sums.checksum for sums in topic),
        sum(sums.documents for sums in found),
        add_checksums(sums.checksum for sums in found),
        tuple(number for number, (here, there) in enumerate(zip(topic, found, strict=True)) if here != there),
    )


def _topic_sums(
    context: RunContext, partition: int, end: int, keys: frozenset[bytes] | None, check: Callable[[], None]
) -> PartitionSums:
    partitions, topic = context.partitions, context.run.topic("documents")
    log = DocumentLog(context.cluster, topic, partition, partitions, end, check)
    changed = ChangeLog(context.cluster, context.run, partition, partitions, check).changed_keys()
    records = log if keys is None else (record for record in log if record[0] in keys)
    return measure_topic(records, changed, partitions=partitions, buckets=1).sums
