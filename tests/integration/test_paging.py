"""Paging by key on a real server: every type of key, every page size, and tables that change meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import orjson
import psycopg
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sources import describe, expected, read_page, read_segment, reader_of, segments_of

from reshelve.errors import ReshelveError, SourceRefused
from reshelve.kafka import KafkaCluster
from reshelve.local.stack import Endpoints
from reshelve.model import Receipt, RunId, Segment, join_key, partition_of
from reshelve.producers import page, pages
from reshelve.producers.pages import PageLimits, PageReader
from reshelve.producers.snapshot import SnapshotReader
from reshelve.producers.tasks import seed_pages
from reshelve.receipts import tile
from reshelve.reporter import Reporter
from reshelve.schemas.codec import RECEIPT, decode_receipt, schema_of
from reshelve.schemas.envelope import EnvelopeReader
from reshelve.throttle import Throttle

EVERYTHING = Segment(0, None, None)


def execute(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


@dataclass(frozen=True)
class Table:
    """Columns, key columns, and an expression for each column over the row's number n."""

    columns: str
    key: tuple[str, ...]
    values: str
    rows: int = 23


TABLES = {
    "negative and sparse integers": Table("id bigint primary key", ("id",), "(n - 12) * 1000003"),
    "smallint": Table("id smallint primary key", ("id",), "n"),
    "uuid": Table("id uuid primary key", ("id",), "md5(n::text)::uuid"),
    "numeric": Table("id numeric primary key", ("id",), "(n - 10) * 0.37 + 12345678901234567890"),
    "numeric with scale": Table("id numeric(10,4) primary key", ("id",), "n / 7.0"),
    "double": Table("id float8 primary key", ("id",), "case n when 1 then '-infinity' when 2 then 'infinity' when 3"
                    " then 'nan' else (n - 10) / 3.0 end"),
    "timestamp": Table("id timestamp primary key", ("id",), "timestamp '1999-12-31 23:59:59.999995' + n * interval"
                       " '1 microsecond'"),
    "timestamptz": Table("id timestamptz primary key", ("id",), "timestamptz '2024-10-27 00:30:00 Europe/Berlin'"
                         " + n * interval '7 minutes'"),
    "date": Table("id date primary key", ("id",), "case n when 1 then 'infinity' when 2 then '0044-03-15 BC'"
                  " else date '2000-02-27' + n end"),
    "interval": Table("id interval primary key", ("id",), "n * interval '1 day 3 hours 0.5 seconds'"),
    "boolean": Table("id boolean primary key", ("id",), "n > 1", 2),
    "bytea": Table("id bytea primary key", ("id",), "decode(lpad(to_hex(n), 4, '0'), 'hex')"),
    "inet": Table("id inet primary key", ("id",), "'10.0.0.0'::inet + n * 77"),
    "char": Table("id char(6) primary key", ("id",), "'x' || n"),
    "composite": Table("a int, b text, c date, primary key (a, b, c)", ("a", "b", "c"),
                       "n % 3, chr(65 + n % 5), date '2020-01-01' + n"),
    "composite, other order": Table("a int, b int, primary key (b, a)", ("b", "a"), "n % 4, n"),
}  # fmt: skip

# What trips up quoting, collations and the key's own syntax.
TEXTS = [
    "", " ", "  ", "a", "A", "b", "B", "á", "Á", "z", "Z", "ß", "ss", "a|b", "a\\|b", "a\\", "|", "\\", "'", "''", '"',
    'a"b', "a\nb", "a\tb", "%s", "%(low0)s", "a b", "a-b", "ab", "a_b", "10", "9", "-1", "null", "NULL", "{}", "日本",
    "\U0001f600", "e\u0301", "é", "x" * 300, "$1", "q.id",
]  # fmt: skip


def make(database: str, table: Table) -> str:
    """Make the table; the query that reads it."""
    execute(
        database,
        f"create table things ({table.columns}, name text)",
        f"insert into things select {table.values}, 'thing ' || n from generate_series(1, {table.rows}) n",
    )
    return "select * from public.things"


