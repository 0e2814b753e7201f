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
from reshelve.producers.shaping import Shaped, Shaper, one_line, produce_when_free
from reshelve.producers.snapshot import SnapshotReader
from reshelve.producers.transactor import TryAgain
from reshelve.schemas.envelope import envelope_head, seal

PAGE_SECONDS: Final = 0.5  # of reading: a commit takes as long for few rows, and must not make pages ever smaller
MAX_PAGE_SECONDS: Final = 3.0  # with the commit: well below the transaction's timeout
MAX_PAGE_ROWS: Final = 20_000
MAX_PAGE_BYTES: Final = 32 * 1024 * 1024
FIRST_PAGE_ROWS: Final = 1_000


class PageTooLarge(TryAgain):
    """The page is about to exceed its bytes: read it again with fewer rows."""

    def __init__(self, rows: int) -> None:
        super().__init__(rows)
        self.rows = rows


def next_page_rows(
    rows: int, seconds: float, size: int, documents_per_second: float | None, *, whole_seconds: float = 0.0
) -> int:
    """How many rows the next page should have, so that reading it takes about `PAGE_SECONDS` and it stays well under
    `MAX_PAGE_BYTES`; under a limit no more than that limit passes in as long. At most doubles at a time.

    seconds        that the rows took to be read and produced
    whole_seconds  the same with snapshot, flush and commit: below `MAX_PAGE_SECONDS` they do not matter
    """
    wanted: float = FIRST_PAGE_ROWS
    if rows:
        share = min(PAGE_SECONDS / max(seconds, 0.001), MAX_PAGE_SECONDS / max(whole_seconds, 0.001))
        wanted = rows * min(2.0, share)
    if size and rows:
        wanted = min(wanted, MAX_PAGE_BYTES / 2 / (size / rows))
    if documents_per_second is not None:
        wanted = min(wanted, documents_per_second * PAGE_SECONDS)
    return max(1, min(int(wanted), MAX_PAGE_ROWS))


@dataclass(slots=True)
class Page:
    """What a page held. rows = documents + left_out + rejected; size is the documents' bytes of JSON, last the last
    key, and more says that the segment goes on behind it. seconds: what reading and producing the rows took."""

    rows: int = 0
    documents: int = 0
    left_out: int = 0
    rejected: int = 0
    size: int = 0
    checksum: int = 0
    last: bytes = b""
    more: bool = False
    seconds: float = 0.0


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
        self._source, self._documents = source, run.topic("documents")
        self._shaper = Shaper(run, transform, max_document_bytes)

    def produce(self, producer: Producer, task: PageTask, version: int, limit: int) -> Page:
        """Produce the next page of the task, `limit` rows at most, inside a snapshot of the source.

        The loop runs once for each document of the source: nothing in it may look inside one.
        Raises PageTooLarge, SourceRefused (a key that is NULL or repeats), psycopg.Error."""
        transform, topic, page = self._shaper.transform, self._documents, Page()
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
                    shaped = self._shaper.shape(producer, key, source_document, size, version)
                    if not isinstance(shaped, bytes):
                        page.rejected += shaped is Shaped.REJECTED
                        page.left_out += shaped is Shaped.LEFT_OUT
                        continue
                    document = shaped
                elif b"\n" in source_document:
                    document = one_line(source_document)
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
