"""Planning on real servers: segments tile, facts are right, and planning changes nothing."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import psycopg
import pytest
from opensearchpy import OpenSearch
from services import Services

from reshelve.errors import SourceRefused, TargetRefused, Unreachable
from reshelve.model import KeyColumn
from reshelve.plan import Plan, make_plan
from reshelve.producers.catalog import read_tables
from reshelve.producers.planner import (
    Connection,
    describe_source,
    reads_in_key_order,
    source_query,
)
from reshelve.producers.query import SourceQuery
from reshelve.producers.segments import divide, plan_segments
from reshelve.producers.source import open_session
from reshelve.spec import Spec, parse

pytestmark = pytest.mark.services

TABLES = """
create table items (
    id bigint primary key, tenant text collate "C" not null, code uuid not null default gen_random_uuid(),
    sparse int not null, name text
);
insert into items (id, tenant, sparse, name)
select i, case when i % 2 = 0 then 'big' else upper(md5(i::text)) end, i * 7 - 50000, '100% ' || i
  from generate_series(-5000, 14999) as i;
create index on items (tenant, id);
create unique index on items (code);
create unique index on items (sparse);
create view shown as select id as ident, code, name from items;
create table parts (id int primary key, name text) partition by range (id);
create table parts_low partition of parts for values from (minvalue) to (500);
create table parts_high partition of parts for values from (500) to (maxvalue);
insert into parts select i, 'p' from generate_series(1, 1000) as i;
create table nothing (id int primary key);
create materialized view frozen as select * from items;
analyze;
"""


@pytest.fixture
def source(database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(TABLES)
        yield connection


@pytest.fixture
def session(source: psycopg.Connection, database: str) -> Iterator[Connection]:
    connection, _ = open_session(database, "test")
    with connection:
        yield connection


def a_spec(
    url: str,
    query: str,
    key: str,
    where: str | None = None,
    *,
    name: str = "t",
    opensearch: str = "http://h",
    mappings: dict[str, object] | None = None,
    sections: str = "",
) -> Spec:
    scope = f"scope: {{where: {where!r}}}" if where else sections
    text = f"""
reindex: {name}
source: {{postgres: {{url: "${{SOURCE_URL}}", key: {key}, query: "{query}"}}}}
{scope}
target: {{opensearch: {{url: "{opensearch}", alias: {name}, index: i.json}}}}
kafka: {{bootstrap: "h:9092"}}
"""
    environ = {"SOURCE_URL": url}
    definition = {"mappings": mappings or {}}
    return parse(text, name="s.yaml", folder=Path(), environ=environ, definition=definition)


@pytest.mark.parametrize(
    ("query", "key", "where", "least"),
    [
        ("select * from public.items", "id", None, 8),
        ("select * from public.items", "code", None, 8),
        ("select * from public.items", "sparse", None, 8),
        ("select * from public.items", "[tenant, id]", "name like '%9'", 4),
        ('select *, 100 as \\"100%\\" from public.items -- a comment', "id", None, 8),
        ("select * from public.shown", "ident", None, 8),
        ("select id + 0 as id from public.items", "id", None, 1),
        ("select * from public.parts", "id", None, 8),
        ("select * from public.nothing", "id", None, 1),
        ("values (1), (2)", "column1", None, 1),
    ],
)
def test_segments_tile_and_share_the_rows(
    session: Connection, database: str, query: str, key: str, where: str | None, least: int
) -> None:
    spec = a_spec(database, query, key, where)
    facts = describe_source(session, spec)
    segments = plan_segments(session, spec, facts, 8)
    assert least <= len(segments) <= 8
    assert [s.number for s in segments] == list(range(len(segments)))
    assert segments[0].low is None
    assert segments[-1].high is None
    assert all(one.high == other.low for one, other in pairwise(segments))
    statement = source_query(spec, facts.key)
    counts = []
    for segment in segments:
        page, parameters = statement.page(segment.low, segment.high, 10**6, 10**6)
        counts.append(len(session.execute(page, parameters).fetchall()))
    row = session.execute(f"select count(*) from ({statement.everything().as_string()}) c", {}).fetchone()
    assert row is not None
    assert sum(counts) == row[0]
    if least == 8:
        assert max(counts) < 3 * sum(counts) / 8


PHASES = (  # of the tenants upper(md5()) in collation C, and one that is lower case: it comes after them all
    "[{name: rest, keys: {low: big}}, {name: many, keys: {low: [A, 100], high: [big, 9000]}, depends_on: []},"
    " {name: last, keys: {low: [big, 9000], high: big}}]"
)


def test_phases_tile_a_scope_of_a_key_range(session: Connection, database: str) -> None:
    """In the order of the column's collation, whatever that of the database is."""
    keys = "scope: {where: id % 5 <> 0, keys: {low: [A, 100]}}"
    spec = a_spec(database, "select * from public.items", "[tenant, id]", sections=f"{keys}\nphases: {PHASES}")
    facts = describe_source(session, spec)
    found = divide(session, spec, facts)
    assert [phase.name for phase in found.phases] == ["rest", "many", "last"]
    assert [phase.needs for phase in found.phases] == [(), (), ("many",)]
    assert {phase.name: (phase.low, phase.high) for phase in found.phases} == {
        "many": (("A", "100"), ("big", "9000")),
        "last": (("big", "9000"), ("big",)),
        "rest": (("big",), None),
    }
    assert all(one.high == other.low for one, other in pairwise(found.segments))
    counts = {phase.name: 0 for phase in found.phases}
    statement = source_query(spec, facts.key)
    for phase in found.phases:
        for segment in found.segments[phase.first : phase.last + 1]:
            page, parameters = statement.page(segment.low, segment.high, 10**6, 10**6)
            counts[phase.name] += len(session.execute(page, parameters).fetchall())
    condition = "where id % 5 <> 0 and (tenant, id) > ('A', 100) and "
    for name, part in (("many", "(tenant, id) <= ('big', 9000)"), ("last", "tenant = 'big' and id > 9000")):
        row = session.execute(f"select count(*) from public.items {condition}{part}").fetchone()
        assert row == (counts[name],)
    read, parameters = statement.keys([("big", "0"), ("big", "8"), ("A", "7"), ("c", "6")], 10**6)
    assert [key for key, *_ in session.execute(read, parameters).fetchall()] == ["big|8"]
    assert counts["many"] > 5_000 and counts["last"] > 2_000 and counts["rest"] == 0
    assert len(range(found.phases[1].first, found.phases[1].last + 1)) >= 2