def read_all(reader: SnapshotReader, rows: int, segments: Sequence[Segment] = (EVERYTHING,)) -> dict[str, object]:
    """Everything, page by page; a key that comes twice fails the test."""
    found: dict[str, object] = {}
    for segment in segments:
        for batch in read_segment(reader, segment, rows):
            assert len(batch) <= rows
            assert not batch.keys() & found.keys(), "a key was read twice"
            found |= {key: orjson.loads(document) for key, document in batch.items()}
    return found


@pytest.mark.parametrize("name", TABLES)
def test_every_key_is_read_once_whatever_its_type(database: str, name: str) -> None:
    table = TABLES[name]
    query = make(database, table)
    facts = describe(database, query, table.key)
    reader = reader_of(database, query, facts)
    wanted = expected(database, query, table.key)
    assert len(wanted) == table.rows
    for rows in (1, 2, 7, table.rows - 1, table.rows, table.rows + 1):
        assert read_all(reader, rows) == wanted, f"pages of {rows}"
    execute(database, "analyze things")
    segments = segments_of(database, query, table.key, facts, 5)
    assert read_all(reader, 3, segments) == wanted
    reader.close()


# A build without ICU, or an operating system without locales, lacks some.
COLLATIONS = {
    "C": 'collate "C"',
    "default": "",
    "unicode code points": "collate pg_c_utf8",
    "libc": "(provider = libc, locale = 'en_US.utf8')",
    "icu": "(provider = icu, locale = 'und')",
    "ignoring case": "(provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
}
_EQUAL_BUT_FOR_CASE = {"A", "B", "Á", "Z", "NULL", "ss", "é"}


@pytest.mark.parametrize("collation", COLLATIONS)
def test_texts_are_paged_in_any_collation(database: str, collation: str) -> None:
    texts = [text for text in TEXTS if collation != "ignoring case" or text not in _EQUAL_BUT_FOR_CASE]
    _create_text_table(database, COLLATIONS[collation])
    with psycopg.connect(database, autocommit=True) as connection:
        connection.cursor().executemany("insert into things values (%s)", [[text] for text in texts])
    execute(database, "analyze things")
    query = "select * from public.things"
    facts = describe(database, query, ["id"])
    reader = reader_of(database, query, facts)
    wanted: dict[str, object] = {text: {"id": text} for text in texts}
    for rows in (1, 2, 5, 100):
        assert read_all(reader, rows) == wanted
    for number in (2, 4, len(texts)):
        segments = segments_of(database, query, ["id"], facts, number)
        assert len(segments) > 1
        assert read_all(reader, 3, segments) == wanted
    reader.close()


def _create_text_table(database: str, collation: str) -> None:
    if collation.startswith("("):
        try:
            execute(database, f"create collation ours {collation}")
        except psycopg.Error as error:
            pytest.skip(str(error))
        collation = "collate public.ours"
    execute(database, f"create table things (id text {collation} primary key)")


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    keys=st.sets(
        st.tuples(
            st.text(
                st.sampled_from("ab|\\' ") | st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
                max_size=4,
            ),
            st.integers(-(2**63), 2**63 - 1),
        ),
        max_size=25,
    ),
    rows=st.integers(1, 27),
    number=st.integers(1, 6),
)  # fmt: skip
def test_any_composite_keys_any_page_size_any_segments(
    composite: tuple[str, SnapshotReader], keys: set[tuple[str, int]], rows: int, number: int
) -> None:
    url, reader = composite
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("delete from things")
        connection.cursor().executemany("insert into things values (%s, %s)", list(keys))
        connection.execute("analyze things")
    query = "select * from public.things"
    segments = segments_of(url, query, ["a", "b"], reader._facts, number)
    found = read_all(reader, rows, segments)
    assert found == {join_key([a, str(b)]): {"a": a, "b": b} for a, b in keys}


