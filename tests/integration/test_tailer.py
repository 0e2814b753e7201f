"""The change tailer on real servers: every kind of transaction, what breaks the history, and how it goes on."""

from __future__ import annotations

import random
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sources import describe, read_page, reader_of
from tailing import PARTITIONS, Tailed, key_rule, tailed
from test_paging import TABLES

from reshelve.errors import BlockedError, SourceRefused
from reshelve.kafka import KafkaCluster
from reshelve.local.kafka import KafkaServer
from reshelve.local.postgres import PostgresServer
from reshelve.model import ChangeRule, KeyTask, SourceFacts, Watermark, partition_of
from reshelve.producers.changes import ChangeFeed
from reshelve.producers.slot_source import SlotSource

DOCS = "create table docs (id bigint primary key, name text not null)"


@pytest.fixture
def cluster(kafka_bootstrap: str) -> KafkaCluster:
    return KafkaCluster(kafka_bootstrap)


@pytest.fixture
def docs(database: str, cluster: KafkaCluster, namespace: str) -> Iterator[Tailed]:
    """A table of five documents, and a slot that was made after them."""
    execute(database, DOCS, "insert into docs select n, 'document ' || n from generate_series(1, 5) n")
    with tailed(database, cluster, namespace) as one:
        yield one


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A server of our own, to be restarted."""
    settings = {"max_prepared_transactions": "10", "shared_buffers": "16MB", "autovacuum": "off"}
    server = PostgresServer(tmp_path_factory.mktemp("primary"), settings=settings)
    try:
        server.start()
        server.wait_healthy()
        yield server
    finally:
        server.stop()
        server.remove()


@pytest.fixture
def own(server: PostgresServer, cluster: KafkaCluster, namespace: str) -> Iterator[Tailed]:
    """The same on the server of our own."""
    execute(server.url, f"create database {namespace}")
    url = server.url_of(namespace)
    execute(url, DOCS, "insert into docs select n, 'document ' || n from generate_series(1, 5) n")
    with tailed(url, cluster, namespace) as one:
        yield one
    execute(server.url, f"drop database {namespace} with (force)")


def execute(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def keys_after(one: Tailed, *statements: str) -> list[str]:
    """The keys of the tasks that the statements lead to."""
    one.execute(*statements)
    with one.tailer() as working:
        working.catch_up()
    return one.task_keys()


@pytest.mark.parametrize(
    ("statement", "keys"),
    [
        ("insert into docs values (6, 'six'), (7, 'seven')", ["6", "7"]),
        ("update docs set name = 'two' where id = 2", ["2"]),
        ("delete from docs where id in (1, 5)", ["1", "5"]),
        ("update docs set id = 30 where id = 3", ["3", "30"]),
        ("update docs set id = id + 100 where id > 3", ["104", "105", "4", "5"]),
        ("insert into docs values (1, 'again') on conflict (id) do update set name = excluded.name", ["1"]),
        ("begin; insert into docs values (6, ''); update docs set name = 'x' where id = 6; commit", ["6"]),
        ("begin; insert into docs values (6, ''); rollback", []),
        ("begin; update docs set name = 'x' where id = 1; savepoint a; delete from docs where id = 2;"
         " rollback to a; savepoint b; delete from docs where id = 3; release b; commit", ["1", "3"]),
        ("create table other (id int primary key); insert into other values (9)", []),
        ("alter table docs replica identity full; delete from docs where id = 4", ["4"]),
    ],
)  # fmt: skip
def test_what_a_transaction_touches_is_read_again(docs: Tailed, statement: str, keys: list[str]) -> None:
    assert keys_after(docs, statement) == keys


def test_tasks_and_watermarks(docs: Tailed) -> None:
    """A task carries the transaction's id; it goes to the partition of its document; watermarks go to all."""
    with docs.tailer() as working, psycopg.connect(docs.url) as connection:
        before = time.time() * 1000
        row = connection.execute("insert into docs values (6, 'six') returning pg_current_xact_id()::text").fetchone()
        connection.commit()
        working.catch_up()
        assert row is not None
    for number, part in enumerate(docs.records()):
        marks = [record for _, record in part if isinstance(record, Watermark)]
        assert marks
        assert marks == sorted(marks, key=lambda mark: (mark.version, mark.lsn))
        tasks = [(key, record) for key, record in part if isinstance(record, KeyTask)]
        if number == partition_of(b"6", PARTITIONS):
            ((key, task),) = tasks
            assert (key, task.after_xid) == ("6", int(row[0]))
            assert before - 1000 < task.at <= time.time() * 1000 + 1000
        else:
            assert not tasks
    counts = working.reporter._counts
    assert (counts["changes"], counts["key_tasks"], counts["transactions"]) == (1, 1, 1)
    assert counts["wal_retained"] > 0


