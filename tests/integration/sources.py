"""Readers of tables that a test has made, set up as a plan would."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import orjson
import psycopg

from reshelve.model import Bound, Segment, SourceFacts, join_key, split_key
from reshelve.producers.planner import describe_source
from reshelve.producers.query import SourceQuery
from reshelve.producers.segments import plan_segments
from reshelve.producers.snapshot import SnapshotReader
from reshelve.producers.source import open_session
from reshelve.spec import Spec, parse

MAX_DOCUMENT_BYTES = 1 << 23
_SPEC = """
reindex: test
source:
  postgres:
    url: "${{SOURCE_URL}}"
    key: {key}
    query: |
      {query}
target: {{opensearch: {{url: "http://localhost", alias: a, index: i.json}}}}
kafka: {{bootstrap: localhost}}
"""


def make_spec(url: str, query: str, key: Sequence[str]) -> Spec:
    text = _SPEC.format(key=orjson.dumps(list(key)).decode(), query=query)
    environ = {"SOURCE_URL": url}
    return parse(text, name="spec.yaml", folder=Path(), environ=environ, definition={"mappings": {}})


def describe(url: str, query: str, key: Sequence[str]) -> SourceFacts:
    """What a plan made now would say of the source."""
    connection, _ = open_session(url, "test")
    with connection:
        return describe_source(connection, make_spec(url, query, key))


def segments_of(url: str, query: str, key: Sequence[str], facts: SourceFacts, wanted: int) -> tuple[Segment, ...]:
    connection, _ = open_session(url, "test")
    with connection:
        return plan_segments(connection, make_spec(url, query, key), facts, wanted)


def reader_of(url: str, query: str, facts: SourceFacts, where: str | None = None) -> SnapshotReader:
    source = SourceQuery(query, where, facts.key)
    return SnapshotReader(url, source, facts, epoch=0, max_document_bytes=MAX_DOCUMENT_BYTES, name="test")


def read_page(reader: SnapshotReader, low: Bound, high: Bound, rows: int) -> tuple[dict[str, bytes], Bound]:
    """A page of at most `rows` documents, each page at a snapshot of its own, and the cursor of the next one;
    the bound `high` when there is none."""
    columns = len(reader._query.key)
    with reader.snapshot():
        found = [(key.decode(), document or b"") for key, document, _ in reader.page(low, high, rows + 1)]
    more = len(found) > rows
    return dict(found[:rows]), split_key(found[rows - 1][0], columns) if more else high


def read_segment(reader: SnapshotReader, segment: Segment, rows: int) -> Iterator[dict[str, bytes]]:
    """The pages of a segment."""
    cursor = segment.low
    while True:
        page, following = read_page(reader, cursor, segment.high, rows)
        yield page
        if following == segment.high:
            return
        cursor = following


def expected(url: str, query: str, key: Sequence[str]) -> dict[str, object]:
    """Every document by key, read without any paging."""
    texts = ", ".join(f'q."{column}"::text' for column in key)
    settings = "-c TimeZone=UTC -c DateStyle=ISO,YMD -c IntervalStyle=iso_8601 -c extra_float_digits=1"
    with psycopg.connect(url, options=settings) as connection:
        rows = connection.execute(f"select row_to_json(q)::text, {texts} from ({query}) q").fetchall()
    return {join_key(parts): orjson.loads(document) for document, *parts in rows}