@pytest.fixture
def composite(database: str) -> Iterator[tuple[str, SnapshotReader]]:
    execute(database, "create table things (a text collate pg_c_utf8, b bigint, primary key (a, b))")
    query = "select * from public.things"
    reader = reader_of(database, query, describe(database, query, ["a", "b"]))
    yield database, reader
    reader.close()


def test_rows_that_come_and_go_between_pages_do_no_harm(database: str) -> None:
    """The row at the cursor is deleted, its neighbours too, and rows are inserted before and behind the cursor:
    what is there all the time is read once; what is behind the cursor is not looked at again."""
    query = make(database, Table("id bigint primary key", ("id",), "n * 10", 20))
    reader = reader_of(database, query, describe(database, query, ["id"]))
    first, cursor = read_page(reader, None, None, 5)
    assert list(first) == ["10", "20", "30", "40", "50"] and cursor == ("50",)
    execute(database, "delete from things where id in (50, 60, 90)", "insert into things values (45), (55), (200000)")
    second, cursor = read_page(reader, cursor, None, 5)
    assert list(second) == ["55", "70", "80", "100", "110"]
    execute(database, "delete from things where id > 110")
    third, cursor = read_page(reader, cursor, None, 5)
    assert third == {} and cursor is None
    reader.close()


@pytest.mark.parametrize("rows", [0, 1])
def test_a_table_with_next_to_nothing(database: str, rows: int) -> None:
    query = make(database, Table("id bigint primary key", ("id",), "n", rows))
    facts = describe(database, query, ["id"])
    assert facts.estimated_documents == rows
    reader = reader_of(database, query, facts)
    assert segments_of(database, query, ["id"], facts, 4) == (EVERYTHING,)
    assert len(read_all(reader, 1)) == len(read_all(reader, 10)) == rows
    reader.close()


def test_a_document_is_what_the_database_says(database: str) -> None:
    """Special floats, exact numbers, line breaks between the tokens of a json column, names that need quoting."""
    execute(
        database,
        'create table things (id int primary key, f float8, n numeric, j json, jb jsonb, t text, "Odd ""name" int)',
        "insert into things values"
        " (1, 'nan', 123456789012345678901234567890.123456789, E'{\\n \"a\" : [1,\\n2]\\n}', '{}', E'a\\nb', 7),"
        " (2, '-infinity', 'nan', 'null', null, null, null), (3, 1e308, 1e-20, '\"\\n\"', '[]', '', 0)",
    )
    query = "select * from public.things"
    reader = reader_of(database, query, describe(database, query, ["id"]))
    with reader.snapshot():
        found = {key.decode(): document or b"" for key, document, _ in reader.page(None, None, 10)}
    reader.close()
    one = orjson.loads(found["1"])
    assert one["f"] == "NaN" and one["j"] == {"a": [1, 2]} and one["t"] == "a\nb" and one['Odd "name'] == 7
    assert b"123456789012345678901234567890.123456789" in found["1"]
    two = orjson.loads(found["2"])
    assert (two["f"], two["n"], two["j"], two["jb"]) == ("-Infinity", "NaN", None, None)
    assert orjson.loads(found["3"])["j"] == "\n"


def test_a_document_over_the_limit_stays_in_the_database(database: str) -> None:
    execute(database, "create table things (id int primary key, t text)")
    execute(database, "insert into things values (1, 'small'), (2, repeat('x', 9000000)), (3, 'small')")
    query = "select * from public.things"
    reader = reader_of(database, query, describe(database, query, ["id"]))
    with reader.snapshot():
        found = {key: (document, size) for key, document, size in reader.page(None, None, 10)}
    reader.close()
    assert found[b"2"] == (None, 9_000_000 + len('{"id":2,"t":""}'))
    assert found[b"1"] == (b'{"id":1,"t":"small"}', 20)


def test_an_array_is_no_key(database: str) -> None:
    execute(database, "create table things (id int[] primary key)")
    with pytest.raises(SourceRefused, match="is an array"):
        describe(database, "select * from public.things", ["id"])