def test_keys_are_written_as_readers_write_them(database: str, cluster: KafkaCluster, namespace: str) -> None:
    """Key tasks name documents by text: of every type it must be the one that a page reader gives the document."""
    wanted: list[str] = []
    rules: list[ChangeRule] = []
    names = [f"t{number}" for number in range(len(TABLES))]
    for name, table in zip(names, TABLES.values(), strict=True):
        execute(database, f"create table {name} ({table.columns}, name text)")
        with psycopg.connect(database) as connection:
            types = connection.execute(
                "select attname, format_type(atttypid, atttypmod), attrelid::bigint from pg_attribute"
                " where attrelid = %s::regclass and attnum > 0",
                [name],
            ).fetchall()
        by_name = {column: type_ for column, type_, _ in types}
        oid = types[0][2]
        rules.append(ChangeRule("public", name, oid, table.key, tuple(by_name[column] for column in table.key)))
    query, key = f"select * from public.{names[0]}", ("id",)
    with tailed(database, cluster, namespace, query, key, lambda _: rules) as one:
        for name, table in zip(names, TABLES.values(), strict=True):
            one.execute(f"insert into {name} select {table.values}, '' from generate_series(1, {table.rows}) n")
            query = f"select * from public.{name}"
            reader = reader_of(database, query, describe(database, query, table.key))
            wanted += read_page(reader, None, None, table.rows)[0]
            reader.close()
        with one.tailer() as working:
            working.catch_up()
        assert one.task_keys() == sorted(wanted)


def test_partitions_are_followed_under_their_topmost_table(
    database: str, cluster: KafkaCluster, namespace: str
) -> None:
    execute(
        database,
        "create table docs (id bigint, region text, primary key (id, region)) partition by list (region)",
        "create table docs_a partition of docs for values in ('a')",
        "create table docs_b (region text not null, id bigint not null, primary key (id, region))",
        "alter table docs attach partition docs_b for values in ('b')",
    )
    key = ("id", "region")
    with tailed(database, cluster, namespace, key=key, rules=key_rule(id="bigint", region="text")) as one:
        statements = ("insert into docs values (1, 'a'), (2, 'b')", "update docs set region = 'b' where id = 1")
        assert Counter(keys_after(one, *statements)) == Counter({"1|a": 2, "1|b": 1, "2|b": 1})


def test_a_large_transaction_is_written_as_it_comes(docs: Tailed) -> None:
    rows = 100_000
    statement = f"insert into docs select n, repeat('x', 20) from generate_series(1000, {999 + rows}) n"
    assert keys_after(docs, statement) == sorted(str(n) for n in range(1000, 1000 + rows))


def test_prepared_transactions_count_from_their_commit(own: Tailed) -> None:
    with own.tailer() as working:
        own.execute("begin; insert into docs values (6, ''); prepare transaction 'a'")
        own.execute("begin; insert into docs values (7, ''); prepare transaction 'b'")
        working.catch_up()
        assert own.task_keys() == []
        own.execute("commit prepared 'a'", "rollback prepared 'b'")
        working.catch_up()
    assert own.task_keys() == ["6"]