def test_a_range_of_any_texts(session: Connection) -> None:
    low, high = "100%", "a%b\\c' d"
    values = "values ('100%'), ('a%b\\c'' d'), ('zz')"
    query = SourceQuery(f"select k from ({values}) v(k)", None, (KeyColumn("k", "text"),), (low,), (high,))
    for statement, parameters in (query.page(None, None, 9, 999), query.keys([(high,), ("zz",)], 999)):
        assert [key for key, *_ in session.execute(statement, parameters).fetchall()] == [high]


@pytest.mark.parametrize(
    ("sections", "key", "why"),
    [
        ("scope: {keys: {low: 9, high: 10}}", "id", ""),
        ("scope: {keys: {low: 10, high: 9}}", "id", "the first does not come before the second"),
        ("scope: {keys: {low: 10, high: 10}}", "id", "the first does not come before the second"),
        ("scope: {keys: {low: ten}}", "id", "invalid input syntax for type bigint"),
        ("scope: {keys: {low: b, high: A}}", "[tenant, id]", "the first does not come before the second"),
        ("scope: {keys: {low: B, high: a}}", "[tenant, id]", ""),
        ("scope: {keys: {low: [b, 7], high: b}}", "[tenant, id]", ""),
        ("scope: {keys: {low: b, high: [b, 7]}}", "[tenant, id]", "the first does not come before the second"),
        (
            "phases: [{name: a, keys: {high: 9}}, {name: b, keys: {low: 9, high: 4}}, {name: c, keys: {low: 4}}]",
            "id",
            "keys after 9 up to 4",
        ),
    ],
)
def test_ranges_that_are_none(session: Connection, database: str, sections: str, key: str, why: str) -> None:
    spec = a_spec(database, "select * from public.items", key, sections=sections)
    if not why:
        divide(session, spec, describe_source(session, spec))
        return
    with pytest.raises(SourceRefused, match=why):
        divide(session, spec, describe_source(session, a_spec(database, "select * from public.items", key)))


def test_facts(session: Connection, source: psycopg.Connection, database: str) -> None:
    spec = a_spec(database, "select * from public.items", "[tenant, id]")
    facts = describe_source(session, spec)
    assert [(column.name, column.type) for column in facts.key] == [("tenant", "text"), ("id", "bigint")]
    assert facts.timeline == 1
    assert facts.system_identifier.isdigit()
    assert [(table.schema, table.name) for table in facts.tables] == [("public", "items")]
    assert facts.estimated_documents == 20_000
    assert 100 < facts.estimated_bytes / facts.estimated_documents < 200
    everything = describe_source(
        session,
        a_spec(
            database,
            "select i.ident, (select count(*) from public.parts p where p.id = i.ident) as n "
            "from public.shown i left join public.nothing x on x.id = i.ident",
            "ident",
            "ident > 0",
        ),
    )
    # The left join to a unique key is removed by PostgreSQL: its table can't change the result.
    assert {"items", "parts"} <= {table.name for table in everything.tables}
    assert not {"parts_low", "parts_high"} & {table.name for table in everything.tables}


