"""The indexer: reads `documents`, writes them to the generation, and commits only what is durable there.

The order, enforced by `work`:

1. consume records; make a batch, in the order of the topic
2. hand it over to be sent as a bulk request; several are under way at once, as `InFlight` allows
3. when the oldest batch has an outcome for every item: write its rejects, and wait until they are durable
4. only then take the batch's offsets, and the watermarks before them, into the prefix that may be committed
5. commit that prefix, with the applied clock of each partition as the offset's metadata: about once a second, at
   once when nothing is left to do, when a partition is taken away, and at the end

Killed anywhere, the records after the committed offset are indexed again; versions make that harmless.

A replay's indexer does the same with a stretch of the topic, under the name of a group of the replay's, and ends
when that is durable and committed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from reshelve.applied import Applied
from reshelve.consumers.bulk import MAX_BODY_BYTES, BulkResult, BulkWriter, GivenUp, Item, Stopped
from reshelve.consumers.in_flight import Batch, InFlight, Place
from reshelve.consumers.rejects import RejectWriter
from reshelve.consumers.replay import Remainder, Stretch
from reshelve.errors import BlockedError
from reshelve.kafka import KafkaCluster, header_items, kafka_error, may_pass, refusal
from reshelve.kafka_errors import poll_refusal
from reshelve.model import WATERMARK_KEY, RunId
from reshelve.orders import Orders
from reshelve.reporter import Backoff, Reporter
from reshelve.schemas.codec import WATERMARK, CodecError, decode_watermark
from reshelve.schemas.envelope import VERSION_HEADER, EnvelopeReader
from reshelve.schemas.reject import Reject
from reshelve.throttle import Throttle

BATCH_DOCUMENTS: Final = 2_000
# Batches that stand ready behind those in flight: a connection that is done never waits for one that is not.
_READY: Final = 2
# Of an item's line in a request, besides its key: about so much.
_ACTION_BYTES: Final = 80
_POLL_S: Final = 0.1
_LINGER_S: Final = 0.02  # a transaction ends in one partition after the other
_COMMIT_S: Final = 1.0
_RECALL_S: Final = 5.0
_UUID_S: Final = 10.0


@dataclass(slots=True, eq=False)
class _Batch(Batch[Item]):
    """A batch with its request, and with what can't be made one of."""

    size: int = 0
    unreadable: list[Reject] = field(default_factory=list)
    request: Future[BulkResult] = field(default_factory=Future)

    @property
    def given_up(self) -> bool:
        """All of it is another worker's now."""
        return not self.offsets