def test_an_idle_database_keeps_no_wal(own: Tailed, server: PostgresServer) -> None:
    """Traffic of other databases is in the same log: the slot must be confirmed past it."""
    with own.tailer() as working:
        working.catch_up()
        before = own.slot_state().confirmed_lsn or 0
        execute(server.url, "create table if not exists noise as select n from generate_series(1, 50000) n")
        working.catch_up()
        assert (own.slot_state().confirmed_lsn or 0) > before + 1_000_000
    assert own.task_keys() == []


def test_the_server_is_restarted(own: Tailed, server: PostgresServer) -> None:
    with own.tailer() as working:
        working.catch_up()
        server.stop()  # ends in good order only if the tailer lets go
        server.start()
        server.wait_healthy()
        own.execute("insert into docs values (6, 'six')")
        working.catch_up()
        assert own.task_keys() == ["6"]
        server.kill()
        server.start()
        server.wait_healthy()
        own.execute("insert into docs values (7, 'seven')")
        working.catch_up()
    assert set(own.task_keys()) == {"6", "7"}


def test_the_brokers_are_away_for_a_while(database: str, private_home: Path) -> None:
    """The source keeps what is not acknowledged, and the slot stays ours meanwhile."""
    kafka = KafkaServer(private_home, heap="256m")
    try:
        kafka.start()
        kafka.wait_healthy()
        execute(database, DOCS)
        with tailed(database, KafkaCluster(kafka.address), "away") as one:
            with one.tailer() as working:
                one.execute("insert into docs values (1, 'one')")
                working.catch_up()
                kafka.kill()
                one.execute("insert into docs values (2, 'two')")
                working.await_that(lambda: "not acknowledged" in working.reporter._waiting)
                before = one.slot_state()
                assert before.active_pid is not None
                kafka.start()
                kafka.wait_healthy()
                working.catch_up()
                assert one.slot_state().active_pid == before.active_pid
            assert set(one.task_keys()) == {"1", "2"}
    finally:
        kafka.stop()
        kafka.remove()


def test_a_second_tailer_stands_by(docs: Tailed) -> None:
    with docs.tailer() as second:
        with docs.tailer() as first:
            first.await_that(lambda: docs.slot_state().active_pid is not None)
            docs.execute("insert into docs values (6, 'six')")
            first.catch_up()
            waiting = first if first.reporter._waiting else second
            waiting.await_that(lambda: "standing by" in waiting.reporter._waiting)
        docs.execute("insert into docs values (7, 'seven')")
        second.catch_up()
    assert set(docs.task_keys()) == {"6", "7"}


class Dies(Exception):
    """A tailer's sudden end."""


class DyingSource(SlotSource):
    """Its feed dies instead of confirming for the so-manieth time."""

    left = 1

    def open(self, *arguments: Any) -> ChangeFeed:  # type: ignore[override]
        feed = super().open(*arguments)
        confirm = feed.confirm

        def die(lsn: int) -> None:
            if self.left == 0:
                raise Dies
            self.left -= 1
            confirm(lsn)

        feed.confirm = die  # type: ignore[method-assign]
        return feed


@pytest.mark.parametrize("confirmed", [0, 1, 3])
def test_what_was_not_confirmed_comes_again(docs: Tailed, confirmed: int) -> None:
    """Written, acknowledged, the watermark durable, and then killed before the source was told."""
    source = docs.source()
    source.__class__ = DyingSource
    source.left = confirmed  # type: ignore[attr-defined]
    with docs.tailer(source) as working:
        number = 100
        while working.thread.is_alive():
            number += 1
            docs.execute(f"insert into docs values ({number}, '')")
    assert isinstance(working.error, Dies)
    with docs.tailer() as working:
        working.catch_up()
    assert set(docs.task_keys()) == {str(n) for n in range(101, number + 1)}


