"""The page reader: a consumer of page tasks that turns each into documents, a receipt and the next task.

The order of a page, enforced by `PageReader._read_page`:

1. begin a Kafka transaction
2. read the page at a snapshot whose conditions are checked; produce its documents
3. wait until the source has flushed everything the snapshot saw
4. produce the receipt (low, high, counts, checksum, version)
5. produce the successor task, when the segment goes on
6. send the consumed offset to the transaction
7. commit

All or nothing: killed anywhere, the page is read again by whoever gets the task, and what the dead
transaction wrote is never seen by a reader of committed records.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from reshelve.errors import AccessRefused, BlockedError, ReshelveError
from reshelve.kafka import FENCED, KafkaCluster, is_transient, kafka_error, refusal
from reshelve.kafka_errors import bounded, place_lost
from reshelve.model import PageTask, Receipt, RunId, split_key
from reshelve.producers.page import (
    FIRST_PAGE_ROWS,
    PAGE_SECONDS,
    PageProducer,
    PageTooLarge,
    next_page_rows,
    produce_when_free,
)
from reshelve.producers.snapshot import SnapshotReader
from reshelve.reporter import Backoff, Reporter
from reshelve.schemas.codec import CodecError, decode_page_task, encode_page_task, encode_receipt
from reshelve.throttle import Throttle

# A dead reader's transaction stalls the readers of committed records for this long at most.
TRANSACTION_TIMEOUT_MS: Final = 10_000
_KAFKA_TIMEOUT_S: Final = 10.0
_POLL_S: Final = 0.2
# So often within so many seconds is no accident: somebody else works under our name.
_FENCES_BEFORE_GIVING_UP, _FENCES_WITHIN_S = 3, 60.0


@dataclass(frozen=True, slots=True)
class PageLimits:
    """What bounds the work of a page reader.

    active_partitions  partitions of `pages` that carry segments, for this worker's share of the limits
    max_rejects        the worker stops past that many
    """

    active_partitions: int
    max_rejects: int
    max_document_bytes: int


class PageReader:
    """Works on page tasks until it is told to stop.

    `name` is the worker's, unique among the run's page readers: it makes the transactional id, so a
    restarted reader of the same name aborts its dead predecessor's transaction at once."""

    def __init__(
        self,
        cluster: KafkaCluster,
        run: RunId,
        source: SnapshotReader,
        *,
        name: str,
        columns: int,
        limits: PageLimits,
        throttle: Throttle,
        transform: Callable[[dict[str, Any]], object] | None,
        reporter: Reporter,
    ) -> None:
        self._cluster, self._run, self._source = cluster, run, source
        self._name, self._columns, self._limits = name, columns, limits
        self._throttle, self._reporter = throttle, reporter
        self._page = PageProducer(run, source, transform, limits.max_document_bytes)
        self._stop = reporter.stop
        self._pages = run.topic("pages")
        self._rows = FIRST_PAGE_ROWS
        self._rejects = 0
        self._fenced_at: list[float] = []
        self._backoff = Backoff()
        self._producer: Producer | None = None
        self._paused = False

    def work(self) -> None:
        """Read pages until stopped. Raises ReshelveError when it can't go on."""
        consumer = self._cluster.consumer(
            self._run.group("pages"),
            {
                "queued.max.messages.kbytes": 1024,
                "client.id": self._name,
                # During an outage or a long query nothing is polled; a dead process is noticed by its session anyway.
                "max.poll.interval.ms": 3_600_000,
            },
        )
        consumer.subscribe([self._pages])
        try:
            while not self._stop.is_set():
                message = consumer.poll(self._throttled(consumer))
                if message is None:
                    self._reporter.send()
                elif message.error() is not None:
                    self._on_poll_error(message)
                else:
                    self._work_on(consumer, message)
        finally:
            consumer.close()
            self._source.close()

    def _on_poll_error(self, message: Message) -> None:
        error = message.error()
        assert error is not None
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            raise place_lost(error, self._run.group("pages"), self._pages, self._cluster.bootstrap)
        if is_transient(error) or error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._MAX_POLL_EXCEEDED):
            self._reporter.pause(f"Kafka: {error.str()}", self._backoff.next_s())
            return
        raise refusal(error, f"cannot read topic {self._pages}", self._cluster.bootstrap)

    def _throttled(self, consumer: Consumer) -> float:
        """How long to poll for a task. While the limits ask to wait, the consumer is paused but polled, so that it
        stays in its group; no task is held meanwhile, since its partition may be given to another reader. One that
        arrives all the same (of a partition just assigned) is worked on: the bucket is paid afterwards."""
        held = consumer.assignment()
        active = sum(place.partition < self._limits.active_partitions for place in held)
        self._throttle.set_share(active, self._limits.active_partitions)
        wait = self._throttle.wait_s()
        if wait > 0:
            consumer.pause(held)
        elif self._paused:
            consumer.resume(held)
        self._paused = wait > 0
        return min(wait, _POLL_S) if wait > 0 else _POLL_S

    def _work_on(self, consumer: Consumer, message: Message) -> None:
        """One page, and what to do when it fails: the task is read again from where it was."""
        value = message.value()
        try:
            task = decode_page_task(value or b"")
        except CodecError as error:
            raise BlockedError(
                f"a record of {self._pages} is not a page task", where=self._cluster.bootstrap, why=str(error),
                remedy="something else wrote to the run's topic; start a new run",
            ) from None  # fmt: skip
        started = time.monotonic()
        try:
            self._read_page(consumer, message, task)
            self._backoff.reset()
            self._reporter.waiting("")
            return
        except PageTooLarge as error:
            self._rows = max(1, error.rows // 2)
        except psycopg.OperationalError as error:
            reason = " ".join(str(error).split())
            self._reporter.pause(f"PostgreSQL ({self._source.where}): {reason}", self._backoff.next_s())
        except KafkaException as error:
            inner = kafka_error(error)
            refused = refusal(error, "cannot write a page", self._cluster.bootstrap)
            if isinstance(refused, AccessRefused):
                self._abort()
                raise refused from None
            if time.monotonic() - started > TRANSACTION_TIMEOUT_MS / 2000:
                self._rows = max(1, self._rows // 4)  # it may have outlived its timeout, which fences too
            else:
                self._count_fences(inner)
            self._reporter.pause(f"Kafka ({self._cluster.bootstrap}): {inner.str()}", self._backoff.next_s())
            if not inner.txn_requires_abort():
                self._producer = None  # ambiguous: a new producer of the same id settles what became of it
        except ReshelveError:
            self._abort()
            raise
        self._abort()
        self._rewind(consumer, message)

    def _count_fences(self, error: KafkaError) -> None:
        """Another reader of our name fences us, and we it, as often as both have a page: the one that was there
        first counts to the end first, and stops. Raises BlockedError."""
        if error.code() not in FENCED:
            return
        self._producer = None
        now = time.monotonic()
        self._fenced_at = [at for at in self._fenced_at if now - at < _FENCES_WITHIN_S] + [now]
        if len(self._fenced_at) < _FENCES_BEFORE_GIVING_UP:
            return
        raise BlockedError(
            f"page reader {self._name} was fenced off",
            where=self._cluster.bootstrap,
            why=error.str(),
            remedy="another page reader of that name has started: give each its own --name",
        )

    def _ready_producer(self) -> Producer:
        if self._producer is None:
            producer = self._cluster.producer(
                {
                    "transactional.id": self._run.prefix + "pages." + self._name,
                    "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
                    "queue.buffering.max.messages": 100_000,
                    # Room for the largest document: one that is larger than the queue would wait for ever.
                    "queue.buffering.max.kbytes": max(24 * 1024, self._limits.max_document_bytes // 1024 + 1024),
                    "batch.size": 200_000,
                    "batch.num.messages": 10_000,
                    "message.max.bytes": self._limits.max_document_bytes + 64 * 1024,
                }
            )
            bounded(lambda: producer.init_transactions(_KAFKA_TIMEOUT_S), _KAFKA_TIMEOUT_S)
            self._producer = producer
        return self._producer

    def _abort(self) -> None:
        producer = self._producer
        if producer is None:
            return
        try:
            bounded(lambda: producer.abort_transaction(_KAFKA_TIMEOUT_S), _KAFKA_TIMEOUT_S)
        except KafkaException:
            self._producer = None  # the next one of the same id aborts it

    def _rewind(self, consumer: Consumer, message: Message) -> None:
        """Put the consumer back to the group's committed offset: behind the task if its transaction did commit
        after all, before it otherwise."""
        assert message.topic() is not None and message.partition() is not None
        place = TopicPartition(self._pages, message.partition() or 0)
        while not self._stop.is_set():
            try:
                self._ready_producer()  # first: it settles an ambiguous transaction, and with it the offset
                place.offset = consumer.committed([place], _KAFKA_TIMEOUT_S)[0].offset
                if place in consumer.assignment():
                    consumer.seek(place)
                return
            except KafkaException as error:
                inner = kafka_error(error)
                self._count_fences(inner)
                if inner.code() == KafkaError._STATE:
                    return  # revoked meanwhile: whoever has it now starts at the committed offset
                self._producer = None
                self._reporter.pause(f"Kafka ({self._cluster.bootstrap}): {inner.str()}", self._backoff.next_s())

    def _read_page(self, consumer: Consumer, message: Message, task: PageTask) -> None:
        started = time.monotonic()
        producer = self._ready_producer()
        producer.begin_transaction()
        with self._source.snapshot() as snapshot:
            page = self._page.produce(producer, task, snapshot.version, self._page_rows())
        self._source.await_durable(snapshot, self._reporter.waiting)
        high = split_key(page.last.decode(), self._columns) if page.more else task.end
        receipt = Receipt(
            task.segment, task.cursor, high, page.rows, page.documents, page.left_out, page.rejected,
            page.size, page.checksum & 0xFFFF_FFFF_FFFF_FFFF, snapshot.version,
        )  # fmt: skip
        produce_when_free(
            producer, self._run.topic("progress"), encode_receipt(receipt), f"pages/{task.segment}".encode()
        )
        if page.more:
            successor = encode_page_task(PageTask(task.segment, high, task.end))
            produce_when_free(
                producer, self._pages, successor, str(task.segment).encode(), partition=message.partition()
            )
        place = TopicPartition(self._pages, message.partition() or 0, (message.offset() or 0) + 1)
        group, wait = consumer.consumer_group_metadata(), _KAFKA_TIMEOUT_S
        bounded(lambda: producer.send_offsets_to_transaction([place], group, wait), wait)
        bounded(lambda: producer.commit_transaction(wait), wait)
        self._throttle.take(page.rows, page.size)
        self._rejects += page.rejected
        self._reporter.count("documents", page.documents)
        self._reporter.count("bytes", page.size)
        if page.rejected:
            self._reporter.count("rejected", page.rejected)
        self._rows = next_page_rows(
            page.rows, time.monotonic() - started, page.size, self._throttle.documents_per_second
        )
        self._check_rejects()

    def _page_rows(self) -> int:
        """Rows of the page to be read: also the first one stays within the limit, however often a reader starts."""
        allowed = self._throttle.documents_per_second
        return self._rows if allowed is None else max(1, min(self._rows, int(allowed * PAGE_SECONDS)))

    def _check_rejects(self) -> None:
        if self._rejects > self._limits.max_rejects:
            raise BlockedError(
                f"page reader {self._name} rejected {self._rejects} documents",
                where=self._run.topic("rejects"),
                why=f"limits.max_rejects allows {self._limits.max_rejects}",
                remedy=f"see them with `reshelve rejects list {self._run}`, then correct the query or the transform",
            )
