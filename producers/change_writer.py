"""The tailer's side of Kafka: key tasks and watermarks, written to `changes`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from reshelve.errors import Unreachable
from reshelve.kafka import KafkaCluster, may_pass, refusal
from reshelve.kafka_errors import is_access
from reshelve.model import WATERMARK_KEY, Watermark, partition_of
from reshelve.schemas.codec import WATERMARK, decode_watermark, encode_watermark

_RECENT: Final = 50_000
_WAIT_S: Final = 0.2
_FIRST_LOOK: Final = 1_000  # records of a partition's end
_SILENCE: Final = 50  # times 0.2 s


class ChangeWriter:
    """An idempotent producer: what was written once is delivered in order, whatever becomes of the brokers meanwhile,
    or is an error at the next call.

    waiting  called about five times a second while the brokers are slower than we are, with the reason; may raise

    Every method can raise KafkaException: then what was not acknowledged is to be written again by a new one."""

    def __init__(self, cluster: KafkaCluster, topic: str, partitions: int, waiting: Callable[[str], None]) -> None:
        self._topic, self._partitions, self._waiting = topic, partitions, waiting
        self._where = cluster.bootstrap
        self._failed: KafkaError | None = None
        self._recent: set[str] = set()
        self._value = b""
        self._producer = cluster.producer(
            {
                "acks": "all",
                "message.timeout.ms": 0,  # an outage has no limit: the source keeps what is not confirmed
                "delivery.report.only.error": True,
                "error_cb": self._on_error,
                "queue.buffering.max.messages": 100_000,
                "queue.buffering.max.kbytes": 24 * 1024,
                "batch.num.messages": 10_000,
            }
        )

    def key(self, key: str, value: bytes) -> bool:
        """Write a key task, unless the same was written just before; whether it was."""
        if value != self._value or len(self._recent) >= _RECENT:
            self._recent.clear()
            self._value = value
        elif key in self._recent:
            return False
        self._recent.add(key)
        text = key.encode()
        self._produce(text, value, partition_of(text, self._partitions))
        return True

    def watermark(self, mark: Watermark) -> None:
        """Write it to every partition behind all key tasks, once those are acknowledged; return when it is, too."""
        self.settle()
        value = encode_watermark(mark)
        for partition in range(self._partitions):
            self._produce(WATERMARK_KEY, value, partition)
        self.settle()

    def settle(self) -> None:
        """Return when everything is acknowledged."""
        while self._producer.flush(_WAIT_S):
            self._check()
            self._waiting(f"Kafka ({self._where}): {len(self._producer)} records are not acknowledged yet")
        self._check()

    def poll(self) -> None:
        """Take note of errors."""
        self._producer.poll(0)
        self._check()

    def abandon(self) -> None:
        """Forget what is not acknowledged."""
        self._producer.purge()
        self._producer.flush(0)

    def _produce(self, key: bytes, value: bytes, partition: int) -> None:
        while True:
            try:
                self._producer.produce(self._topic, value, key, partition, self._on_delivery)
                return
            except BufferError:
                self._producer.poll(_WAIT_S)
                self._check()
                if len(self._producer) >= 50_000:
                    self._waiting(f"Kafka ({self._where}) is slower than the changes come")

    def _on_delivery(self, error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            self._failed = self._failed or error

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal() or is_access(error):
            self._failed = self._failed or error

    def _check(self) -> None:
        if self._failed is not None:
            raise KafkaException(self._failed)


def newest_lsn(cluster: KafkaCluster, topic: str, partitions: int) -> int:
    """The highest LSN among the last watermarks of `topic`; 0 when it has none.

    Raises ReshelveError, Unreachable when the brokers don't answer."""
    # Uncommitted: ours are in no transaction, and one of somebody else's that is open must not hide them.
    ends = cluster.written_ends(topic, range(partitions).stop)
    look = _FIRST_LOOK
    consumer = cluster.consumer(
        "reshelve.reader",
        {"enable.partition.eof": True, "auto.offset.reset": "earliest", "isolation.level": "read_uncommitted"},
    )
    try:
        while True:
            starts = {p: max(0, end - look) for p, end in ends.items() if end > 0}
            found = _newest_from(consumer, topic, starts, cluster.bootstrap)
            if found or not any(starts.values()):
                return found
            look *= 8
    finally:
        consumer.close()


def _newest_from(consumer: Consumer, topic: str, starts: dict[int, int], where: str) -> int:
    newest, silence, open_ = 0, 0, set(starts)
    consumer.assign([TopicPartition(topic, p, offset) for p, offset in starts.items()])
    while open_:
        messages = consumer.consume(2000, 0.2)
        silence = 0 if messages else silence + 1
        if silence > _SILENCE:
            raise Unreachable(f"cannot read topic {topic}", where=where, remedy="see that the brokers run")
        for message in messages:
            error = message.error()
            if error is None:
                value = message.value() or b""
                if value.startswith(WATERMARK.prefix):
                    newest = max(newest, decode_watermark(value).lsn)
            elif error.code() == KafkaError._PARTITION_EOF:
                open_.discard(message.partition() or 0)
            elif not may_pass(error):
                raise refusal(error, f"cannot read topic {topic}", where)
    return newest