@pytest.mark.parametrize(
    ("change", "noticed"),
    [
        ("insert into items (id, tenant, sparse) values (99999, 'x', 1000000)", set()),
        ("update items set name = 'x'; analyze items; vacuum items", set()),
        ("truncate items", {"items"}),
        ("alter table items add column extra int", {"items"}),
        ("alter table items drop column name cascade", {"items"}),
        ("alter table items alter column id type int", {"items"}),
        ("truncate parts_low", {"parts"}),
        ("alter table parts detach partition parts_high", {"parts"}),
        ("create table parts_more (like parts); alter table parts_more add primary key (id)", set()),
        ("drop table parts", {"parts"}),
    ],
)
def test_fingerprints_change_with_what_makes_no_rows(
    session: Connection, source: psycopg.Connection, database: str, change: str, noticed: set[str]
) -> None:
    spec = a_spec(database, "select i.id from public.items i, public.parts p", "id")
    before = describe_source(session, spec).tables
    for statement in ["drop view shown", "drop materialized view frozen", *change.split(";")]:
        source.execute(statement)
    after = {table.oid: table for table in read_tables(session, [table.oid for table in before])}
    assert {table.name for table in before if after.get(table.oid) != table} == noticed


def test_what_cannot_be_locked_is_refused(session: Connection, database: str) -> None:
    with pytest.raises(SourceRefused, match=r"public\.frozen is a materialized view"):
        describe_source(session, a_spec(database, "select * from public.frozen", "id"))


def test_a_key_that_the_query_lacks_is_refused(session: Connection, database: str) -> None:
    with pytest.raises(SourceRefused, match="no key column 'ident'"):
        describe_source(session, a_spec(database, "select * from public.items", "ident"))


@pytest.mark.parametrize(
    ("query", "key", "ordered"),
    [
        ("select * from public.items", "id", True),
        ("select * from public.items", "[tenant, id]", True),
        ("select * from public.items", "[id, tenant]", True),  # sorted within equal ids, which are few
        ("select * from public.items", "[sparse, id]", True),
        ("select * from public.items", "name", False),
        ("select * from public.shown", "ident", True),
        ("select * from public.parts", "id", True),
        ("select id + 0 as id from public.items", "id", False),
        ("select i.id, p.name from public.items i left join public.parts p on p.name = i.name", "id", True),
        ("select i.id, json_agg(p) as ps from public.items i join public.parts p on p.id = i.id group by i.id",
         "id", True),
        ("select id, row_number() over (order by name) as n from public.items", "id", False),
    ],
)  # fmt: skip
def test_whether_pages_come_from_an_index(
    session: Connection, database: str, query: str, key: str, ordered: bool
) -> None:
    spec = a_spec(database, query, key)
    assert reads_in_key_order(session, source_query(spec, describe_source(session, spec).key)) is ordered


def test_make_plan(
    services: Services,
    opensearch: OpenSearch,
    source: psycopg.Connection,
    database: str,
    namespace: str,
) -> None:
    def made(mappings: dict[str, object]) -> Plan:
        url = services.endpoints.opensearch_url
        query = "select * from public.items"
        return make_plan(a_spec(database, query, "id", name=namespace, opensearch=url, mappings=mappings))

    new = {"properties": {"id": {"type": "long"}, "name": {"type": "keyword"}}}
    first = made(new)
    assert (first.previous_index, first.previous_uuid) == (None, None)
    assert {(d.field, d.change) for d in first.mapping_difference} == {("id", "added"), ("name", "added")}
    assert "makes the replication slot" in first.notes[0]
    assert len(first.segments) == 4
    assert [one.place for one in first.headroom] == ["target disk", "broker disk", "source WAL"]
    assert "assumed" in first.forecast.index_basis
    assert Plan.from_json(first.to_json()) == first

    source.execute("analyze items")
    again = made(new)
    assert again.hash == first.hash
    assert again.run != first.run

    index = f"{namespace}-{uuid.uuid4().hex}"
    body = {"mappings": {"properties": {"id": {"type": "long"}, "name": {"type": "text"}}}}
    opensearch.indices.create(index=index, body={**body, "aliases": {namespace: {}}})
    moved = made(new)
    assert moved.previous_index == index
    assert moved.previous_uuid
    assert [(d.field, d.change, d.effect) for d in moved.mapping_difference] == [("name", "changed", "breaks queries")]
    assert moved.hash != first.hash

    source.execute("truncate items")
    assert made(new).hash != moved.hash

    opensearch.indices.create(index=f"{index}-2", body={"aliases": {namespace: {}}})
    with pytest.raises(TargetRefused, match="several indexes"):
        made(new)


def test_a_source_that_does_not_answer(services: Services) -> None:
    with pytest.raises(Unreachable):
        make_plan(a_spec("postgresql://127.0.0.1:1/none", "select 1 as id", "id"))


def test_planning_changes_nothing(session: Connection, source: psycopg.Connection, database: str) -> None:
    spec = a_spec(database, "select *, nextval('public.counter') as n from public.items", "id")
    source.execute("create sequence counter")
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        describe_source(session, spec)
    good = a_spec(database, "select * from public.items", "id")
    facts = describe_source(session, good)
    assert replace(facts, key=()) == replace(describe_source(session, good), key=())