def test_a_watermark_is_never_before_what_its_snapshot_saw(docs: Tailed) -> None:
    """Writers commit all the time; afterwards each watermark is compared with what its snapshot saw."""
    written: list[tuple[str, int]] = []
    ending = threading.Event()

    def write(seed: int) -> None:
        chance = random.Random(seed)
        with psycopg.connect(docs.url) as connection:
            while not ending.is_set():
                ids = [chance.randint(1, 200) * 10 + seed for _ in range(chance.randint(1, 4))]
                upsert = "insert into docs select unnest(%s::bigint[]), '' on conflict (id) do update set name = ''"
                connection.execute(upsert, [sorted(set(ids))])
                row = connection.execute("select pg_current_xact_id()::text").fetchone()
                assert row is not None
                if chance.random() < 0.2:
                    connection.rollback()
                    continue
                connection.commit()
                written.extend((str(n), int(row[0])) for n in set(ids))

    threads = [threading.Thread(target=write, args=[seed]) for seed in range(4)]
    with docs.tailer() as working:
        for thread in threads:
            thread.start()
        working.await_that(lambda: len(docs.seen) > 12)
        ending.set()
        for thread in threads:
            thread.join()
        working.catch_up()
    marks = 0
    for number, part in enumerate(docs.records()):
        due = [(key, xid) for key, xid in written if partition_of(key.encode(), PARTITIONS) == number]
        told: set[tuple[str, int]] = set()
        for key, record in part:
            if isinstance(record, KeyTask):
                told.add((key, record.after_xid))
                continue
            marks += 1
            ids = docs.seen[record.version]
            assert not [one for one in due if ids.sees(one[1]) and one not in told]
        assert told == set(due)
    assert marks > 2 * PARTITIONS


# --- joined documents

PLACES = (
    "create table countries (code char(2) primary key, name text)",
    "create table docs (id bigint primary key, country char(2), name text)",
    "create table names (id bigint primary key, doc bigint, name text)",
    "alter table names replica identity full",
    "insert into countries select chr(65 + n) || 'X', 'c' from generate_series(0, 9) n",
    "insert into docs select n, chr(65 + n % 10) || 'X', 'd' from generate_series(1, 50000) n",
    "insert into names select n, n, 'n' from generate_series(1, 100) n",
)
JOINED = (
    "select d.id, d.name, c.name as country, (select json_agg(n.name) from public.names n where n.doc = d.id) as names"
    " from public.docs d left join public.countries c on c.code = d.country"
)


def place_rules(facts: SourceFacts) -> Sequence[ChangeRule]:
    oids = {table.name: table.oid for table in facts.tables}
    lookup = "select id from public.docs where country = any(%(values)s)"
    rule = partial(ChangeRule, "public")
    return [
        rule("docs", oids["docs"], ("id",), ("bigint",)),
        rule("names", oids["names"], ("doc",), ("bigint",)),
        rule("countries", oids["countries"], ("code",), ("character(2)",), lookup),
    ]


@pytest.fixture
def places(database: str, cluster: KafkaCluster, namespace: str) -> Iterator[Tailed]:
    """Documents of three tables."""
    execute(database, *PLACES)
    with tailed(database, cluster, namespace, JOINED, ("id",), place_rules) as one:
        yield one


def test_a_change_of_another_table_touches_its_documents(places: Tailed) -> None:
    statements = (
        "update names set name = 'x' where id = 7",
        "update names set doc = 70 where id = 8",
        "insert into names values (101, null, 'of nobody')",
        "delete from names where id = 9",
    )
    assert Counter(keys_after(places, *statements)) == Counter(["7", "8", "70", "9"])


def test_a_lookup_that_touches_many_documents(places: Tailed) -> None:
    statements = (
        "update countries set name = 'x' where code in ('AX', 'BX')",
        "update docs set name = 'x' where id = 5",
    )
    keys = keys_after(places, *statements)
    assert set(keys) == {str(n) for n in range(1, 50001) if n % 10 in (0, 1)} | {"5"}
    tasks = dict(places.tasks())
    assert tasks["10"].after_xid == 0  # found at a snapshot that saw the change
    assert tasks["5"].after_xid > 0


