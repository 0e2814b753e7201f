"""Every document compared whole, source against index: a key range of the source, a slice of the index.

A range is read page by page, each page at a snapshot of its own; the index is asked for the same keys while the next
page is read. What differs at this first look is looked at again (`suspects`), so it need not be of one moment.

    a key range    finds what is missing, stale, different or foreign; also what the transform leaves out, and is there
    a slice        finds what the source does not have: extra

Memory holds two batches of documents, and digests of those that differ.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Final

import psycopg

from reshelve.context import RunContext
from reshelve.errors import SourceRefused
from reshelve.model import Bound, split_key
from reshelve.producers.shaping import one_line
from reshelve.producers.snapshot import SnapshotReader
from reshelve.throttle import Throttle
from reshelve.validator.excuse import Excuses
from reshelve.validator.findings import Findings
from reshelve.validator.hits import Comparison, compare_batch, refresh
from reshelve.validator.source_keys import SourceKeys, gone
from reshelve.validator.suspects import ROUND_KEYS, Suspect, SuspectReader, shape
from reshelve.validator.target import Check, PointInTime
from reshelve.validator.trace import TopicTrace
from reshelve.validator.verdict import RangeVerdict

PAGE_ROWS: Final = 2_000
_BATCH_BYTES: Final = 8 << 20
_CERTAIN: Final = 20_000  # of what differs, in memory, before the topic is read for its classes


@dataclass(slots=True)
class _Tally:
    documents: int = 0
    found: int = 0
    pending: int = 0


@dataclass
class _Batch:
    """Documents by key; None: none is expected."""

    version: int
    documents: dict[bytes, bytes | None] = field(default_factory=dict)
    size: int = 0

    def put(self, key: bytes, document: bytes | None) -> None:
        self.documents[key] = document
        self.size += len(document or b"")


class FullComparison:
    """What is found out by one task. What differs goes to `findings`, and stands in no verdict yet.

    source   nobody else uses it meanwhile
    share    (held, of): this worker works `held` of the `of` partitions of tasks, and has that share of the limits
    check    called often; raises to end the work"""

    def __init__(
        self,
        context: RunContext,
        source: SnapshotReader,
        excuses: Excuses,
        findings: Findings,
        *,
        throttle: Throttle,
        share: Callable[[], tuple[int, int]],
        check: Check,
    ) -> None:
        key = context.plan.source.key
        self._reader, self._keys, self._columns = source, SourceKeys(source, key), len(key)
        self._client, self._index, self._transform = context.opensearch, context.plan.index, context.transform
        self._suspects = SuspectReader(
            self._keys.documents, context.opensearch, context.plan.index, context.transform, excuses, check
        )
        self._trace = TopicTrace(context, check)
        self._findings, self._throttle, self._share, self._check = findings, throttle, share, check

    def compare_range(self, number: int, low: Bound, high: Bound) -> RangeVerdict:
        """Compare the documents of the keys after `low` up to and including `high`. Raises ReshelveError."""
        tally, suspects = _Tally(), _Suspects(self._suspects, self._report)
        refresh(self._client, self._index)  # what is not shown yet would only have to be looked at again
        with ThreadPoolExecutor(1, "index") as pool:
            asked: Future[Comparison] | None = None
            for page in self._pages(low, high, suspects.keys):
                for batch in page:
                    this = pool.submit(compare_batch, self._client, self._index, batch.documents, batch.version)
                    if asked is not None:
                        _take(asked, tally, suspects.keys)
                    asked = this
                    tally.documents += sum(document is not None for document in batch.documents.values())
                suspects.judge_full()
            if asked is not None:
                _take(asked, tally, suspects.keys)
        tally.pending = suspects.finish()
        return RangeVerdict(number, tally.documents, tally.found, pending=tally.pending)

    def find_extras(self, number: int, point: PointInTime) -> RangeVerdict:
        """Look up the keys of slice `number` of the index in the source. Raises ReshelveError."""
        tally, suspects = _Tally(), _Suspects(self._suspects, self._report)
        for hits in point.scan(number, self._check):
            ids = [hit["_id"].encode() for hit in hits]
            for start in range(0, len(ids), PAGE_ROWS):
                self._await_rate()
                some = ids[start : start + PAGE_ROWS]
                present = self._keys.present(some)
                suspects.keys += [key for key in some if key not in present]
                tally.documents += len(some)
                self._throttle.take(len(some), 0)
                suspects.judge_full()
        tally.found = tally.documents
        tally.pending = suspects.finish()
        return RangeVerdict(number, tally.documents, tally.found, pending=tally.pending)

    def _report(self, certain: Sequence[Suspect]) -> None:
        for one in self._trace.classify(certain):
            self._findings.add("full", one.key, one.drift, one.expected, one.found)

    def _pages(self, low: Bound, high: Bound, suspects: list[bytes]) -> Iterator[Iterator[_Batch]]:
        """Each page's batches, to be taken before the next page is."""
        cursor, more = low, True
        while more:
            self._await_rate()
            page = _Page()
            yield self._page(cursor, high, page, suspects)
            self._throttle.take(page.rows, page.size)
            more = page.rows == PAGE_ROWS
            if more:
                cursor = split_key(page.last.decode(), self._columns)

    def _page(self, low: Bound, high: Bound, page: _Page, suspects: list[bytes]) -> Iterator[_Batch]:
        """A row of which no document can be made goes to `suspects` at once."""
        try:
            with self._reader.snapshot() as snapshot, closing(self._reader.page(low, high, PAGE_ROWS)) as rows:
                batch = _Batch(snapshot.version)
                for key, source, size in rows:
                    if key is None:
                        raise self._null_key()
                    page.rows, page.size, page.last = page.rows + 1, page.size + size, key
                    document = shape(self._transform, source)
                    if document is None:
                        suspects.append(key)
                        continue
                    if b"\n" in document:
                        document = one_line(document)
                    batch.put(key, document or None)
                    if batch.size >= _BATCH_BYTES:
                        yield batch
                        batch = _Batch(snapshot.version)
            if batch.documents:
                yield batch
        except psycopg.OperationalError as error:
            raise gone(self._reader, error) from error

    def _await_rate(self) -> None:
        self._check()
        self._throttle.set_share(*self._share())
        while (seconds := self._throttle.wait_s()) > 0:
            time.sleep(min(seconds, 0.1))
            self._check()

    def _null_key(self) -> SourceRefused:
        return SourceRefused(
            "the query's rows can't be told apart",
            where=self._reader.where,
            why="a row has a NULL key",
            remedy="leave such rows out with scope.where, or make the column NOT NULL",
        )


@dataclass(slots=True)
class _Page:
    rows: int = 0
    size: int = 0
    last: bytes = b""


class _Suspects:
    """The suspect keys of a task, judged by rounds, late: most differ only for a moment."""

    def __init__(self, reader: SuspectReader, report: Callable[[Sequence[Suspect]], None]) -> None:
        self._reader, self._report = reader, report
        self.keys: list[bytes] = []
        self._certain: list[Suspect] = []
        self._pending = 0

    def judge_full(self) -> None:
        """Judge whole rounds."""
        while len(self.keys) >= ROUND_KEYS:
            self._judge()

    def finish(self) -> int:
        """Judge the rest, and report; how many are pending."""
        while self.keys:
            self._judge()
        self._report(self._certain)
        return self._pending

    def _judge(self) -> None:
        judgement = self._reader.read(self.keys[:ROUND_KEYS])
        del self.keys[:ROUND_KEYS]
        self._pending += judgement.pending
        self._certain += judgement.certain
        if len(self._certain) >= _CERTAIN:
            self._report(self._certain)
            self._certain = []


def _take(asked: Future[Comparison], tally: _Tally, suspects: list[bytes]) -> None:
    compared = asked.result()
    tally.found += compared.found
    suspects += compared.suspect
