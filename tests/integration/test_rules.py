"""Which documents a change makes dirty, found out from real queries: keys through views and partitions, tables that
depend_on must name, and lookups that PostgreSQL judges."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from reshelve.errors import SourceRefused
from reshelve.model import ChangePlan, ChangeRule, KeyColumn, RunId
from reshelve.producers.identity import identity_gaps
from reshelve.producers.lookup import lookup_parameters, lookup_statement
from reshelve.producers.planner import Connection, describe_source
from reshelve.producers.rules import change_plan, find_rules, same_text
from reshelve.producers.source import open_session
from reshelve.spec import Spec, parse

pytestmark = pytest.mark.services

SCHEMA = """
create domain code as varchar(8);
create table countries (code code primary key, name text);
create table cities (id bigint primary key, name text, country code references countries, parent bigint,
                     slug text generated always as (lower(name)) stored, tags text[]);
create table names (city int references cities, lang text, name text, primary key (city, lang));
create table prices (city bigint, amount numeric);
create view towns as select id as town, name, country from cities where name <> '';
create view named_towns as select t.town, t.name, k.name as country from towns t left join countries k
    on k.code = t.country;
create table events (tenant int, id bigint, at date, note text, primary key (tenant, id, at)) partition by range (at);
create table events_1 (note text, at date not null, id bigint not null, tenant int not null);
alter table events attach partition events_1 for values from ('2020-01-01') to ('2021-01-01');
create table events_2 partition of events for values from ('2021-01-01') to ('2022-01-01');
create table base (id bigint primary key, name text);
create table derived (extra int, primary key (id)) inherits (base);
create table plain (id bigint, name text);
create unique index on plain (id);
insert into countries values ('de', 'Germany'), ('fr', 'France');
insert into cities values (1, 'Berlin', 'de', null), (2, 'Paris', 'fr', null), (3, 'Spandau', 'de', 1);
"""
CITIES = (
    "select c.id, c.name, k.name as country from public.cities c left join public.countries k on k.code = c.country"
)
COUNTRY_LOOKUP = "select id from public.cities where country = any(%(values)s)"


@pytest.fixture
def session(database: str) -> Iterator[Connection]:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(SCHEMA)
    connection, _ = open_session(database, "test")
    with connection:
        yield connection


@pytest.fixture
def plan_of(session: Connection) -> Callable[..., ChangePlan]:
    def make(query: str, key: str | list[str], *dependencies: dict[str, Any]) -> ChangePlan:
        spec = make_spec(query, key, *dependencies)
        return change_plan(session, spec, describe_source(session, spec), RunId("t", "20260102-030405-abcd"))

    return make


@pytest.fixture
def refused(session: Connection) -> Callable[..., list[tuple[str, str, str]]]:
    """(place, what, remedy) of everything that is wrong."""

    def find(query: str, key: str | list[str], *dependencies: dict[str, Any]) -> list[tuple[str, str, str]]:
        spec = make_spec(query, key, *dependencies)
        facts = describe_source(session, spec)
        found = find_rules(session, spec, facts.key, facts.tables)
        if found.problems:
            with pytest.raises(SourceRefused):
                change_plan(session, spec, facts, RunId("t", "20260102-030405-abcd"))
        return [(problem.field, f"{problem.what}: {problem.why}", problem.remedy) for problem in found.problems]

    return find


def make_spec(query: str, key: str | list[str], *dependencies: dict[str, Any]) -> Spec:
    postgres = {"url": "postgresql://h/d", "key": key, "query": query, "depends_on": list(dependencies)}
    text = yaml.safe_dump(
        {
            "reindex": "t",
            "source": {"postgres": postgres},
            "target": {"opensearch": {"url": "http://h:9200", "alias": "a", "index": "i.json"}},
            "kafka": {"bootstrap": "h:9092"},
        },
        sort_keys=False,
    )
    return parse(text, name="s.yaml", folder=Path(), environ={}, definition={"mappings": {}})


def facts_of(rule: ChangeRule) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    return rule.table, rule.columns, rule.types


def test_the_table_of_the_key_needs_no_word(plan_of: Callable[..., ChangePlan]) -> None:
    plan = plan_of("select id, name from public.cities", "id")
    assert [facts_of(rule) for rule in plan.rules] == [("cities", ("id",), ("bigint",))]
    assert (plan.mode, plan.slot, plan.publication, plan.owns_publication) == (
        "replication",
        "reshelve_t_20260102_030405_abcd",
        "reshelve_t_20260102_030405_abcd",
        True,
    )
    plan = plan_of("select country as code, count(*) as n from public.cities group by country", "code")
    assert [facts_of(rule) for rule in plan.rules] == [("cities", ("country",), ("character varying(8)",))]


def test_through_views(plan_of: Callable[..., ChangePlan]) -> None:
    plan = plan_of(
        "select * from public.named_towns",
        "town",
        {"table": "countries", "lookup": COUNTRY_LOOKUP, "columns": "code"},
    )
    assert [facts_of(rule) for rule in plan.rules] == [
        ("cities", ("id",), ("bigint",)),
        ("countries", ("code",), ("character varying(8)",)),
    ]


@pytest.mark.parametrize("table", ["events", "events_1"])
def test_partitions_are_published_as_their_root(plan_of: Callable[..., ChangePlan], table: str) -> None:
    plan = plan_of(f"select * from public.{table}", ["tenant", "id", "at"])
    assert [facts_of(rule) for rule in plan.rules] == [
        ("events", ("tenant", "id", "at"), ("integer", "bigint", "date"))
    ]


def test_inheriting_tables_are_logged_by_their_own_names(plan_of: Callable[..., ChangePlan]) -> None:
    plan = plan_of("select id, name from public.base", "id")
    assert [rule.table for rule in plan.rules] == ["base", "derived"]


def test_dependencies(plan_of: Callable[..., ChangePlan]) -> None:
    query = f"{CITIES} left join public.names n on n.city = c.id left join public.prices p on p.city = c.id"
    plan = plan_of(
        query,
        "id",
        {"table": "names", "key": "city"},
        {"table": "public.countries", "lookup": COUNTRY_LOOKUP, "columns": ["code"]},
        {"table": "prices", "ignore": True},
    )
    assert [facts_of(rule) for rule in plan.rules] == [
        ("cities", ("id",), ("bigint",)),
        ("names", ("city",), ("integer",)),
        ("countries", ("code",), ("character varying(8)",)),
    ]
    assert plan.rules[2].lookup == COUNTRY_LOOKUP
    assert plan.ignored == ("public.prices",)


def test_every_other_table_must_be_named_with_a_suggestion(refused: Callable[..., list[tuple[str, str, str]]]) -> None:
    query = f"{CITIES} left join public.names n on n.city = c.id left join public.prices p on p.city = c.id"
    found = refused(query, "id")
    assert [what.split(",")[0] for _, what, _ in found] == [
        "the query reads public.countries",
        "the query reads public.names",
        "the query reads public.prices",
    ]
    assert 'lookup: "select id from public.cities where country = any(%(values)s)", columns: [code]' in found[0][2]
    assert "{table: public.names, key: [city]}" in found[1][2]
    assert "{table: public.prices, ignore: true}" in found[2][2]


def test_a_table_read_twice_alters_documents_of_other_keys(
    refused: Callable[..., list[tuple[str, str, str]]], plan_of: Callable[..., ChangePlan]
) -> None:
    query = "select c.id, p.name as parent from public.cities c left join public.cities p on p.id = c.parent"
    ((field, what, _),) = refused(query, "id")
    assert field == "source.postgres.depends_on"
    assert "reads public.cities more than once" in what
    lookup = "select id from public.cities where parent = any(%(values)s)"
    plan = plan_of(query, "id", {"table": "cities", "lookup": lookup, "columns": "id"})
    assert [(rule.table, rule.lookup) for rule in plan.rules] == [("cities", None), ("cities", lookup)]
    assert plan_of(query, "id", {"table": "cities", "ignore": True}).ignored == ("public.cities",)


def test_a_computed_key_needs_a_rule_for_every_table(
    refused: Callable[..., list[tuple[str, str, str]]], plan_of: Callable[..., ChangePlan]
) -> None:
    query = "select 'c' || id as key, name from public.cities"
    ((_, what, _),) = refused(query, "key")
    assert "does not come unchanged from one table" in what
    lookup = "select 'c' || v from unnest(%(values)s) as v"
    plan = plan_of(query, "key", {"table": "cities", "lookup": lookup, "columns": "id"})
    assert [rule.lookup for rule in plan.rules] == [lookup]
    both = "select id, name from public.cities union all select id, name from public.plain"
    assert [what.split(",")[0] for _, what, _ in refused(both, "id")] == [
        "the query reads public.cities",
        "the query reads public.plain",
    ]
    mixed = "select c.id, n.lang from public.cities c join public.names n on n.city = c.id"
    assert len(refused(mixed, ["id", "lang"])) == 2


@pytest.mark.parametrize(
    ("dependency", "field", "what", "remedy"),
    [
        ({"table": "countris", "key": "code"}, "table", "no table public.countris", "did you mean 'public.countries'"),
        ({"table": "prices", "key": "city"}, "table", "does not read the table public.prices", "public.countries"),
        ({"table": "towns", "key": "town"}, "table", "does not read the view public.towns", "public.countries"),
        ({"table": "countries", "key": ["code", "name"]}, "key", "is to give 2", "as many columns"),
        ({"table": "countries", "key": "cod"}, "key", "does not name documents", "lookup"),
        ({"table": "countries", "lookup": COUNTRY_LOOKUP, "columns": "cod"}, "columns", "no column 'cod'", "'code'"),
        ({"table": "countries", "lookup": "select 1", "columns": "code"}, "lookup", "uses no value", "%(values)s"),
        (
            {"table": "countries", "lookup": "select 1 where 'a' = any(%(codes)s)", "columns": "code"},
            "lookup",
            "unknown parameter %(codes)s",
            "%(values)s",
        ),
        (
            {"table": "countries", "lookup": COUNTRY_LOOKUP.replace("public.", ""), "columns": "code"},
            "lookup",
            'relation "cities" does not exist',
            "schema",
        ),
        (
            {"table": "countries", "lookup": COUNTRY_LOOKUP.replace("id", "id, name"), "columns": "code"},
            "lookup",
            "returns 2 columns, and the document key has 1",
            "return id",
        ),
        (
            {"table": "countries", "lookup": COUNTRY_LOOKUP.replace("id", "tags", 1), "columns": "code"},
            "lookup",
            "cannot cast",
            "castable",
        ),
    ],
)
def test_what_is_wrong_with_a_dependency(
    refused: Callable[..., list[tuple[str, str, str]]], dependency: dict[str, Any], field: str, what: str, remedy: str
) -> None:
    found = refused(CITIES, "id", dependency)
    assert found[0][0] == f"source.postgres.depends_on.0.{field}"
    if dependency.get("key") != "cod":
        assert what in found[0][1]
        assert remedy in found[0][2]


def test_columns_that_the_log_does_not_have(refused: Callable[..., list[tuple[str, str, str]]]) -> None:
    lookup = "select id from public.cities where slug = any(%(values)s)"
    dependency = {"table": "cities", "lookup": lookup, "columns": "slug"}
    ((_, what, _),) = refused("select id, slug from public.cities", "id", dependency)
    assert "generated" in what
    ((field, what, _),) = refused("select slug from public.cities", "slug")
    assert field == "source.postgres.key"
    assert "generated" in what


def test_a_lookup_with_percent_signs_and_several_columns(
    session: Connection, plan_of: Callable[..., ChangePlan]
) -> None:
    lookup = (
        "select c.id from unnest(%(code)s, %(name)s) as v (code, name) join public.cities c on c.country = v.code"
        " where c.name like '%n' and c.id % 2 = 1 -- 100 %"
    )
    plan = plan_of(CITIES, "id", {"table": "countries", "lookup": lookup, "columns": ["code", "name"]})
    rule = plan.rules[1]
    statement = lookup_statement(rule, [KeyColumn("id", "bigint")])
    rows = session.execute(statement, lookup_parameters(rule, [("de", "Germany"), ("fr", None)])).fetchall()
    assert rows == [("1",)]


def test_replica_identities(database: str, session: Connection, plan_of: Callable[..., ChangePlan]) -> None:
    def gaps(*arguments: Any) -> list[tuple[str, str]]:
        found = identity_gaps(session, plan_of(*arguments).rules)
        return [(gap.table, gap.statement) for gap in found]

    assert gaps("select * from public.cities", "id") == []
    assert gaps("select * from public.plain", "id") == [
        ("public.plain", "alter table public.plain replica identity full;")
    ]
    with psycopg.connect(database, autocommit=True) as owner:
        owner.execute("alter table plain alter id set not null")
        statement = "alter table public.plain replica identity using index plain_id_idx;"
        assert gaps("select * from public.plain", "id") == [("public.plain", statement)]
        owner.execute(statement)
        assert gaps("select * from public.plain", "id") == []
        owner.execute("alter table plain replica identity nothing")
        assert len(gaps("select * from public.plain", "id")) == 1

        assert gaps("select * from public.events", ["tenant", "id", "at"]) == []
        dependency = {"table": "events", "lookup": "select 1, 1, %(values)s::text", "columns": "note"}
        found = gaps("select * from public.events", ["tenant", "id", "at"], dependency)
        assert [table for table, _ in found] == ["public.events", "public.events_1", "public.events_2"]
        for _, statement in found:
            owner.execute(statement)
        assert gaps("select * from public.events", ["tenant", "id", "at"], dependency) == []
        owner.execute("alter table events_2 replica identity default")
        assert [table for table, _ in gaps("select * from public.events", ["tenant", "id", "at"], dependency)] == [
            "public.events_2"
        ]


@pytest.mark.parametrize(
    ("key", "column", "same"),
    [
        ("bigint", "integer", True),
        ("text", "character varying(20)", True),
        ("uuid", "uuid", True),
        ("uuid", "text", False),
        ("bigint", "text", False),
        ("numeric", "numeric", False),
        ("numeric(10,2)", "numeric(10,2)", True),
        ("numeric(10,2)", "numeric(10,3)", False),
        ("public.citext", "public.citext", False),
        ("timestamp(3) with time zone", "timestamp with time zone", True),
        ("interval", "interval", False),
    ],
)
def test_equal_values_with_equal_texts(key: str, column: str, same: bool) -> None:
    assert same_text(key, column) is same