def test_a_lookup_is_done_before_the_watermark_that_saw_its_change(places: Tailed) -> None:
    with places.tailer() as working, psycopg.connect(places.url) as connection:
        for number in range(3):
            connection.execute("update countries set name = %s where code = 'CX'", [f"name {number}"])
            row = connection.execute("select pg_current_xact_id()::text::bigint").fetchone()
            connection.commit()
            assert row is not None
            working.catch_up()
            for part in places.records():
                rounds = found = 0
                for _, record in part:
                    if isinstance(record, KeyTask):
                        found += 1
                    elif places.seen[record.version].sees(row[0]):
                        rounds = found
                        break
                assert rounds, "no watermark has seen the change"
                assert rounds >= (number + 1) * 2000


@pytest.mark.parametrize("values", [1, 12_000], ids=["one value", "more values than are kept"])
def test_a_lookup_waits_until_its_transaction_is_visible(
    server: PostgresServer, cluster: KafkaCluster, namespace: str, values: int
) -> None:
    """With a synchronous standby that is away, a commit is in the log and decoded, and not visible."""
    execute(server.url, f"create database {namespace}")
    url = server.url_of(namespace)
    execute(
        url,
        "create table parents (id bigint primary key, name text)",
        "create table docs (id bigint primary key, parent bigint)",
        f"insert into parents select n, '' from generate_series(1, {values}) n",
        "insert into docs select n, n from generate_series(1, 10) n",
    )

    def rules(facts: SourceFacts) -> Sequence[ChangeRule]:
        oids = {table.name: table.oid for table in facts.tables}
        lookup = "select id from public.docs where parent = any(%(values)s)"
        rule = partial(ChangeRule, "public")
        return [
            rule("docs", oids["docs"], ("id",), ("bigint",)),
            rule("parents", oids["parents"], ("id",), ("bigint",), lookup),
        ]

    query = "select d.id, p.name from public.docs d join public.parents p on p.id = d.parent"
    wanted = [str(n) for n in range(1, min(values, 10) + 1)]
    with tailed(url, cluster, namespace, query, ("id",), rules) as one, one.tailer() as working:
        working.catch_up()
        with synchronous_standby_away(server):
            writer = threading.Thread(target=execute, args=[url, "update parents set name = 'x'"])
            writer.start()
            working.await_that(lambda: working.reporter._counts["changes"] >= values // 2)
            working.await_that(lambda: "to become visible" in working.reporter._waiting)
            assert one.task_keys() == []
        writer.join()
        working.catch_up()
        assert sorted(set(one.task_keys())) == sorted(wanted)
    execute(server.url, f"drop database {namespace} with (force)")


@contextmanager
def synchronous_standby_away(server: PostgresServer) -> Iterator[None]:
    """Commits wait for a standby that there is not, in every database of the server."""
    setting = "alter system set synchronous_standby_names = '{}'"
    local = "set synchronous_commit = local"
    execute(server.url, local, setting.format("nobody"), "select pg_reload_conf()")
    try:
        yield
    finally:
        execute(server.url, local, setting.format(""), "select pg_reload_conf()")


def test_a_lookup_that_fails_is_blocked(places: Tailed) -> None:
    rule = place_rules(places.facts)[2]
    broken = replace(rule, lookup="select 1 / (id - id) from public.docs where country = any(%(values)s)")
    places.plan = replace(places.plan, rules=(broken,))
    places.execute("update countries set name = 'x' where code = 'DX'")
    with places.tailer() as working:
        assert "the lookup for changes of public.countries failed" in str(working.refusal())


# --- what breaks the history


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("truncate docs", "truncated"),
        ("begin; insert into docs values (6, ''); truncate docs; commit", "truncated"),
        ("alter table docs rename column id to number; insert into docs values (6, '')", "no column id|altered"),
        ("alter table docs drop column id; insert into docs values ('six')", "altered|no column id"),
        ("alter table docs add column more text", "altered"),
        ("alter publication {publication} set (publish = 'insert')", "changed since|does not tell all"),
        ("alter publication {publication} drop table docs; alter publication {publication} add table docs", "changed"),
        ("drop publication {publication}", "is gone"),
    ],
)
@pytest.mark.parametrize("running", [True, False], ids=["meanwhile", "while stopped"])
def test_what_breaks_the_history_is_blocked(docs: Tailed, statement: str, why: str, running: bool) -> None:
    statement = statement.format(publication=docs.plan.publication)
    if not running:
        docs.execute(statement)
    with docs.tailer() as working:
        if running:
            working.catch_up()
            docs.execute(statement)
        error = working.refusal()
    assert isinstance(error, SourceRefused)
    assert re.search(why, str(error)), str(error)
    assert error.remedy


