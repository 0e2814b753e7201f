"""The first page task of each segment."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from confluent_kafka import KafkaException

from reshelve.errors import AccessRefused, Unreachable
from reshelve.kafka import FENCED, KafkaCluster, kafka_error, refusal
from reshelve.kafka_errors import bounded
from reshelve.model import PageTask, RunId, Segment
from reshelve.schemas.codec import encode_page_task

_TIMEOUT_S: Final = 10.0
_RETRY_S: Final = 1.0


def seed_pages(
    cluster: KafkaCluster,
    run: RunId,
    segments: Sequence[Segment],
    partitions: int,
    waiting: Callable[[str], None] = lambda why: None,
) -> None:
    """Write the first task of each of the segments, unless the topic holds a task of it already.

    All go into one transaction, so the topic holds all of them or none. Segment n goes to partition
    n mod `partitions`, where its successors stay. While the brokers are away `waiting` is told why; it ends the
    wait by raising. Raises ReshelveError."""
    while True:
        try:
            _seed(cluster, run, segments, partitions)
            return
        except KafkaException as error:
            inner = kafka_error(error)
            refused = refusal(error, f"cannot write the page tasks to {run.topic('pages')}", cluster.bootstrap)
            # Brokers that were away for longer than the transaction's timeout have fenced or aborted it.
            outlived = inner.code() in FENCED or inner.txn_requires_abort()
            if isinstance(refused, AccessRefused) or not (isinstance(refused, Unreachable) or outlived):
                raise refused from None
        except Unreachable as error:
            refused = error
        waiting(str(refused))
        time.sleep(_RETRY_S)  # whether the tasks are there by now is what the next attempt looks at first


def _seed(cluster: KafkaCluster, run: RunId, segments: Sequence[Segment], partitions: int) -> None:
    topic = run.topic("pages")
    producer = cluster.producer({"transactional.id": run.prefix + "seed", "transaction.timeout.ms": 10_000})
    bounded(lambda: producer.init_transactions(_TIMEOUT_S), _TIMEOUT_S)  # also ends what a dead predecessor left open
    wanted = {segment.number: segment for segment in segments}
    for message in cluster.read(topic, range(partitions)):
        wanted.pop(int(message.key() or b"-1"), None)
        if not wanted:
            return
    producer.begin_transaction()
    for segment in wanted.values():
        task = PageTask(segment.number, segment.low, segment.high)
        producer.produce(topic, encode_page_task(task), key=str(segment.number), partition=segment.number % partitions)
    bounded(lambda: producer.commit_transaction(_TIMEOUT_S), _TIMEOUT_S)