# --- the page reader itself, on a real Kafka


@dataclass
class Copy:
    """What a page reader left in the topics."""

    documents: dict[str, object]
    records: int
    receipts: list[Receipt]
    partitions: dict[str, int]


@pytest.fixture
def copy(endpoints: Endpoints, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Copy]:
    """Reads a table with a page reader, in pages of at most three rows, until the receipts tile."""
    monkeypatch.setattr(pages, "FIRST_PAGE_ROWS", 3)
    monkeypatch.setattr(page, "MAX_PAGE_ROWS", 3)

    def read(url: str, query: str, key: Sequence[str], segments: int = 1) -> Copy:
        cluster, run = KafkaCluster(endpoints.kafka_bootstrap), RunId(namespace, "1")
        for topic, partitions in (("pages", 2), ("documents", 3), ("rejects", 1), ("progress", 1)):
            cluster.create_topic(run.topic(topic), partitions, {}, None)
        cluster.start_group(run.group("pages"), run.topic("pages"), 2)
        facts = describe(url, query, key)
        planned = segments_of(url, query, key, facts, segments)
        seed_pages(cluster, run, planned, 2)
        _work(cluster, run, reader_of(url, query, facts), planned, len(key))
        return _collect(cluster, run)

    return read


def _work(cluster: KafkaCluster, run: RunId, source: SnapshotReader, planned: Sequence[Segment], columns: int) -> None:
    """Run a page reader until it has read everything, or can't go on."""
    stop = threading.Event()
    reporter = Reporter(cluster, run, "pages", "test", stop=stop)
    limits = PageLimits(active_partitions=2, max_rejects=10, max_document_bytes=1 << 20)
    throttle = Throttle(None, None)
    worker = PageReader(
        cluster, run, source, name="test", columns=columns, limits=limits, throttle=throttle, transform=None,
        reporter=reporter,
    )  # fmt: skip
    failed: list[ReshelveError] = []

    def work() -> None:
        try:
            worker.work()
        except ReshelveError as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while thread.is_alive() and not tile(planned, _receipts(cluster, run)).complete:
        thread.join(0.2)
    stop.set()
    thread.join()
    reporter.close()
    if failed:
        raise failed[0]


def _receipts(cluster: KafkaCluster, run: RunId) -> list[Receipt]:
    values = [message.value() or b"" for message in cluster.read(run.topic("progress"), [0])]
    return [decode_receipt(value) for value in values if schema_of(value) is RECEIPT]


def _collect(cluster: KafkaCluster, run: RunId) -> Copy:
    envelopes, documents, partitions, records = EnvelopeReader(), {}, {}, 0
    for message in cluster.read(run.topic("documents"), range(3)):
        key = (message.key() or b"").decode()
        documents[key] = orjson.loads(envelopes.open(message.value() or b"")[1])
        partitions[key] = message.partition() or 0
        records += 1
    return Copy(documents, records, _receipts(cluster, run), partitions)


def test_a_table_larger_than_a_page_is_copied_once_with_receipts_that_tile(
    database: str, copy: Callable[..., Copy]
) -> None:
    """Composite keys, several segments; json with line breaks stays on one line."""
    execute(
        database,
        "create table things (a int, b text, j json, primary key (a, b))",
        "insert into things select n % 7, 'b|' || n, E'{\\n\"x\":\\n1}' from generate_series(1, 50) n",
        "analyze things",
    )
    query = "select * from public.things"
    done = copy(database, query, ["a", "b"], 3)
    assert done.documents == expected(database, query, ["a", "b"])
    assert done.records == 50 == sum(receipt.documents for receipt in done.receipts)
    assert all(receipt.rows <= 3 for receipt in done.receipts)
    assert len({receipt.segment for receipt in done.receipts}) == 3
    assert done.partitions == {key: partition_of(key.encode(), 3) for key in done.documents}