def test_a_replica_identity_that_lost_the_key(database: str, cluster: KafkaCluster, namespace: str) -> None:
    execute(database, "create table docs (id bigint primary key, code int not null unique)")
    with tailed(database, cluster, namespace) as one:
        one.execute("alter table docs replica identity using index docs_code_key", "insert into docs values (1, 1)")
        with one.tailer() as working:
            working.catch_up()
            one.execute("update docs set id = 2")
            error = working.refusal()
    assert "old values of id are not known" in str(error)


def slot(one: Tailed, statement: str) -> None:
    one.execute(statement.format(slot=one.plan.slot))


DROP = "select pg_drop_replication_slot('{slot}')"
MAKE = "select pg_create_logical_replication_slot('{slot}', 'pgoutput')"
MOVE = "select pg_replication_slot_advance('{slot}', pg_current_wal_insert_lsn())"


@pytest.mark.parametrize(
    ("statements", "why"),
    [([DROP], "gone|lost"), ([DROP, MAKE], "moved or made anew"), ([MOVE], "moved or made anew")],
    ids=["dropped", "made anew", "advanced"],
)
@pytest.mark.parametrize("worked", [True, False], ids=["after work", "before any"])
def test_a_slot_that_somebody_else_touched_is_blocked(
    docs: Tailed, statements: list[str], why: str, worked: bool
) -> None:
    if worked:
        with docs.tailer() as working:
            docs.execute("insert into docs values (6, 'six')")
            working.catch_up()
    docs.execute("insert into docs values (7, 'seven')")
    await_inactive(docs)
    for statement in statements:
        slot(docs, statement)
    with docs.tailer() as working:
        error = working.refusal()
    assert isinstance(error, SourceRefused)
    assert re.search(why, str(error)), str(error)
    assert "7" not in docs.task_keys()


def test_a_slot_that_was_not_touched_goes_on(docs: Tailed) -> None:
    for number in (6, 7, 8):
        docs.execute(f"insert into docs values ({number}, '')")
        with docs.tailer() as working:
            working.catch_up()
    assert set(docs.task_keys()) == {"6", "7", "8"}


def test_the_slot_is_given_up_before_the_disk_is_full(docs: Tailed) -> None:
    with docs.tailer(docs.source(max_wal_retained=1_000_000)) as working:
        working.await_that(lambda: docs.slot_state().active_pid is not None)
        with psycopg.connect(docs.url) as connection:  # holds the slot's restart position
            connection.execute("insert into docs values (6, 'six')")
            docs.execute("create table noise as select repeat('x', 100) as x from generate_series(1, 50000) n")
            error = working.refusal()
    assert isinstance(error, BlockedError)
    assert "was dropped" in str(error)
    assert "max_wal_retained" in error.why
    assert not docs.slot_state().exists


def await_inactive(one: Tailed) -> None:
    """The server notices the end of a connection in its own time."""
    while one.slot_state().active_pid is not None:
        time.sleep(0.05)
