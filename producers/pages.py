"""The page reader: a consumer of page tasks that turns each into documents, a receipt and the next task.

The order of a page, enforced by `PageReader._read_page`:

1. begin a Kafka transaction
2. read the page at a snapshot whose conditions are checked; produce its documents
3. wait until the source has flushed everything the snapshot saw
4. produce the receipt (low, high, counts, checksum, version)
5. produce the successor task, when the segment goes on
6. send the consumed offset to the transaction
7. commit
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka import Consumer, Message

from reshelve.errors import BlockedError
from reshelve.kafka import KafkaCluster
from reshelve.model import PageTask, Receipt, RunId, split_key
from reshelve.orders import Orders
from reshelve.producers.page import FIRST_PAGE_ROWS, PAGE_SECONDS, Page, PageProducer, PageTooLarge, next_page_rows
from reshelve.producers.shaping import produce_when_free
from reshelve.producers.snapshot import SnapshotReader
from reshelve.producers.transactor import Step, Transactor
from reshelve.reporter import Reporter
from reshelve.schemas.codec import CodecError, decode_page_task, encode_page_task, encode_receipt
from reshelve.throttle import Throttle

_POLL_S: Final = 0.2


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
        orders: Orders | None = None,
    ) -> None:
        self._cluster, self._run, self._source = cluster, run, source
        self._name, self._columns, self._limits = name, columns, limits
        self._throttle, self._reporter = throttle, reporter
        self._page = PageProducer(run, source, transform, limits.max_document_bytes)
        self._pages = run.topic("pages")
        self._transactor = Transactor(
            cluster, run, "pages", name, self._pages, source.where, limits.max_document_bytes, reporter
        )
        self._rows = FIRST_PAGE_ROWS
        self._rejects = 0
        self._orders = orders or Orders.none(reporter)

    def work(self) -> None:
        """Read pages until stopped. Raises ReshelveError when it can't go on."""
        consumer = self._transactor.consumer()
        consumer.subscribe([self._pages], on_assign=self._orders.on_assign)
        try:
            while not self._reporter.stop.is_set():
                message = consumer.poll(self._throttled(consumer))
                if message is None:
                    self._reporter.send()
                elif (error := message.error()) is not None:
                    self._transactor.on_poll_error(error)
                else:
                    self._work_on(consumer, message)
        finally:
            consumer.close()
            self._source.close()
            self._orders.close()

    def _throttled(self, consumer: Consumer) -> float:
        """How long to poll for a task. While the run is paused or the limits ask to wait, the consumer is paused but
        polled, so that it stays in its group; no task is held meanwhile, since its partition may be given to another
        reader."""
        held = consumer.assignment()
        active = sum(place.partition < self._limits.active_partitions for place in held)
        self._throttle.set_share(active, self._limits.active_partitions)
        wait = self._throttle.wait_s()
        self._orders.admit(consumer, wait=wait > 0)
        return min(wait, _POLL_S) if wait > 0 else _POLL_S

    def _work_on(self, consumer: Consumer, message: Message) -> None:
        """One page; when it fails, the task is read again from where it was."""
        try:
            task = decode_page_task(message.value() or b"")
        except CodecError as error:
            raise BlockedError(
                f"a record of {self._pages} is not a page task", where=self._cluster.bootstrap, why=str(error),
                remedy="something else wrote to the run's topic; start a new run",
            ) from None  # fmt: skip
        started = time.monotonic()
        page = Page()

        def read() -> None:
            nonlocal page
            page = self._read_page(message, task)

        ended = self._transactor.step(consumer, [message], read)
        if ended is Step.DONE:
            self._account(page, time.monotonic() - started)
        elif ended is Step.SLOW:
            self._rows = max(1, self._rows // 4)

    def _read_page(self, message: Message, task: PageTask) -> Page:
        producer = self._transactor.begin()
        with self._source.snapshot() as snapshot:
            began = time.monotonic()
            try:
                page = self._page.produce(producer, task, snapshot.version, self._page_rows())
            except PageTooLarge as error:
                self._rows = max(1, error.rows // 2)
                raise
            page.seconds = time.monotonic() - began
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
        return page

    def _account(self, page: Page, seconds: float) -> None:
        self._throttle.take(page.rows, page.size)
        self._rejects += page.rejected
        self._reporter.count("documents", page.documents)
        self._reporter.count("bytes", page.size)
        if page.rejected:
            self._reporter.count("rejected", page.rejected)
        self._rows = next_page_rows(
            page.rows, page.seconds, page.size, self._throttle.documents_per_second, whole_seconds=seconds
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
