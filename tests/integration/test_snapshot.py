"""The conditions on which the snapshot clock rests, each broken on a real server."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from sources import describe, reader_of

from reshelve.errors import AccessRefused, BlockedError, SourceRefused
from reshelve.local.postgres import PostgresServer
from reshelve.model import SourceFacts
from reshelve.producers.snapshot import SnapshotReader

QUERY = "select id, name from public.things"


@pytest.fixture
def things(database: str) -> str:
    """A database with a table of ten things."""
    execute(database, "create table things (id bigint primary key, name text)")
    execute(database, "insert into things select n, 'thing ' || n from generate_series(1, 10) n")
    return database


@pytest.fixture(scope="module")
def primary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A server of our own whose WAL nobody flushes for ten seconds unless asked to."""
    settings = {
        "wal_writer_delay": "10s",
        "wal_writer_flush_after": "1GB",
        "autovacuum": "off",
        "shared_buffers": "16MB",
    }
    server = PostgresServer(tmp_path_factory.mktemp("primary"), settings=settings)
    try:
        server.start()
        server.wait_healthy()
        execute(server.url, "create table things (id bigint primary key, name text)")
        execute(server.url, "insert into things values (1, 'one')")
        yield server
    finally:
        server.stop()
        server.remove()


def execute(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)


def read(reader: SnapshotReader) -> tuple[int, dict[bytes, bytes | None]]:
    """The version and the rows of one page of everything."""
    with reader.snapshot() as snapshot:
        rows = {key: document for key, document, _ in reader.page(None, None, 1000)}
    return snapshot.version, rows


@pytest.fixture
def facts(things: str) -> SourceFacts:
    return describe(things, QUERY, ["id"])


@pytest.fixture
def reader(things: str, facts: SourceFacts) -> Iterator[SnapshotReader]:
    reader = reader_of(things, QUERY, facts)
    yield reader
    reader.close()


def test_what_holds_is_read(reader: SnapshotReader) -> None:
    _, rows = read(reader)
    assert len(rows) == 10 and rows[b"3"] == b'{"id":3,"name":"thing 3"}'


@pytest.mark.parametrize(
    "change",
    [
        "truncate things",
        "alter table things alter column id type numeric",
        "alter table things alter column name type varchar(50)",
        "alter table things add column colour text",
        "alter table things rename column name to title",
        "vacuum full things",
        "drop table things; create table things (id bigint primary key, name text)",
    ],
)
def test_a_table_changed_between_two_pages_is_refused(things: str, reader: SnapshotReader, change: str) -> None:
    read(reader)
    for statement in change.split(";"):
        execute(things, statement)
    with pytest.raises(SourceRefused, match="truncated, rewritten or altered"):
        read(reader)


def test_a_partition_attached_between_two_pages_is_refused(database: str) -> None:
    execute(database, "create table things (id bigint primary key, name text) partition by range (id)")
    execute(database, "create table low partition of things for values from (0) to (10)")
    execute(database, "insert into things values (1, 'one')")
    reader = reader_of(database, QUERY, describe(database, QUERY, ["id"]))
    read(reader)
    execute(database, "create table high partition of things for values from (10) to (20)")
    with pytest.raises(SourceRefused, match="truncated, rewritten or altered"):
        read(reader)
    reader.close()


