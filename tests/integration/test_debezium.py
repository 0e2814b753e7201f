"""Changes from Debezium's topics: a real connector, and Avro as its converter for a schema registry writes it.

A registry is no single jar on Maven Central, and Confluent's converter is not there at all. So the Avro records are
written here, by the schema that Debezium documents and in Confluent's wire format, and a server that knows the one call
readers need stands in for the registry."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from struct import pack
from typing import Any

import fastavro
import psycopg
import pytest
from connect import Connector, running
from pipeline import Pipeline

from reshelve.check.debezium import check_debezium
from reshelve.check.findings import Findings, Size
from reshelve.errors import AccessRefused, BlockedError, SourceRefused
from reshelve.kafka import KafkaCluster
from reshelve.model import ChangePlan, ChangeRule, RunId
from reshelve.producers.changes import Change
from reshelve.producers.debezium import DebeziumSource, prepare
from reshelve.producers.debezium_feed import DebeziumFeed
from reshelve.producers.debezium_registry import SchemaRegistry
from reshelve.producers.replication import SlotInUse
from reshelve.producers.source import open_session
from reshelve.spec import Spec, load

PATIENCE_S = 60.0
INSERT_LSN = "select (pg_current_wal_insert_lsn() - '0/0')::bigint"


class Followed:
    """A run that follows a connector's topics, as far as its tailer sees it."""

    def __init__(self, pipeline: Pipeline, slot: str, columns: dict[str, str], **debezium: Any) -> None:
        path = pipeline.write(changes={"debezium": {"slot": slot, **debezium}})
        self.spec: Spec = load(path, pipeline.environment())
        self.run = RunId(pipeline.name, "r1")
        self.connection, _ = open_session(pipeline.database, "test")
        oid = self.value("select 'public.docs'::regclass::oid::int")
        rule = ChangeRule("public", "docs", oid, tuple(columns), tuple(columns.values()))
        self.plan = ChangePlan("debezium", slot, rules=(rule,))
        self.created_lsn = prepare(self.connection, self.run, self.spec)

    def value(self, statement: str) -> int:
        row = self.connection.execute(statement.encode()).fetchone()
        assert row is not None
        return int(row[0])

    def source(self) -> DebeziumSource:
        return DebeziumSource(self.run, self.spec, self.plan, created_lsn=self.created_lsn, name="test tailer")

    @contextmanager
    def feed(self) -> Iterator[DebeziumFeed]:
        feed = self.source().open(self.connection, 0, lambda: 0)
        try:
            yield feed
        finally:
            feed.close()

    def catch_up(self, feed: DebeziumFeed) -> list[Change]:
        """All changes of the transactions that have committed by now."""
        lsn, deadline, changes = self.value(INSERT_LSN), time.monotonic() + PATIENCE_S, list[Change]()
        while feed.passed < lsn:
            feed.ask(lsn)
            changes += feed.poll(0.1)
            assert time.monotonic() < deadline, f"{feed.passed} passed, waiting for {lsn}"
        return changes


