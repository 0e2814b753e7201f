"""A page: its rows, read from the source, become documents and rejects; and how large a page should be."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

import xxhash
from confluent_kafka import Producer

from reshelve.errors import SourceRefused
from reshelve.model import PageTask, RunId
from reshelve.producers.snapshot import SnapshotReader
from reshelve.schemas.envelope import envelope_head, seal
from reshelve.schemas.reject import Reject
from reshelve.transform import TransformFailed, apply_transform

PAGE_SECONDS: Final = 0.5
MAX_PAGE_ROWS: Final = 20_000
MAX_PAGE_BYTES: Final = 32 * 1024 * 1024
FIRST_PAGE_ROWS: Final = 1_000


class PageTooLarge(Exception):
    """The page is about to exceed its bytes: read it again with fewer rows."""

    def __init__(self, rows: int) -> None:
        super().__init__(rows)
        self.rows = rows


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
class Page:
    """What a page held. rows = documents + left_out + rejected; size is the documents' bytes of JSON, last the last
    key, and more says that the segment goes on behind it."""

    rows: int = 0
    documents: int = 0
    left_out: int = 0
    rejected: int = 0
    size: int = 0
    checksum: int = 0
    last: bytes = b""
    more: bool = False


class PageProducer:
    """Makes the documents of pages.

    max_document_bytes  of JSON; a larger document is rejected
    """

    def __init__(
        self,
        run: RunId,
        source: SnapshotReader,
        transform: Callable[[dict[str, Any]], object] | None,
        max_document_bytes: int,
    ) -> None:
        self._source, self._transform, self._max_bytes = source, transform, max_document_bytes
        self._documents, self._rejects = run.topic("documents"), run.topic("rejects")

    def produce(self, producer: Producer, task: PageTask, version: int, limit: int) -> Page:
        """Produce the next page of the task, `limit` rows at most, inside a snapshot of the source.

        The loop runs once for each document of the source: nothing in it may look inside one.
        Raises PageTooLarge, SourceRefused (a key that is NULL or repeats), psycopg.Error."""
        transform, topic, page = self._transform, self._documents, Page()
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
        if task.end is None and not page.more and self._source.has_null_key():
            raise self._bad_key(None)  # the end of the last segment: nobody else would see such a row
        page.rows, page.documents, page.size, page.checksum = rows, documents, size_sum, checksum
        page.last = last or b""
        return page

    def _shape(
        self, producer: Producer, key: bytes, source_document: bytes | None, size: int, page: Page
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
        elif len(document) > self._max_bytes:
            page.rejected += 1
            self._reject(producer, self._too_large(key, len(document)))
            return None
        return document

    def _reject(self, producer: Producer, reject: Reject) -> None:
        produce_when_free(producer, self._rejects, reject.document, reject.key.encode(), headers=reject.headers())

    def _too_large(self, key: bytes, size: int) -> Reject:
        limit = self._max_bytes
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


def produce_when_free(producer: Producer, topic: str, value: bytes | None, key: bytes, **options: Any) -> None:
    """Produce, waiting while the producer's queue is full: the brokers are slower than the source, so it waits."""
    while True:
        try:
            producer.produce(topic, value, key, **options)
            return
        except BufferError:
            producer.poll(0.05)
