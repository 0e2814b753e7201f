"""The page reader: a consumer of page tasks that turns each into documents, a receipt and the next task.

The order of a page, enforced by `_read_page`:

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
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

import psycopg
import xxhash
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from reshelve.errors import AccessRefused, BlockedError, ReshelveError, SourceRefused
from reshelve.kafka import FENCED, KafkaCluster, is_transient, kafka_error, refusal
from reshelve.kafka_errors import bounded
from reshelve.model import PageTask, Receipt, RunId, split_key
from reshelve.producers.snapshot import SnapshotReader
from reshelve.reporter import Backoff, Reporter
from reshelve.schemas.codec import CodecError, decode_page_task, encode_page_task, encode_receipt
from reshelve.schemas.envelope import envelope_head, seal
from reshelve.schemas.reject import Reject
from reshelve.throttle import Throttle
from reshelve.transform import TransformFailed, apply_transform

PAGE_SECONDS: Final = 0.5
MAX_PAGE_ROWS: Final = 20_000
MAX_PAGE_BYTES: Final = 32 * 1024 * 1024
FIRST_PAGE_ROWS: Final = 1_000
# A dead reader's transaction stalls the readers of committed records for this long at most.
TRANSACTION_TIMEOUT_MS: Final = 10_000
_KAFKA_TIMEOUT_S: Final = 10.0
_POLL_S: Final = 0.2
# So often within so many seconds is no accident: somebody else works under our name.
_FENCES_BEFORE_GIVING_UP, _FENCES_WITHIN_S = 3, 60.0


class PageTooLarge(Exception):
    """The page is about to exceed its bytes: read it again with fewer rows."""

    def __init__(self, rows: int) -> None:
        super().__init__(rows)
        self.rows = rows


@dataclass(frozen=True, slots=True)
class PageLimits:
    """What bounds the work of a page reader.

    active_partitions  partitions of `pages` that carry segments, for this worker's share of the limits
    max_rejects        the worker stops past that many
    """

    active_partitions: int
    max_rejects: int
    max_document_bytes: int


def next_page_rows(rows: int, seconds: float, size: int, documents_per_second: float | None) -> int:
    """How many rows the next page should have, so that it takes about `PAGE_SECONDS` and stays well under
    `MAX_PAGE_BYTES`; under a limit no more than that limit passes in as long. At most doubles at a time."""
    wanted: float = FIRST_PAGE_ROWS
    if rows:
        wanted = rows * min(2.0, PAGE_SECONDS / max(seconds, 0.001))
    if size and rows:
        wanted = min(wanted, MAX_PAGE_BYTES / 2 / (size / rows))
    if documents_per_second is not None:
        wanted = min(wanted, documents_per_second * PAGE_SECONDS)
    return max(1, min(int(wanted), MAX_PAGE_ROWS))


@dataclass(slots=True)
class _Page:
    """What has been read of a page so far."""

    rows: int = 0
    documents: int = 0
    left_out: int = 0
    rejected: int = 0
    size: int = 0
    checksum: int = 0
    last: bytes = b""
    more: bool = False


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
        self._throttle, self._transform, self._reporter = throttle, transform, reporter
        self._stop = reporter.stop
        self._pages, self._documents = run.topic("pages"), run.topic("documents")
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
            raise BlockedError(
                f"the offsets of group {self._run.group('pages')} are lost",
                where=self._cluster.bootstrap,
                why=error.str(),
                remedy="start a new run: where this one was can't be told any more",
            )
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
                    "batch.size": 500_000,
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
        page = _Page()
        with self._source.snapshot() as snapshot:
            self._produce_documents(producer, task, snapshot.version, page)
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

    def _produce_documents(self, producer: Producer, task: PageTask, version: int, page: _Page) -> None:
        """Step 2. This loop runs once for each document of the source: nothing in it may look inside one."""
        limit, transform, topic = self._page_rows(), self._transform, self._documents
        head = envelope_head(version, int(time.time() * 1000))
        checksum, last, rows, size_sum, documents = 0, None, 0, 0, 0
        produce, digest = producer.produce, xxhash.xxh3_64_intdigest
        # One row more than the page: it tells whether the segment goes on, and whether the key repeats there.
        with closing(self._source.page(task.cursor, task.end, limit + 1)) as found:
            for key, source_document, size in found:
                if key is None or key == last:
                    raise self._bad_key(key)
                if rows == limit:
                    page.more = True
                    continue
                last = key
                rows += 1
                if source_document is None or transform is not None:
                    document = self._shape(producer, key, source_document, size, page)
                    if document is None:
                        continue
                elif b"\n" in source_document:
                    # Only between tokens of a column of type json: a bulk body is one line for each document.
                    document = source_document.replace(b"\n", b" ")
                else:
                    document = source_document
                record = seal(head, document)
                try:
                    produce(topic, record, key)
                except BufferError:
                    produce_when_free(producer, topic, record, key)
                checksum += digest(key, version)
                documents += 1
                size_sum += len(document)
                if size_sum > MAX_PAGE_BYTES and rows < limit:
                    raise PageTooLarge(rows)
        page.rows, page.documents, page.size, page.checksum = rows, documents, size_sum, checksum
        page.last = last or b""

    def _shape(
        self, producer: Producer, key: bytes, source_document: bytes | None, size: int, page: _Page
    ) -> bytes | None:
        """The document to index, where that is not what the source built; None when it is rejected or left out."""
        if source_document is None:
            page.rejected += 1
            self._reject(producer, self._too_large(key, size))
            return None
        assert self._transform is not None
        try:
            document = apply_transform(self._transform, source_document)
        except TransformFailed as error:
            page.rejected += 1
            reject = Reject(key.decode(), source_document, "transform", "TransformFailed", str(error))
            self._reject(producer, reject)
            return None
        if document is None:
            page.left_out += 1
        elif len(document) > self._limits.max_document_bytes:
            page.rejected += 1
            self._reject(producer, self._too_large(key, len(document)))
            return None
        return document

    def _reject(self, producer: Producer, reject: Reject) -> None:
        produce_when_free(
            producer, self._run.topic("rejects"), reject.document, reject.key.encode(), headers=reject.headers()
        )

    def _too_large(self, key: bytes, size: int) -> Reject:
        limit = self._limits.max_document_bytes
        return Reject(
            key.decode(), None, "read", "DocumentTooLarge",
            f"the document has {size} bytes; kafka.max_document_bytes (and with it the topic's max.message.bytes)"
            f" allows {limit}",
        )  # fmt: skip

    def _bad_key(self, key: bytes | None) -> SourceRefused:
        if key is None:
            why, remedy = (
                "a row has a NULL key",
                "leave such rows out with scope.where, or make the column NOT NULL",
            )
        else:
            why = f"key {key.decode()} has more than one row"
            remedy = "make the query return one row for each key (a join that multiplies rows?)"
        return SourceRefused("the query's rows can't be told apart", where=self._source.where, why=why, remedy=remedy)

    def _check_rejects(self) -> None:
        if self._rejects > self._limits.max_rejects:
            raise BlockedError(
                f"page reader {self._name} rejected {self._rejects} documents",
                where=self._run.topic("rejects"),
                why=f"limits.max_rejects allows {self._limits.max_rejects}",
                remedy=f"see them with `reshelve rejects list {self._run}`, then correct the query or the transform",
            )


def produce_when_free(producer: Producer, topic: str, value: bytes | None, key: bytes, **options: Any) -> None:
    """Produce, waiting while the producer's queue is full: the brokers are slower than the source, so it waits."""
    while True:
        try:
            producer.produce(topic, value, key, **options)
            return
        except BufferError:
            producer.poll(0.05)