class Indexer:
    """Indexes until it is told to stop.

    max_rejects       a fuse: it ends past so many rejects without a batch in between that was accepted whole. Whether
                      the run has too many that are open, its driver judges; but there may be none, or it may be slow
    check_generation  raises TargetRefused when the index is not the one that it was made for (by its UUID)
    stretch           of a replay: what to index before it ends; None: its share of all that comes
    """

    def __init__(
        self,
        cluster: KafkaCluster,
        run: RunId,
        writer: BulkWriter,
        *,
        name: str,
        partitions: int,
        in_flight: int,
        max_rejects: int,
        max_document_bytes: int,
        throttle: Throttle,
        check_generation: Callable[[], None],
        reporter: Reporter,
        stretch: Stretch | None = None,
        orders: Orders | None = None,
    ) -> None:
        self._cluster, self._run, self._writer, self._name = cluster, run, writer, name
        self._partitions, self._connections, self._max_rejects = partitions, in_flight, max_rejects
        self._throttle, self._check_generation, self._reporter = throttle, check_generation, reporter
        self._topic = run.topic("documents")
        self._orders = orders or Orders.none(reporter)
        self._stretch = stretch
        self._group = run.group("indexer") if stretch is None else stretch.group
        self._wants = None if stretch is None else stretch.wants
        self._remainder = None if stretch is None else Remainder(stretch)
        self._rejects = RejectWriter(cluster, run, max_document_bytes, reporter)
        self._rejected = 0
        self._reader = EnvelopeReader()
        self._in_flight: InFlight[_Batch] = InFlight(in_flight + _READY)
        self._committed_at = self._checked_at = 0.0
        self._commit_failed = False
        self._backoff = Backoff()

    def work(self) -> None:
        """Index until stopped, or until a replay's stretch is done. Raises ReshelveError when it can't go on."""
        stop = self._reporter.stop
        consumer = self._cluster.consumer(self._group, self._settings())
        if self._stretch is None:
            consumer.subscribe(
                [self._topic], on_assign=self._orders.on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
            )
        else:
            starts = self._stretch.starts
            consumer.assign([TopicPartition(self._topic, p, offset) for p, offset in starts.items()])
        pool = ThreadPoolExecutor(self._connections, thread_name_prefix="bulk")
        try:
            while not stop.is_set() and not self._is_done():
                self._throttled(consumer)
                if self._stretch is None:
                    self._orders.admit(consumer)
                self._check()
                batches = self._next(consumer)
                idle = not batches
                while batches:
                    self._submit(pool, batches.pop(0))
                self._settle(wait=False)
                self._commit(consumer, force=idle and not self._in_flight)
                self._reporter.send()
            self._settle(wait=True)
            self._commit(consumer, force=True)
        except Stopped:
            self._commit(consumer, force=True)
        finally:
            stop.set()  # requests that wait for the server give up
            pool.shutdown(wait=True, cancel_futures=True)
            consumer.close()
            self._orders.close()

    def _is_done(self) -> bool:
        """Whether a replay's stretch is read, durable and committed."""
        return self._remainder is not None and not (self._remainder or self._in_flight or self._in_flight.uncommitted)

    def _next(self, consumer: Consumer) -> list[_Batch]:
        """Step 1, up to the ends of a replay."""
        messages = self._take(consumer)
        if self._remainder is None:
            return self._batches(messages)
        before, reached = self._remainder.cut(messages)
        batches = self._batches(before)
        if reached:
            consumer.pause([TopicPartition(self._topic, partition) for partition in reached])
            batches = batches or [_Batch()]
            batches[-1].offsets |= reached
        return batches

    def _take(self, consumer: Consumer) -> list[Message]:
        """What is there: `consume` alone waits for the last of a batch. While requests are under way there is time for
        a larger batch; when none is, whoever searches waits for this one."""
        most = self._batch_documents()
        if self._in_flight:
            return consumer.consume(most, _POLL_S)
        first = consumer.consume(1, _POLL_S)
        return first + consumer.consume(most - 1, _LINGER_S) if first and most > 1 else first

    def _batch_documents(self) -> int:
        """Under a limit no more at a time than half a second's worth: a larger batch would be waited off in silence."""
        allowed = self._throttle.documents_per_second
        return BATCH_DOCUMENTS if allowed is None else max(1, min(BATCH_DOCUMENTS, int(allowed / 2)))

    def _settings(self) -> dict[str, object]:
        return {
            "client.id": self._name,
            # While OpenSearch is away nothing is polled; a dead process is noticed by its session anyway.
            "max.poll.interval.ms": 3_600_000,
            "enable.partition.eof": True,
            # Small, for memory; a record larger than these still comes, by itself.
            "fetch.max.bytes": 2 * 1024 * 1024,
            "max.partition.fetch.bytes": 512 * 1024,
            "queued.max.messages.kbytes": 2 * 1024,
        }

    def _batches(self, messages: Sequence[Message]) -> list[_Batch]:
        """Step 1. The loop runs once for each document: it opens the envelope and never the document."""
        batch = _Batch()
        batches = [batch]
        open_envelope, wants = self._reader.open, self._wants
        for message in messages:
            error = message.error()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                self._on_error(error)  # it may be about the topic, or about none
                continue
            partition, offset = message.partition(), message.offset()
            assert partition is not None and offset is not None
            if error is not None:
                # An end of partition says how far committed records go: past the transaction markers.
                batch.offsets[partition] = offset
                continue
            key, value = message.key() or b"", message.value()
            batch.offsets[partition] = offset + 1
            try:
                if key == WATERMARK_KEY and value is not None and value.startswith(WATERMARK.prefix):
                    batch.mark(partition, decode_watermark(value))
                    continue
                if wants is not None and not wants(key, value):
                    continue
                if not key.isascii():
                    key.decode()
                if value is None:
                    version, document = _tombstone_version(message), None
                else:
                    version, document = open_envelope(value)
                    batch.size += len(document)
            except (CodecError, UnicodeDecodeError) as bad:
                why, text = str(bad), key.decode(errors="replace")
                batch.unreadable.append(Reject(text, value, "read", "CodecError", why, self._topic, partition, offset))
                continue
            batch.add(key, Item(key, version, document, partition, offset))
            batch.size += len(key) + _ACTION_BYTES
            if batch.size > MAX_BODY_BYTES:
                batch = _Batch()
                batches.append(batch)
        return [b for b in batches if b.offsets]

    def _on_error(self, error: KafkaError) -> None:
        refused = poll_refusal(error, self._group, self._topic, self._cluster.bootstrap)
        if refused is not None:
            raise refused
        self._reporter.pause(f"Kafka: {error.str()}", self._backoff.next_s())

    def _submit(self, pool: ThreadPoolExecutor, batch: _Batch) -> None:
        """Step 2. Waits until it may."""
        while not self._in_flight.may_submit(batch):
            self._finish_oldest()
        if batch.items:
            batch.request = pool.submit(self._writer.write, list(batch.items.values()), lambda: batch.given_up)
        else:
            batch.request.set_result(BulkResult())
        self._in_flight.submit(batch)

    def _finish_oldest(self) -> None:
        """Steps 3 and 4."""
        batch = self._in_flight.oldest
        try:
            result = batch.request.result()
        except GivenUp:
            self._in_flight.finish()
            return
        rejects = [*batch.unreadable, *result.rejects]
        if rejects:
            self._rejects.write(rejects)
            self._rejected += len(rejects)
            self._reporter.count("rejected", len(rejects))
        elif batch.items:
            self._rejected = 0
        self._in_flight.finish()
        self._throttle.take(len(batch.items), batch.size)
        if batch.items:
            self._backoff.reset()
            self._reporter.waiting("")
        self._reporter.count("indexed", result.indexed)
        if superseded := result.superseded + batch.superseded:
            self._reporter.count("superseded", superseded)
        if self._rejected > self._max_rejects:
            raise BlockedError(
                f"indexer {self._name} rejected {self._rejected} documents, without a batch that was accepted",
                where=self._run.topic("rejects"),
                why=f"limits.max_rejects allows {self._max_rejects}",
                remedy=f"see them with `reshelve rejects list {self._run}`, then correct the mapping",
            )

    def _settle(self, *, wait: bool) -> None:
        """Finish what is under way: all of it, or what has finished by itself."""
        while self._in_flight and (wait or self._in_flight.oldest.request.done()):
            self._finish_oldest()

    def _check(self) -> None:
        """See now and then that the index is still the one the run made."""
        if time.monotonic() - self._checked_at > _UUID_S:
            self._check_generation()
            self._checked_at = time.monotonic()

    def _commit(self, consumer: Consumer, *, force: bool = False) -> None:
        """Step 5. What can't be committed now is kept, and committed with the next."""
        if not (force or time.monotonic() - self._committed_at > _COMMIT_S):
            return
        try:
            if self._in_flight.unrecalled():
                self._recall(consumer)
            places = self._in_flight.to_commit()
            if not places:
                return
            consumer.commit(offsets=[self._place(p, place) for p, place in places.items()], asynchronous=False)
        except KafkaException as error:
            inner = kafka_error(error)
            if inner.code() in (KafkaError.ILLEGAL_GENERATION, KafkaError.UNKNOWN_MEMBER_ID, KafkaError._STATE):
                self._in_flight.disown()  # they are somebody else's now, who indexes from the old offset
            elif not may_pass(inner):
                raise refusal(error, "cannot commit offsets", self._cluster.bootstrap) from None
            else:
                self._reporter.waiting(f"Kafka ({self._cluster.bootstrap}): {inner.str()}")
                self._commit_failed = True
            return
        if self._commit_failed:
            self._commit_failed = False
            self._reporter.waiting("")
        self._in_flight.committed()
        self._committed_at = time.monotonic()

    def _recall(self, consumer: Consumer) -> None:
        """Look up the applied clock of partitions that are committed for the first time since they are ours."""
        wanted = [TopicPartition(self._topic, p) for p in self._in_flight.unrecalled()]
        for place in consumer.committed(wanted, _RECALL_S):
            if place.error is not None:
                raise KafkaException(place.error)
            self._in_flight.recall(place.partition, Applied.decode(place.metadata))

    def _place(self, partition: int, place: Place) -> TopicPartition:
        metadata = "" if place.applied is None else place.applied.encode()
        return TopicPartition(self._topic, partition, place.offset, metadata)

    def _throttled(self, consumer: Consumer) -> None:
        self._throttle.set_share(len(consumer.assignment()), self._partitions)
        while (wait := self._throttle.wait_s()) > 0 and not self._reporter.stop.is_set():
            # Short enough for the consumer to stay in its group; nothing is fetched beyond its queue.
            self._reporter.stop.wait(min(wait, 0.2))
            self._settle(wait=False)
            self._commit(consumer)
            self._orders.poll()
            self._reporter.send()

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Another worker takes these over: it shall find everything that is durable committed."""
        try:
            self._settle(wait=True)
            self._commit(consumer, force=True)
        except Stopped:
            pass
        self._in_flight.forget(place.partition for place in partitions)

    def _on_lost(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._in_flight.forget(place.partition for place in partitions)


def _tombstone_version(message: Message) -> int:
    for name, value in header_items(message):
        if name == VERSION_HEADER:
            try:
                return int(value)
            except ValueError:
                break
    raise CodecError("a tombstone without a version header")