def test_a_table_is_locked_while_a_page_is_read(things: str, reader: SnapshotReader) -> None:
    """An older snapshot would see a truncated table as empty, so truncating waits for the page."""
    with reader.snapshot(), psycopg.connect(things, autocommit=True) as other:
        other.execute("set lock_timeout = '50ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            other.execute("truncate things")
    execute(things, "truncate things")


def test_a_transaction_id_of_its_own_is_refused(things: str, facts: SourceFacts) -> None:
    reader = reader_of(things, "select id, name, pg_current_xact_id()::text as x from public.things", facts)
    with pytest.raises(SourceRefused, match="id of its own"):
        read(reader)
    reader.close()


def test_writing_is_refused(things: str, facts: SourceFacts) -> None:
    execute(things, "create sequence numbers")
    reader = reader_of(things, "select id, name, nextval('public.numbers') as n from public.things", facts)
    with pytest.raises(BlockedError, match="read-only transaction"):
        read(reader)
    reader.close()


def test_row_level_security_is_refused(things: str, facts: SourceFacts) -> None:
    role = f"limited_{facts.tables[0].oid}"
    execute(things, f"create role {role} login password 'sesame' in role pg_read_all_data")
    try:
        execute(things, f"grant execute on function pg_control_system() to {role}")
        parts = urlsplit(things)
        netloc = f"{role}:sesame@{parts.hostname}:{parts.port}"
        reader = reader_of(urlunsplit(parts._replace(netloc=netloc)), QUERY, facts)
        assert len(read(reader)[1]) == 10
        execute(things, "alter table things enable row level security")
        execute(things, "create policy few on things using (id < 3)")
        with pytest.raises(AccessRefused, match="row-level security"):
            read(reader)
        reader.close()
    finally:
        execute(things, f"drop owned by {role}; drop role {role}")


@pytest.mark.parametrize("lost", ["reset all", "discard all", "reset row_security", "set search_path = public"])
def test_a_session_that_lost_its_settings_is_refused(reader: SnapshotReader, lost: str) -> None:
    """As a transaction pooler does, that hands each transaction another session."""
    read(reader)
    reader.session().execute(lost.encode())
    with pytest.raises(SourceRefused, match="not the one that was set up"):
        read(reader)


def test_settings_that_a_query_changes_end_with_the_page(things: str, facts: SourceFacts) -> None:
    changing = "select id, name, set_config('row_security', 'on', false) as s from public.things"
    reader = reader_of(things, changing, facts)
    assert read(reader) == read(reader)
    reader.close()


@pytest.mark.parametrize("other", [{"system_identifier": "7"}, {"timeline": 99}])
def test_another_history_than_the_planned_one_is_refused(
    things: str, facts: SourceFacts, other: dict[str, object]
) -> None:
    reader = reader_of(things, QUERY, replace(facts, **other))  # type: ignore[arg-type]
    with pytest.raises(SourceRefused, match="another history"):
        read(reader)
    reader.close()


def test_a_server_that_went_away_is_reached_again(things: str, reader: SnapshotReader) -> None:
    before, _ = read(reader)
    execute(things, f"select pg_terminate_backend({reader.session().info.backend_pid})")
    with pytest.raises(psycopg.OperationalError):
        read(reader)
    after, rows = read(reader)
    assert after >= before and len(rows) == 10


def test_a_standby_and_what_it_is_promoted_to_are_refused(primary: PostgresServer, tmp_path: Path) -> None:
    facts = describe(primary.url, QUERY, ["id"])
    standby = PostgresServer(tmp_path / "standby", standby_of=primary, settings={"shared_buffers": "16MB"})
    try:
        standby.start()
        standby.wait_healthy()
        reader = reader_of(standby.url, QUERY, facts)
        with pytest.raises(SourceRefused, match="is a standby"):
            read(reader)
        execute(standby.url, "select pg_promote()")
        with pytest.raises(SourceRefused, match="another history"):
            read(reader)
        reader.close()
    finally:
        standby.stop()
        standby.remove()
    reader = reader_of(primary.url, QUERY, facts)
    assert read(reader)[1]
    reader.close()


def test_what_was_seen_is_durable_before_it_is_published(primary: PostgresServer) -> None:
    """A commit with synchronous_commit = off is visible at once and gone after a crash; the server is idle
    afterwards, so nothing but our asking flushes its WAL."""
    reader = reader_of(primary.url, QUERY, describe(primary.url, QUERY, ["id"]))
    with psycopg.connect(primary.url, autocommit=True) as writer:
        writer.execute("set synchronous_commit = off")
        writer.execute("insert into things values (2, 'not on disk yet')")
    with reader.snapshot() as snapshot:
        rows = {key for key, _, _ in reader.page(None, None, 10)}
    assert b"2" in rows
    reader.await_durable(snapshot, lambda reason: None)
    with psycopg.connect(primary.url) as connection:
        flushed = connection.execute("select pg_current_wal_flush_lsn() >= %s::pg_lsn", [snapshot.insert_lsn])
        assert flushed.fetchone() == (True,)
    reader.close()
    primary.kill()
    primary.start()
    primary.wait_healthy()
    with psycopg.connect(primary.url) as connection:
        assert connection.execute("select count(*) from things where id = 2").fetchone() == (1,)


def test_what_is_not_flushed_yet_is_waited_for(primary: PostgresServer) -> None:
    """WAL without a commit: nobody ever flushes it on an idle server, yet the reader does not hang."""
    reader = reader_of(primary.url, QUERY, describe(primary.url, QUERY, ["id"]))
    with psycopg.connect(primary.url, autocommit=True) as writer:
        writer.execute("select pg_logical_emit_message(false, 'test', repeat('x', 1000))")
        with reader.snapshot() as snapshot:
            pass
        reader.await_durable(snapshot, lambda reason: None)
        row = writer.execute("select pg_current_wal_flush_lsn() >= %s::pg_lsn", [snapshot.insert_lsn]).fetchone()
    assert row == (True,)
    reader.close()


def test_versions_rise_whenever_what_is_visible_changes(things: str, facts: SourceFacts) -> None:
    """Writers commit, roll back and use savepoints while two readers look: equal versions see equal rows, and
    a later version never sees less."""
    stop = threading.Event()
    seen: list[tuple[int, int]] = []

    def write(seed: int) -> None:
        chance = random.Random(seed)
        with psycopg.connect(things, autocommit=True) as connection:
            while not stop.is_set():
                end = chance.choice(["commit", "commit", "rollback"])
                connection.execute(
                    "begin; update things set id = id + 100 where id % 100 = " + str(seed)
                    + f"; savepoint s; update things set name = name where id < 0; rollback to s; {end}"
                )  # fmt: skip

    def look() -> None:
        reader = reader_of(things, QUERY, facts)
        for _ in range(250):
            version, rows = read(reader)
            seen.append((version, sum(int(key) for key in rows)))
        reader.close()

    writers = [threading.Thread(target=write, args=[seed]) for seed in (1, 2, 3)]
    readers = [threading.Thread(target=look) for _ in range(2)]
    for thread in (*writers, *readers):
        thread.start()
    for thread in readers:
        thread.join()
    stop.set()
    for thread in writers:
        thread.join()
    assert len(seen) == 500 and len({total for _, total in seen}) > 20
    seen.sort()
    totals: dict[int, int] = {}
    for version, total in seen:
        assert totals.setdefault(version, total) == total, "equal versions, different rows"
    assert list(totals.values()) == sorted(totals.values()), "a later version sees less"
    assert len(set(totals.values())) <= len(totals)
