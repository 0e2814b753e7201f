"""Key tasks of our own making: keys that are to be read again though nobody changed them just now."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final

from confluent_kafka import KafkaError, KafkaException

from reshelve.kafka import KafkaCluster, refusal
from reshelve.model import KeyTask, RunId, partition_of
from reshelve.producers.shaping import produce_when_free
from reshelve.schemas.codec import encode_key_task

_FLUSH_S: Final = 5.0
_LOOK_EVERY: Final = 10_000


def write_key_tasks(
    cluster: KafkaCluster, run: RunId, keys: Iterable[bytes], partitions: int, waiting: Callable[[str], None]
) -> tuple[int, dict[int, int]]:
    """Append a key task for each of the keys to `changes`; a reader that takes it sees the source as it then is.

    Returns their number, and the ends of `changes` behind them: what the key readers have passed those, they have
    done. Done again after a crash it only costs. `waiting` is told what it waits for (now and then nothing), and ends
    it by raising. Raises ReshelveError."""
    topic = run.topic("changes")
    record = encode_key_task(KeyTask(0, int(time.time() * 1000)))
    failures: list[KafkaError] = []
    producer = cluster.producer({"message.timeout.ms": 0})
    number = 0
    for key in keys:
        produce_when_free(
            producer, topic, record, key, partition=partition_of(key, partitions),
            on_delivery=lambda error, _: failures.append(error) if error else None,
        )  # fmt: skip
        number += 1
        if number % _LOOK_EVERY == 0:
            producer.poll(0)
            waiting("")
    while left := producer.flush(_FLUSH_S):
        waiting(f"Kafka ({cluster.bootstrap}): {left} key tasks are not acknowledged")
    if failures:
        raise refusal(KafkaException(failures[0]), f"cannot write key tasks to {topic}", cluster.bootstrap)
    return number, cluster.written_ends(topic, partitions)