def test_an_empty_table_leaves_one_receipt(database: str, copy: Callable[..., Copy]) -> None:
    execute(database, "create table things (id int primary key)")
    done = copy(database, "select * from public.things", ["id"])
    assert done.records == 0
    assert [(r.low, r.high, r.rows) for r in done.receipts] == [(None, None, 0)]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("(1), (2), (2), (4)", "key 2 has more than one row"),
        ("(1), (2), (3), (3), (4)", "key 3 has more than one row"),  # across the page's edge
        ("(1), (2), (3), (null)", "a row has a NULL key"),
        ("(null)", "a row has a NULL key"),
    ],
)
def test_a_key_that_is_none_is_refused(database: str, copy: Callable[..., Copy], rows: str, words: str) -> None:
    execute(database, "create table things (id int)", f"insert into things values {rows}")
    with pytest.raises(SourceRefused, match="can't be told apart") as refused:
        copy(database, "select * from public.things", ["id"])
    assert refused.value.why == words


def test_a_null_key_is_noticed_where_every_page_has_bounds(database: str, copy: Callable[..., Copy]) -> None:
    """No comparison finds such a row, so the end of the last segment looks for it."""
    execute(
        database,
        "create table things (a int not null, b int)",
        "insert into things select n, n from generate_series(1, 50) n union all select 7, null",
        "analyze things",
    )
    with pytest.raises(SourceRefused) as refused:
        copy(database, "select * from public.things", ["a", "b"], 3)
    assert refused.value.why == "a row has a NULL key"


# --- partitions


def test_a_key_lies_where_librdkafka_would_put_it(endpoints: Endpoints, namespace: str) -> None:
    """`partition_of` is librdkafka's `consistent` partitioner, on keys of every kind, empty ones included."""
    cluster, topic = KafkaCluster(endpoints.kafka_bootstrap), f"reshelve.{namespace}.1.keys"
    cluster.create_topic(topic, 7, {}, None)
    keys = [text.encode() for text in TEXTS] + [str(n).encode() for n in range(200)] + [b"\xff\x00", b"\0"]
    found: dict[bytes, int] = {}
    producer: Producer = cluster.producer()
    for key in keys:
        producer.produce(topic, b"", key, on_delivery=lambda _e, m: found.update({m.key() or b"": m.partition() or 0}))
    assert producer.flush(30) == 0
    assert found == {key: partition_of(key, 7) for key in keys}
    assert len(set(found.values())) == 7


def test_a_consumer_without_an_offset_does_not_begin_elsewhere(endpoints: Endpoints, namespace: str) -> None:
    """A missing offset means that it was lost, so it is an error."""
    cluster, topic = KafkaCluster(endpoints.kafka_bootstrap), f"reshelve.{namespace}.1.keys"
    cluster.create_topic(topic, 1, {}, None)
    consumer: Consumer = cluster.consumer(f"reshelve.{namespace}.1.nobody")
    consumer.assign([TopicPartition(topic, 0)])
    message = None
    while message is None:
        message = consumer.poll(1)
    consumer.close()
    error = message.error()
    assert error is not None and error.name() == "_AUTO_OFFSET_RESET"


def test_the_first_tasks_are_written_after_an_attempt_that_was_killed(endpoints: Endpoints, namespace: str) -> None:
    """The markers of its aborted transaction occupy offsets in the topic, which holds no task all the same."""
    cluster, run = KafkaCluster(endpoints.kafka_bootstrap), RunId(namespace, "1")
    topic = run.topic("pages")
    cluster.create_topic(topic, 2, {}, None)
    killed = cluster.producer({"transactional.id": run.prefix + "seed"})
    killed.init_transactions(10)
    killed.begin_transaction()
    killed.produce(topic, b"task", partition=0)
    killed.flush(10)
    segments = [Segment(0, None, ("5",)), Segment(1, ("5",), None)]
    for _ in range(2):  # and once only
        seed_pages(cluster, run, segments, 2)
    assert len(list(cluster.read(topic, range(2)))) == 2
