"""What `reshelve check` finds of changes, on real servers: each refusal is named and given a remedy that works."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
import yaml

from reshelve.check.findings import Findings, Refusal
from reshelve.check.source import check_source
from reshelve.errors import Problem, SourceRefused
from reshelve.local.postgres import PostgresServer
from reshelve.model import ChangePlan, ChangeRule
from reshelve.producers.slot import create_publication, create_slot, drop_slot
from reshelve.producers.source import open_session
from reshelve.producers.transactions import old_transactions
from reshelve.spec import Spec, parse

pytestmark = pytest.mark.services

SCHEMA = """
create table items (id bigint primary key, name text, code text);
create table keyless (id bigint not null, name text);
create index on keyless (id);
create unlogged table loose (id bigint primary key);
create table parts (id bigint, year int, note text, primary key (id, year)) partition by range (year);
create table parts_1 partition of parts for values from (0) to (2000);
create table parts_2 partition of parts for values from (2000) to (3000);
create view seen as select id, name from items;
"""
CITIES = "select * from public.items"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """One with a single slot, few senders, prepared transactions and a limit on WAL."""
    settings = {
        "max_replication_slots": "1",
        "max_prepared_transactions": "2",
        "max_slot_wal_keep_size": "1GB",
        "idle_replication_slot_timeout": "1h",
    }
    server = PostgresServer(tmp_path_factory.mktemp("narrow"), settings=settings)
    try:
        server.start()
        server.wait_healthy()
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute(SCHEMA)
        yield server
    finally:
        server.remove()


@pytest.fixture
def owner(database: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(SCHEMA)
        yield connection


@pytest.fixture
def check(database: str, owner: psycopg.Connection[Any]) -> Callable[..., list[Problem]]:
    def find(query: str = CITIES, key: Any = "id", url: str = database, **sections: Any) -> list[Problem]:
        return problems(url, query, key, **sections)

    return find


@pytest.fixture
def role(owner: psycopg.Connection[Any]) -> Iterator[str]:
    """Owns nothing, and may read. Its password is `r0le-password`."""
    name = f"r{secrets.token_hex(4)}"
    owner.execute(f"create role {name} login password 'r0le-password'")
    owner.execute(f"grant select on all tables in schema public to {name}")
    owner.execute(f"grant execute on function pg_control_system() to {name}")
    yield name
    owner.execute(f"reassign owned by {name} to current_user; drop owned by {name}; drop role {name}")


def as_role(url: str, role: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{role}:r0le-password@{parts.hostname}:{parts.port}"))


def make_spec(url: str, query: str, key: Any, **sections: Any) -> Spec:
    source = {"url": "${URL}", "key": key, "query": query, "depends_on": sections.pop("depends_on", [])}
    spec = {
        "reindex": "t-1",
        "source": {"postgres": source},
        "target": {"opensearch": {"url": "http://h:9200", "alias": "a", "index": "i.json"}},
        "kafka": {"bootstrap": "h:9092"},
        **sections,
    }
    text = yaml.safe_dump(spec, sort_keys=False)
    return parse(text, name="s.yaml", folder=Path(), environ={"URL": url}, definition={"mappings": {}})


def problems(url: str, query: str = CITIES, key: Any = "id", **sections: Any) -> list[Problem]:
    findings = Findings(make_spec(url, query, key, **sections))
    check_source(findings)
    return findings.problems


def changes_of(*publication: str) -> dict[str, Any]:
    return {"replication": {"publication": publication[0]}} if publication else {"replication": {}}


def test_nothing_is_wrong(check: Callable[..., list[Problem]]) -> None:
    assert check() == []
    assert check("select * from public.seen") == []
    assert check("select * from public.parts", ["id", "year"]) == []


def test_changes_none_is_a_warning_that_says_what_is_not_guaranteed(check: Callable[..., list[Problem]]) -> None:
    (found,) = check(changes="none")
    assert (found.level, found.place) == ("warning", "s.yaml:15:10")
    assert "what is deleted may be found in it" in found.what


def test_rules_and_places(check: Callable[..., list[Problem]]) -> None:
    query = "select i.id, p.note from public.items i left join public.parts p on p.id = i.id"
    (found,) = check(query)
    assert "reads public.parts" in found.what
    (found,) = check(query, depends_on=[{"table": "part", "key": "id"}])[:1]
    assert "no table public.part" in found.what
    assert "did you mean 'public.parts'" in found.remedy
    assert found.place == "s.yaml:9:14"
    assert check(query, depends_on=[{"table": "parts", "key": "id"}]) == []


def test_replica_identity_and_the_statement_that_sets_it(
    check: Callable[..., list[Problem]], owner: psycopg.Connection[Any]
) -> None:
    def errors(*arguments: Any, **sections: Any) -> list[Problem]:
        return [problem for problem in check(*arguments, **sections) if problem.level == "error"]

    (found,) = errors("select * from public.keyless")
    assert "has no primary key" in found.what
    owner.execute(found.remedy)
    assert errors("select * from public.keyless") == []

    query = "select i.id, p.note from public.items i left join public.parts p on p.id = i.id"
    lookup = "select id from public.items where code = any(%(values)s)"
    depends_on = [{"table": "parts", "lookup": lookup, "columns": "note"}]
    found_ = errors(query, depends_on=depends_on)
    assert [problem.what.split()[2] for problem in found_] == ["public.parts", "public.parts_1", "public.parts_2"]
    for problem in found_:
        owner.execute(problem.remedy)
    assert errors(query, depends_on=depends_on) == []


def test_tables_without_a_log(check: Callable[..., list[Problem]]) -> None:
    (found,) = check("select * from public.loose")
    assert "loose is unlogged" in found.what
    assert "set logged" in found.remedy


def test_a_role_that_may_not_replicate_and_owns_nothing(
    check: Callable[..., list[Problem]], owner: psycopg.Connection[Any], role: str, database: str
) -> None:
    url = as_role(database, role)
    found = check(url=url)
    assert all(isinstance(problem, Refusal) for problem in found)
    assert [problem.what.split(",")[0] for problem in found] == [
        f"role {role} may not use replication slots",
        f"role {role} does not own public.items",
    ]
    owner.execute(found[0].remedy.split(" (on")[0])
    (found_,) = check(url=url)
    statement = found_.remedy.split(": ", 1)[1].split(" and in the spec")[0]
    owner.execute(statement)
    assert "publication: t_1_changes" in found_.remedy
    assert check(url=url, changes=changes_of("t_1_changes")) == []

    owner.execute(f"alter table items owner to {role}")
    (found_,) = check(url=url)
    assert "may not create in database" in found_.what
    owner.execute(found_.remedy.split("; or")[0])
    assert check(url=url) == []
    owner.execute(f"alter table items owner to current_user; alter role {role} noreplication")


def test_a_publication_that_is_given(check: Callable[..., list[Problem]], owner: psycopg.Connection[Any]) -> None:
    def found(query: str = CITIES, key: Any = "id") -> str:
        problems = check(query, key, changes=changes_of("theirs"))
        assert len({problem.place for problem in problems}) <= 1
        for problem in problems:
            owner.execute(problem.remedy)
        return "; ".join(problem.what for problem in problems)

    assert "no publication 'theirs'" in found()
    assert found() == ""
    owner.execute("alter publication theirs set (publish = 'insert, update')")
    assert "does not publish delete, truncate" in found()
    assert found() == ""
    owner.execute("alter publication theirs set table items where (id > 5)")
    assert "filters its rows" in found()
    assert found() == ""
    assert "does not contain public.parts" in found("select * from public.parts", ["id", "year"])
    assert found("select * from public.parts", ["id", "year"]) == ""
    owner.execute("alter publication theirs set (publish_via_partition_root = false)")
    assert "by their own names (public.parts)" in found("select * from public.parts", ["id", "year"])
    assert found("select * from public.parts", ["id", "year"]) == ""


def test_columns_that_a_publication_leaves_out(
    check: Callable[..., list[Problem]], owner: psycopg.Connection[Any]
) -> None:
    owner.execute("alter table items alter code set not null; create unique index items_code on items (code)")
    owner.execute("alter table items replica identity using index items_code")
    owner.execute("create publication listed for table items (code)")
    lookup = "select id from public.items where name = any(%(values)s)"
    depends_on = [{"table": "items", "lookup": lookup, "columns": "name"}]
    found = check(CITIES, "id", changes=changes_of("listed"), depends_on=depends_on)
    assert any("leaves out id" in problem.what for problem in found)


def test_the_connectors_slot(check: Callable[..., list[Problem]], owner: psycopg.Connection[Any]) -> None:
    slot = f"c{secrets.token_hex(4)}"
    changes = {"debezium": {"topics": ["a"], "slot": slot}}
    (found,) = check(changes=changes)
    assert f"no replication slot '{slot}'" in found.what
    owner.execute("select pg_create_physical_replication_slot(%s)", [slot])
    try:
        (found,) = check(changes=changes)
        assert "is a physical slot" in found.what
        owner.execute("select pg_drop_replication_slot(%s)", [slot])
        owner.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [slot])
        assert check(changes=changes) == []
    finally:
        owner.execute("select pg_drop_replication_slot(%s)", [slot])


def test_wal_level(tmp_path: Path) -> None:
    server = PostgresServer(tmp_path / "replica", settings={"wal_level": "replica"})
    try:
        server.start()
        server.wait_healthy()
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute(SCHEMA)
        (found,) = problems(server.url)
        assert "wal_level = replica" in found.what
        assert "wal_level = logical" in found.remedy
        connection, _ = open_session(server.url, "test")
        with connection, pytest.raises(SourceRefused, match="wal_level"):
            create_slot(connection, ChangePlan("replication", "reshelve_t"), lambda _: None)
    finally:
        server.remove()


def test_a_server_whose_slots_are_taken(server: PostgresServer) -> None:
    connection, _ = open_session(server.url, "test")
    with connection:
        warnings = problems(server.url)
        assert [problem.level for problem in warnings] == ["warning", "warning"]
        assert "gives a slot up at 1.1 GB" in warnings[0].what
        assert "nobody reads for 1h" in warnings[1].what
        assert len(problems(server.url, limits={"max_wal_retained": "1 GB"})) == 1

        create_slot(connection, ChangePlan("replication", "reshelve_other_1"), lambda _: None)
        found = problems(server.url)[0]
        assert (found.level, found.what) == ("error", "all 1 replication slots of the source are taken")
        with pytest.raises(SourceRefused, match="max_replication_slots"):
            create_slot(connection, ChangePlan("replication", "reshelve_t_1_2"), lambda _: None)
        drop_slot(connection, "reshelve_other_1")

        create_slot(connection, ChangePlan("replication", "reshelve_t_1_2026"), lambda _: None)
        found = problems(server.url)[0]
        assert found.level == "warning"
        assert "1 of them by runs of this reindex" in found.what
        drop_slot(connection, "reshelve_t_1_2026")


def test_prepared_transactions_are_waited_for_by_name(server: PostgresServer) -> None:
    connection, _ = open_session(server.url, "test")
    with connection, psycopg.connect(server.url, autocommit=True) as other:
        other.execute("begin; insert into items values (1); prepare transaction 'from the queue'")
        told: list[str] = []

        def roll_back(text: str) -> None:
            told.append(text)
            other.execute("rollback prepared 'from the queue'")

        row = connection.execute("select pg_snapshot_xmax(pg_current_snapshot())::text::bigint").fetchone()
        assert row is not None
        (found,) = old_transactions(connection, row[0])
        assert (found.pid, found.gid) == (None, "from the queue")
        create_slot(connection, ChangePlan("replication", "reshelve_t_1_x"), roll_back)
        assert "prepared transaction 'from the queue'" in told[0]
        drop_slot(connection, "reshelve_t_1_x")


def test_old_transactions_are_warned_of(server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reshelve.check.changes._OLD_S", 0.0)
    with psycopg.connect(server.url, application_name="nightly") as other:
        other.execute("insert into items values (1, 'secret')")
        found = problems(server.url)[-1]
        other.rollback()
    assert found.level == "warning"
    assert "nightly" in found.what
    assert "secret" not in found.what


def test_a_publication_is_not_made_without_a_replica_identity(server: PostgresServer) -> None:
    connection, _ = open_session(server.url, "test")
    with connection:
        row = connection.execute("select 'public.keyless'::regclass::oid::bigint").fetchone()
        assert row is not None
        rule = ChangeRule("public", "keyless", row[0], ("id",), ("bigint",))
        plan = ChangePlan("replication", "reshelve_t", "reshelve_t", True, (rule,))
        with pytest.raises(SourceRefused, match="replica identity full"):
            create_publication(connection, plan)
