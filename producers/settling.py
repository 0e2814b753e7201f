"""Settling: the key tasks of the copy phase once more.

A page is read early and may be appended late, behind a newer record of the same key. The index keeps the highest
version all the same, but not for ever: a delete that it has forgotten (`index.gc_deletes`, a node's restart) does not
keep an older document out. So once the receipts tile, every key that changed until then is read again: from then on the
newest record of each key is also the one with its highest version, and the topic may be compacted and replayed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from confluent_kafka import KafkaError, KafkaException

from reshelve.kafka import KafkaCluster, refusal
from reshelve.model import KeyTask, RunId
from reshelve.producers.shaping import produce_when_free
from reshelve.schemas.codec import KEY_TASK, encode_key_task

_WINDOW: Final = 200_000  # keys remembered at once: one that comes again later is only read twice
_FLUSH_S: Final = 5.0


def distinct(keys: Iterable[bytes], window: int = _WINDOW) -> Iterator[bytes]:
    """Each key once, or now and then again where there are more than `window` of them."""
    seen: set[bytes] = set()
    for key in keys:
        if key not in seen:
            if len(seen) >= window:
                seen.clear()
            seen.add(key)
            yield key


def settle(
    cluster: KafkaCluster, run: RunId, ends: Mapping[int, int], waiting: Callable[[str], None]
) -> tuple[int, dict[int, int]]:
    """Append the keys of `changes` before `ends` (offset by partition) to it again, each in its partition.

    Returns their number, and the ends behind them: settled is what the key readers have passed those. Done again
    after a crash it only costs. `waiting` is told what it waits for, and ends it by raising. Raises ReshelveError."""
    topic = run.topic("changes")
    record = encode_key_task(KeyTask(0, int(time.time() * 1000)))
    failures: list[KafkaError] = []
    producer = cluster.producer({"message.timeout.ms": 0})
    number = 0
    for partition, end in ends.items():
        for key in distinct(_keys(cluster, topic, partition, end)):
            produce_when_free(
                producer, topic, record, key, partition=partition,
                on_delivery=lambda error, _: failures.append(error) if error else None,
            )  # fmt: skip
            number += 1
            if number % 10_000 == 0:
                producer.poll(0)
                waiting("")
    while left := producer.flush(_FLUSH_S):
        waiting(f"Kafka ({cluster.bootstrap}): {left} key tasks are not acknowledged")
    if failures:
        raise refusal(KafkaException(failures[0]), f"cannot write key tasks to {topic}", cluster.bootstrap)
    return number, cluster.written_ends(topic, len(ends))


def _keys(cluster: KafkaCluster, topic: str, partition: int, end: int) -> Iterator[bytes]:
    for message in cluster.read(topic, [partition]):
        offset = message.offset()
        assert offset is not None
        if offset >= end:
            return
        if (message.value() or b"").startswith(KEY_TASK.prefix):
            yield message.key() or b""