def execute(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def values(changes: Iterable[Change]) -> list[str]:
    """Old and new values, comparable; of the order between partitions nothing is known."""
    return in_any_order((change.old, change.new) for change in changes)


def in_any_order(pairs: Iterable[tuple[Any, Any]]) -> list[str]:
    return sorted(map(str, pairs))


COLUMNS = {
    "id": "bigint",
    "kind": "character varying(10)",
    "code": "character(4)",
    "born": "date",
    "seen": "timestamp without time zone",
    "zoned": "timestamp(3) with time zone",
    "price": "numeric(10,2)",
    "uid": "uuid",
    "ok": "boolean",
    "host": "inet",
}
ROWS = {
    1: "'a', 'x', '2024-02-29', '2024-02-29 12:34:56.789012', '2024-02-29 14:34:56.78+02', -12.3,"
    " '6B0E7A0E-6D2C-4DD3-8D3C-2F8A3B7F1111', true, '10.0.0.1'",
    2: "'é|', 'wxyz', '0044-03-15 BC', '0044-03-15 10:00:00.5 BC', '1969-12-31 23:59:59.999+00', 0,"
    " '6B0E7A0E-6D2C-4DD3-8D3C-2F8A3B7F2222', false, '::1/64'",
}


def test_a_real_connector(pipeline: Pipeline, tmp_path: Path) -> None:
    """Inserts, updates, deletes and changed keys come with the text that the server gives for their columns; a
    position is passed with all of them, though the tables are idle then; a truncated table, a second tailer, a lost
    slot are noticed."""
    columns = ", ".join(f"{name} {type_}" for name, type_ in COLUMNS.items())
    execute(pipeline.database, f"create table docs ({columns}, note text, primary key ({', '.join(COLUMNS)}))")
    execute(pipeline.database, f"insert into docs values (0, {ROWS[1]})")  # before: no part of it
    bootstrap = pipeline.endpoints.kafka_bootstrap
    # By default it says nothing of TRUNCATE, and has no heartbeat.
    settings = {"skipped.operations": "none", "heartbeat.interval.ms": "0"}
    made = Connector(
        tmp_path / "connect", pipeline.database, bootstrap, pipeline.name, ["public.docs"], settings=settings
    )
    with running(made) as connector:
        followed = Followed(pipeline, connector.name, COLUMNS, topics=list(connector.topics))
        texts = f"select {', '.join(f'{name}::text' for name in COLUMNS)} from public.docs where id > 0 order by id"
        execute(pipeline.database, *(f"insert into docs values ({id_}, {row})" for id_, row in ROWS.items()))
        rows = followed.connection.execute(texts.encode()).fetchall()
        with followed.feed() as feed:
            assert values(followed.catch_up(feed)) == in_any_order((None, row) for row in rows)
            passed = feed.passed
            with pytest.raises(SlotInUse):
                followed.source().open(followed.connection, 0, lambda: 0)
        execute(
            pipeline.database,
            "begin; savepoint s; update docs set note = 'rolled back'; rollback to s;"
            " update docs set note = 'n' where id = 1; commit",
            "begin; delete from docs; rollback",
            "update docs set id = 3 where id = 1",
            "delete from docs where id = 2",
        )
        renamed = ("3", *rows[0][1:])
        later = [(None, rows[0]), (rows[0], None), (None, renamed), (rows[1], None)]
        with followed.feed() as feed:  # again from the beginning: nothing was confirmed
            changes = followed.catch_up(feed)
            assert values(changes) == in_any_order([*((None, row) for row in rows), *later])
            assert len({c.xid for c in changes}) == 5
            feed.confirm(feed.passed)
            assert feed.passed > passed
        with followed.feed() as feed:
            assert followed.catch_up(feed) == []
            execute(pipeline.database, "truncate docs")
            with pytest.raises(SourceRefused, match="truncated"):
                followed.catch_up(feed)
        connector.stop()
        source = followed.source()
        feed = source.open(followed.connection, 0, lambda: 0)
        execute(pipeline.database, "alter table docs rename to other")
        with pytest.raises(SourceRefused, match="renamed"):
            source.check(followed.connection)
        execute(pipeline.database, f"select pg_drop_replication_slot('{connector.name}')")
        with pytest.raises(SourceRefused, match="gone"):
            feed.poll(0)
        feed.close()
    followed.connection.close()


SOURCE_FIELDS = [
    {"name": name, "type": "string"} for name in ("version", "connector", "name", "db", "schema", "table")
] + [
    {"name": "ts_ms", "type": "long"},
    {"name": "snapshot", "type": [{"type": "string", "connect.name": "io.debezium.data.Enum"}, "null"]},
    {"name": "sequence", "type": ["null", "string"], "default": None},
    {"name": "txId", "type": ["null", "long"], "default": None},
    {"name": "lsn", "type": ["null", "long"], "default": None},
    {"name": "xmin", "type": ["null", "long"], "default": None},
]  # fmt: skip
DECIMAL = {
    "type": "bytes", "scale": 2, "precision": 10, "connect.version": 1, "logicalType": "decimal",
    "connect.parameters": {"scale": "2", "connect.decimal.precision": "10"},
    "connect.name": "org.apache.kafka.connect.data.Decimal",
}  # fmt: skip
ROW_FIELDS = [
    {"name": "id", "type": "long"},
    {"name": "price", "type": ["null", DECIMAL], "default": None},
    {"name": "born", "type": ["null", {"type": "int", "connect.version": 1, "connect.name": "io.debezium.time.Date"}]},
]  # fmt: skip
KEY_SCHEMA = {"type": "record", "name": "Key", "namespace": "p.public.docs", "fields": ROW_FIELDS[:1]}
SOURCE_RECORD = {
    "type": "record", "name": "Source", "namespace": "io.debezium.connector.postgresql", "fields": SOURCE_FIELDS
}  # fmt: skip
ENVELOPE_SCHEMA = {
    "type": "record", "name": "Envelope", "namespace": "p.public.docs", "connect.version": 2, "fields": [
        {"name": "before", "type": ["null", {"type": "record", "name": "Value", "fields": ROW_FIELDS}]},
        {"name": "after", "type": ["null", "Value"], "default": None},
        {"name": "source", "type": SOURCE_RECORD},
        {"name": "op", "type": "string"},
        {"name": "ts_ms", "type": ["null", "long"], "default": None},
    ],
}  # fmt: skip
SCHEMAS = {11: KEY_SCHEMA, 12: ENVELOPE_SCHEMA}


@contextmanager
def registry(fail_first: int = 0) -> Iterator[tuple[str, list[str]]]:
    """A server that answers `GET /schemas/ids/{id}` for user and password u:p, and what it was asked for. The first
    `fail_first` answers are 503."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/schemas/types":
                self.answer(200, ["AVRO"])
                return
            asked.append(self.path)
            schema = SCHEMAS.get(int(self.path.rpartition("/")[2]))
            if len(asked) <= fail_first:
                self.answer(503, {"error_code": 50001, "message": "starting"})
            elif self.headers["authorization"] != "Basic dTpw":
                self.answer(401, {"error_code": 401, "message": "Unauthorized"})
            elif schema is None:
                self.answer(404, {"error_code": 40403, "message": "Schema not found"})
            else:
                self.answer(200, {"schema": json.dumps(schema)})

        def answer(self, status: int, body: Any) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_arguments: Any) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://u:p@127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def avro(number: int, record: dict[str, Any]) -> bytes:
    """In Confluent's wire format."""
    out = io.BytesIO()
    out.write(pack(">bI", 0, number))
    fastavro.schemaless_writer(out, fastavro.parse_schema(SCHEMAS[number]), record)
    return out.getvalue()


@contextmanager
def slot(pipeline: Pipeline) -> Iterator[str]:
    """A slot that nobody reads."""
    execute(pipeline.database, f"select pg_create_logical_replication_slot('{pipeline.name}', 'pgoutput')")
    try:
        yield pipeline.name
    finally:
        execute(pipeline.database, f"select pg_drop_replication_slot('{pipeline.name}')")


def test_avro_with_a_registry(pipeline: Pipeline) -> None:
    """Decimals and dates, also those before the year 1; tombstones are passed over; a schema is asked for once; a
    position is passed only when the slot is confirmed and the topics' ends are reached."""
    execute(
        pipeline.database,
        "create table docs (id bigint, price numeric(10,2), born date, primary key (id, price, born))",
    )
    cluster = KafkaCluster(pipeline.endpoints.kafka_bootstrap)
    topic = f"reshelve.{pipeline.name}.source.public.docs"
    cluster.create_topic(topic, 2, {}, None)
    producer = cluster.producer()

    def write(op: str, before: Any, after: Any) -> None:
        facts = {"version": "3.3.1.Final", "connector": "postgresql", "name": "p", "db": "d", "schema": "public"}
        source = facts | {"table": "docs", "ts_ms": 1, "snapshot": "false", "txId": 7, "lsn": 1}
        key = avro(11, {"id": (before or after)["id"]})
        producer.produce(topic, avro(12, {"before": before, "after": after, "source": source, "op": op}), key)
        if op == "d":
            producer.produce(topic, None, key)
        producer.flush()

    columns = {"id": "bigint", "price": "numeric(10,2)", "born": "date"}
    row, text = {"id": 1, "price": b"\xfb\x32", "born": -735160}, ("1", "-12.30", "0044-03-15 BC")
    deadline = time.monotonic() + PATIENCE_S
    with registry(fail_first=1) as (url, asked), slot(pipeline) as name:
        write("c", None, row | {"id": 9})  # before the run
        pipeline.environ["REGISTRY"] = url  # with a password
        followed = Followed(pipeline, name, columns, topics=[topic], format="avro", registry="${REGISTRY}")
        with followed.feed() as feed:
            write("c", None, row)
            write("d", row, None)
            seen: list[Change] = []
            while len(seen) < 2 and time.monotonic() < deadline:
                seen += feed.poll(0.1)
            assert values(seen) == in_any_order([(None, text), (text, None)])
            pipeline.execute("create table moves_the_log ()")
            lsn = followed.value(INSERT_LSN)
            assert feed.passed < lsn  # the slot says nothing of it
            while feed.passed < lsn:
                execute(pipeline.database, f"select pg_replication_slot_advance('{name}', pg_current_wal_flush_lsn())")
                feed.poll(0.1)
                assert time.monotonic() < deadline
        followed.connection.close()
    assert sorted(asked) == ["/schemas/ids/11", "/schemas/ids/12", "/schemas/ids/12"]


def test_what_a_registry_refuses() -> None:
    with registry() as (url, _):
        with pytest.raises(BlockedError, match="Schema not found"):
            SchemaRegistry(url).schema(99)
        wrong = SchemaRegistry(url.replace("u:p", "u:secret"))
        with pytest.raises(AccessRefused) as refused:
            wrong.schema(11)
        assert "secret" not in str(refused.value)


def test_a_run_needs_slot_and_topics(pipeline: Pipeline) -> None:
    execute(pipeline.database, "create table docs (id bigint primary key)")
    with pytest.raises(SourceRefused, match="no replication slot"):
        Followed(pipeline, f"{pipeline.name}_no", {"id": "bigint"}, topics=["t"])
    topics = [f"{pipeline.name}.public.docs"]
    with slot(pipeline) as name, pytest.raises(BlockedError, match="does not exist"):
        Followed(pipeline, name, {"id": "bigint"}, topics=topics)


def test_checks_before_a_run(pipeline: Pipeline) -> None:
    """Topics that are missing or compacted, a registry that is away, and what makes a connector slow to tell."""
    cluster = KafkaCluster(pipeline.endpoints.kafka_bootstrap)
    prefix = f"reshelve.{pipeline.name}.source"
    cluster.create_topic(f"{prefix}.public.docs", 1, {"cleanup.policy": "compact"}, None)
    topics = [f"{prefix}.public.docs", f"{prefix}.public.other"]
    with registry() as (url, _):
        pipeline.environ["REGISTRY"] = url
        found = _checked(pipeline, topics=topics, format="avro", registry="${REGISTRY}")
    assert [found[field] for field in ("changes.debezium.topics", "changes.debezium")] == [
        {
            ("error", "does not exist"),
            ("warning", "is compacted"),
            ("warning", "keeps events"),
            ("warning", "no topic"),
        },
        {("warning", "confirms its slot")},
    ]
    cluster.create_topic(f"{prefix}.message", 1, {}, None)
    found = _checked(pipeline, topics=topics[:1], format="avro", registry="${REGISTRY}")
    assert found["changes.debezium.topics"] == {("warning", "is compacted"), ("warning", "keeps events")}
    assert found["changes.debezium.registry"] == {("error", "does not answer")}


_WORDS = ("does not exist", "is compacted", "keeps events", "no topic", "confirms its slot", "does not answer")


def _checked(pipeline: Pipeline, **debezium: Any) -> dict[str, set[tuple[str, str]]]:
    """Levels and words of the problems of each field."""
    path = pipeline.write(changes={"debezium": {"slot": "none", **debezium}})
    findings = Findings(load(path, pipeline.environment()))
    check_debezium(findings, Size(10**12, 10**15))  # a copy that takes longer than the brokers' seven days
    found: dict[str, set[tuple[str, str]]] = {}
    for field in ("changes.debezium.topics", "changes.debezium.registry", "changes.debezium"):
        place = findings.spec.place(field)
        found[field] = {
            (problem.level, word)
            for problem in findings.problems
            for word in _WORDS
            if problem.place == place and word in problem.what
        }
    return found
