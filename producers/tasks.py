"""The first page task of every segment."""

from __future__ import annotations

from collections.abc import Sequence

from confluent_kafka import KafkaException

from reshelve.kafka import KafkaCluster, refusal
from reshelve.model import PageTask, RunId, Segment
from reshelve.schemas.codec import encode_page_task

_TIMEOUT_S = 10.0


def seed_pages(cluster: KafkaCluster, run: RunId, segments: Sequence[Segment], partitions: int) -> None:
    """Write the first task of every segment, once: a topic that holds tasks already is left as it is.

    All tasks go into one transaction, so a topic holds all of them or none. Segment n goes to partition
    n mod `partitions`, where its successors stay. Raises ReshelveError."""
    topic = run.topic("pages")
    producer = cluster.producer({"transactional.id": run.prefix + "seed", "transaction.timeout.ms": 10_000})
    try:
        producer.init_transactions(_TIMEOUT_S)  # also ends what a dead predecessor left open
        # A record, not an offset: the markers of an aborted transaction occupy offsets too.
        if any(True for _ in cluster.read(topic, range(partitions))):
            return
        producer.begin_transaction()
        for segment in segments:
            task = PageTask(segment.number, segment.low, segment.high)
            producer.produce(
                topic, encode_page_task(task), key=str(segment.number), partition=segment.number % partitions
            )
        producer.commit_transaction(_TIMEOUT_S)
    except KafkaException as error:
        raise refusal(error, f"cannot write the page tasks to {topic}", cluster.bootstrap) from None
