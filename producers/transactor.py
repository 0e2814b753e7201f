"""A step of exactly-once work: what is produced, and how far the tasks were consumed, in one Kafka transaction.

All or nothing: killed anywhere, the tasks are worked on again by whoever gets them, and what the dead transaction
wrote is never seen by a reader of committed records.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import Final

import psycopg
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from reshelve.errors import AccessRefused, BlockedError, ReshelveError
from reshelve.kafka import FENCED, KafkaCluster, kafka_error, refusal
from reshelve.kafka_errors import bounded, poll_refusal
from reshelve.model import RunId
from reshelve.reporter import Backoff, Reporter

# A dead worker's transaction stalls the readers of committed records for this long at most.
TRANSACTION_TIMEOUT_MS: Final = 10_000
_KAFKA_TIMEOUT_S: Final = 10.0
# So often within so many seconds is no accident: somebody else works under our name.
_FENCES_BEFORE_GIVING_UP, _FENCES_WITHIN_S = 3, 60.0


class TryAgain(Exception):
    """Raised inside a step: abort it, and let its tasks be consumed again."""


class Step(Enum):
    """How a step ended.

    DONE   committed
    AGAIN  not: its tasks will be consumed again, or are committed after all
    SLOW   the same, and it had taken so long that its transaction may have outlived its timeout: do less at a time
    """

    DONE = "done"
    AGAIN = "again"
    SLOW = "slow"


class Transactor:
    """The transactional producer of one worker of a role.

    `name` is the worker's, unique in its role: it makes the transactional id, so that a restarted worker of the same
    name aborts its dead predecessor's transaction at once.

    role   "pages" or "keys": the name of its consumer group, too
    topic  of its tasks
    where  the source's server, for messages
    """

    def __init__(
        self,
        cluster: KafkaCluster,
        run: RunId,
        role: str,
        name: str,
        topic: str,
        where: str,
        max_document_bytes: int,
        reporter: Reporter,
    ) -> None:
        self._cluster, self._run, self._role, self._name = cluster, run, role, name
        self._topic, self._where, self._max_document_bytes = topic, where, max_document_bytes
        self._reporter = reporter
        self._fenced_at: list[float] = []
        self._backoff = Backoff()
        self._producer: Producer | None = None
        self._begun = False

    def consumer(self) -> Consumer:
        """A consumer of the tasks, in the role's group."""
        return self._cluster.consumer(
            self._run.group(self._role),
            {
                "queued.max.messages.kbytes": 1024,
                "client.id": self._name,
                # During an outage or a long query nothing is polled; a dead process is noticed by its session anyway.
                "max.poll.interval.ms": 3_600_000,
            },
        )

    def on_poll_error(self, error: KafkaError) -> None:
        """What a consumer returned instead of a task: waits for what passes. Raises ReshelveError for the rest."""
        refused = poll_refusal(error, self._run.group(self._role), self._topic, self._cluster.bootstrap)
        if refused is not None:
            raise refused
        self._reporter.pause(f"Kafka: {error.str()}", self._backoff.next_s())

    @property
    def producer(self) -> Producer:
        """The producer whose transaction was begun in this step."""
        assert self._producer is not None and self._begun
        return self._producer

    def begin(self) -> Producer:
        """The producer, in a new transaction; to be called inside a step. Raises KafkaException."""
        producer = self._ready_producer()
        producer.begin_transaction()
        self._begun = True
        return producer

    def step(self, consumer: Consumer, tasks: Sequence[Message], work: Callable[[], None]) -> Step:
        """Have `work` begin a transaction and produce into it; then commit it with the offsets behind the tasks.

        Raises ReshelveError when the worker can't go on."""
        started = time.monotonic()
        places = _behind(tasks)
        ended = Step.AGAIN
        try:
            work()
            self._commit(consumer, places)
            self._backoff.reset()
            self._reporter.waiting("")
            return Step.DONE
        except TryAgain:
            pass
        except psycopg.OperationalError as error:
            reason = " ".join(str(error).split())
            self._reporter.pause(f"PostgreSQL ({self._where}): {reason}", self._backoff.next_s())
        except KafkaException as error:
            if time.monotonic() - started > TRANSACTION_TIMEOUT_MS / 2000:
                ended = Step.SLOW
            self._on_failure(error, ended)
        except ReshelveError:
            self._abort()
            raise
        self._abort()
        self._rewind(consumer, places)
        return ended

    def _commit(self, consumer: Consumer, places: Sequence[TopicPartition]) -> None:
        producer = self._producer
        assert producer is not None, "a step that begins no transaction"
        group, wait = consumer.consumer_group_metadata(), _KAFKA_TIMEOUT_S
        bounded(lambda: producer.send_offsets_to_transaction(list(places), group, wait), wait)
        bounded(lambda: producer.commit_transaction(wait), wait)
        self._begun = False

    def _on_failure(self, error: KafkaException, ended: Step) -> None:
        inner = kafka_error(error)
        refused = refusal(error, f"the {self._role} worker cannot write", self._cluster.bootstrap)
        if isinstance(refused, AccessRefused):
            self._abort()
            raise refused from None
        if ended is not Step.SLOW:  # one that outlived its timeout is fenced, too
            self._count_fences(inner)
        self._reporter.pause(f"Kafka ({self._cluster.bootstrap}): {inner.str()}", self._backoff.next_s())
        if not inner.txn_requires_abort():
            self._producer = None  # ambiguous: a new producer of the same id settles what became of it

    def _count_fences(self, error: KafkaError) -> None:
        """Another worker of our name fences us, and we it, as often as both have a task: the one that was there
        first counts to the end first, and stops. Raises BlockedError."""
        if error.code() not in FENCED:
            return
        self._producer = None
        now = time.monotonic()
        self._fenced_at = [at for at in self._fenced_at if now - at < _FENCES_WITHIN_S] + [now]
        if len(self._fenced_at) < _FENCES_BEFORE_GIVING_UP:
            return
        raise BlockedError(
            f"{self._role} worker {self._name} was fenced off",
            where=self._cluster.bootstrap,
            why=error.str(),
            remedy=f"another {self._role} worker of that name has started: give each its own --name",
        )

    def _ready_producer(self) -> Producer:
        if self._producer is None:
            producer = self._cluster.producer(
                {
                    "transactional.id": f"{self._run.prefix}{self._role}.{self._name}",
                    "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
                    "queue.buffering.max.messages": 100_000,
                    # Room for the largest document: one that is larger than the queue would wait for ever.
                    "queue.buffering.max.kbytes": max(24 * 1024, self._max_document_bytes // 1024 + 1024),
                    "batch.size": 200_000,
                    "batch.num.messages": 10_000,
                    "message.max.bytes": self._max_document_bytes + 64 * 1024,
                }
            )
            bounded(lambda: producer.init_transactions(_KAFKA_TIMEOUT_S), _KAFKA_TIMEOUT_S)
            self._producer = producer
        return self._producer

    def _abort(self) -> None:
        producer, begun = self._producer, self._begun
        self._begun = False
        if producer is None or not begun:
            return
        try:
            bounded(lambda: producer.abort_transaction(_KAFKA_TIMEOUT_S), _KAFKA_TIMEOUT_S)
        except KafkaException:
            self._producer = None  # the next one of the same id aborts it

    def _rewind(self, consumer: Consumer, places: Sequence[TopicPartition]) -> None:
        """Put the consumer back to the group's committed offsets: behind the tasks if their transaction did commit
        after all, before them otherwise."""
        wanted = [TopicPartition(place.topic, place.partition) for place in places]
        while not self._reporter.stop.is_set():
            try:
                self._ready_producer()  # first: it settles an ambiguous transaction, and with it the offsets
                held = consumer.assignment()
                for place in consumer.committed(wanted, _KAFKA_TIMEOUT_S):
                    if place in held:
                        consumer.seek(place)
                return
            except KafkaException as error:
                inner = kafka_error(error)
                self._count_fences(inner)
                if inner.code() == KafkaError._STATE:
                    return  # revoked meanwhile: whoever has it now starts at the committed offset
                self._producer = None
                self._reporter.pause(f"Kafka ({self._cluster.bootstrap}): {inner.str()}", self._backoff.next_s())


def _behind(tasks: Iterable[Message]) -> list[TopicPartition]:
    """The offset after the last task of each partition."""
    ends: dict[tuple[str, int], int] = {}
    for task in tasks:
        topic, partition, offset = task.topic(), task.partition(), task.offset()
        assert topic is not None and partition is not None and offset is not None
        ends[topic, partition] = max(ends.get((topic, partition), 0), offset + 1)
    return [TopicPartition(topic, partition, offset) for (topic, partition), offset in ends.items()]
