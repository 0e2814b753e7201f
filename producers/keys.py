"""The key reader: takes key tasks, reads their keys again, and emits documents and tombstones.

The order of a batch, enforced by `KeyReader._read_keys`:

1. consume records of `changes`; each partition is worked on by one reader at a time, in order
2. open a snapshot that sees every transaction of the batch, whose conditions are checked as for a page
3. begin a Kafka transaction; read the keys by the query of the pages; produce documents, and tombstones for the rest
4. wait until the source has flushed everything the snapshot saw
5. produce each partition's newest watermark, behind its documents
6. send the consumed offsets to the transaction, and commit

So the snapshots of a partition's records only go forward, and its watermark says: every change visible at that clock
stands before it, as a document or a tombstone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any, Final

from confluent_kafka import Consumer, Message, Producer

from reshelve.errors import BlockedError, SourceRefused
from reshelve.kafka import KafkaCluster
from reshelve.model import WATERMARK_KEY, RunId, split_key
from reshelve.orders import Orders
from reshelve.producers.key_batch import KeyBatch, vanished
from reshelve.producers.shaping import Shaped, Shaper, produce_when_free
from reshelve.producers.snapshot import Snapshot, SnapshotReader
from reshelve.producers.transactor import Step, Transactor, TryAgain
from reshelve.reporter import Backoff, Reporter
from reshelve.schemas.codec import (
    WATERMARK,
    CodecError,
    decode_key_task,
    decode_watermark,
    encode_watermark,
)
from reshelve.schemas.envelope import VERSION_HEADER, envelope_head, seal

MAX_KEYS: Final = 2_000
MAX_BATCH_BYTES: Final = 32 * 1024 * 1024
_POLL_S: Final = 0.05
_SAY_AFTER_S: Final = 2.0
_QUICK_S: Final = 3.0  # well below the transaction's timeout; a commit may take a second for few keys, too


class KeyReader:
    """Works on key tasks until it is told to stop.

    name         unique among the run's key readers
    columns      of the key
    max_rejects  a fuse, as that of the indexer
    """

    def __init__(
        self,
        cluster: KafkaCluster,
        run: RunId,
        source: SnapshotReader,
        *,
        name: str,
        columns: int,
        max_rejects: int,
        max_document_bytes: int,
        transform: Callable[[dict[str, Any]], object] | None,
        reporter: Reporter,
        orders: Orders | None = None,
    ) -> None:
        self._cluster, self._run, self._source, self._name = cluster, run, source, name
        self._columns, self._max_rejects, self._reporter = columns, max_rejects, reporter
        self._changes, self._documents = run.topic("changes"), run.topic("documents")
        self._shaper = Shaper(run, transform, max_document_bytes)
        self._transactor = Transactor(
            cluster, run, "keys", name, self._changes, source.where, max_document_bytes, reporter
        )
        self._orders = orders or Orders.none(reporter)
        self._most = MAX_KEYS
        self._rejected: set[bytes] = set()  # without a batch in between that made none
        self._refused: set[bytes] = set()  # of the batch

    def work(self) -> None:
        """Read keys until stopped. Raises ReshelveError when it can't go on."""
        consumer = self._transactor.consumer()
        consumer.subscribe([self._changes], on_assign=self._orders.on_assign)
        try:
            while not self._reporter.stop.is_set():
                messages = []
                self._orders.admit(consumer)
                for message in consumer.consume(self._most, _POLL_S):
                    if (error := message.error()) is not None:
                        self._transactor.on_poll_error(error)
                    else:
                        messages.append(message)
                if messages:
                    self._work_on(consumer, messages)
                self._reporter.send()
        finally:
            consumer.close()
            self._source.close()
            self._orders.close()

    def _work_on(self, consumer: Consumer, messages: Sequence[Message]) -> None:
        batch = self._batch(messages)
        started = time.monotonic()
        ended = self._transactor.step(consumer, messages, lambda: self._read_keys(batch))
        if ended is Step.SLOW:
            self._most = max(1, self._most // 4)
        elif ended is Step.DONE:
            if time.monotonic() - started < _QUICK_S:
                self._most = min(MAX_KEYS, self._most * 2)
            self._reporter.count("keys", len(batch.keys))
            if batch.keys:
                self._rejected = self._rejected | self._refused if self._refused else set()
            if len(self._rejected) > self._max_rejects:
                raise BlockedError(
                    f"key reader {self._name} rejected {len(self._rejected)} documents, without a batch that made none",
                    where=self._run.topic("rejects"),
                    why=f"limits.max_rejects allows {self._max_rejects}",
                    remedy=f"see them with `reshelve rejects list {self._run}`, then correct the query or the"
                    " transform",
                )

    def _batch(self, messages: Sequence[Message]) -> KeyBatch:
        batch = KeyBatch()
        for message in messages:
            record, partition = message.value() or b"", message.partition()
            assert partition is not None
            try:
                decode = decode_watermark if record.startswith(WATERMARK.prefix) else decode_key_task
                batch.add(partition, message.key() or b"", decode(record))
            except CodecError as error:
                raise BlockedError(
                    f"a record of {self._changes} is neither a key task nor a watermark",
                    where=f"{self._cluster.bootstrap}, partition {partition}, offset {message.offset()}",
                    why=str(error),
                    remedy="something else wrote to the run's topic; start a new run with --new",
                ) from None
        return batch

    def _read_keys(self, batch: KeyBatch) -> None:
        if batch.keys:
            snapshot = self._read_when_visible(batch)
            self._source.await_durable(snapshot, self._reporter.waiting)
            producer = self._transactor.producer
        else:
            producer = self._transactor.begin()
        for partition, mark in batch.marks.items():
            produce_when_free(producer, self._documents, encode_watermark(mark), WATERMARK_KEY, partition=partition)

    def _read_when_visible(self, batch: KeyBatch) -> Snapshot:
        """Steps 2 and 3."""
        backoff, started = Backoff(first=0.002, longest=0.1), time.monotonic()
        while True:
            with self._source.snapshot() as snapshot:
                if batch.readable(snapshot.ids):
                    self._produce(self._transactor.begin(), batch, snapshot.version)
                    return snapshot
            waited = time.monotonic() - started
            if waited > _SAY_AFTER_S:
                self._reporter.waiting(
                    f"transactions that the source has logged are not visible yet, for {waited:.0f} s"
                    " (a synchronous standby that does not answer?)"
                )
            if self._reporter.stop.wait(backoff.next_s()):
                raise TryAgain

    def _produce(self, producer: Producer, batch: KeyBatch, version: int) -> None:
        head = envelope_head(version, int(time.time() * 1000))
        asked = [split_key(key.decode(), self._columns) for key in batch.keys]
        there: set[bytes] = set()
        self._refused.clear()
        size = 0
        with closing(self._source.keys(asked)) as found:
            for key, source_document, length in found:
                if key in there:
                    raise SourceRefused(
                        "the query's rows can't be told apart",
                        where=self._source.where,
                        why=f"key {key.decode()} has more than one row",
                        remedy="make the query return one row for each key (a join that multiplies rows?)",
                    )
                there.add(key)
                shaped = self._shaper.shape(producer, key, source_document, length, version)
                if isinstance(shaped, bytes):
                    produce_when_free(producer, self._documents, seal(head, shaped), key)
                elif shaped is Shaped.LEFT_OUT:
                    self._bury(producer, key, version)
                else:
                    self._refused.add(key)
                    self._reporter.count("rejected")
                size += length
                if size > MAX_BATCH_BYTES and len(batch.keys) > 1:
                    self._most = max(1, len(there) // 2)
                    raise TryAgain
        for key in vanished(batch.keys, there):
            self._bury(producer, key, version)
        self._reporter.count("documents", len(there))

    def _bury(self, producer: Producer, key: bytes, version: int) -> None:
        header = [(VERSION_HEADER, str(version).encode())]
        produce_when_free(producer, self._documents, None, key, headers=header)
        self._reporter.count("tombstones")
