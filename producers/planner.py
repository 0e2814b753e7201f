"""What the source is. Nothing is written.

Connections come from `source.open_session`. Every function can raise psycopg.Error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import psycopg
from psycopg import pq, sql

from reshelve.errors import SourceRefused
from reshelve.model import KeyColumn, SourceFacts
from reshelve.producers.catalog import find_relations, read_tables
from reshelve.producers.query import SourceQuery
from reshelve.spec import Spec

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

_SAMPLE_ROWS: Final = 500
_MAX_VIEW_DEPTH: Final = 16
# Kinds of plan nodes. What a scalar subquery reads does not multiply rows.
_SCALAR: Final = ("SubPlan", "InitPlan")
_SCANS: Final = frozenset({"Seq Scan", "Index Scan", "Index Only Scan", "Bitmap Heap Scan"})
_ONE_TO_ONE: Final = frozenset(
    {"Bitmap Index Scan", "BitmapAnd", "BitmapOr", "Gather", "Gather Merge", "Limit", "Materialize", "Sort"}
    | {"Subquery Scan", "Result", "WindowAgg", "LockRows"}
)

_HISTORY: Final = """
select system_identifier::text, substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)
  from pg_control_system()
"""
_COLUMN_TYPES: Final = (
    "select format_type(t, m) from unnest(%s::oid[], %s::int[]) with ordinality as c (t, m, n) order by n"
)
_VIEW: Final = "select pg_get_viewdef(oid) from pg_class where oid = %s and relkind = 'v'"


@dataclass(frozen=True, slots=True)
class ResultColumn:
    """A column of the query's result. `table` and `number` are the oid and attribute number of the table's
    column that it passes through unchanged; 0 where it is computed."""

    name: str
    type: str
    table: int
    number: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """What PostgreSQL's planner says of the query with its scope.

    rows, width  of the result; width in bytes
    relations    (schema, name) of all that it reads
    foreign      whether a foreign server is among them
    single       whether the rows are those of one table, none of them multiplied by a join or function
    repeated     (schema, name) of those that it reads more than once"""

    rows: int
    width: int
    relations: tuple[tuple[str, str], ...]
    foreign: bool
    single: bool
    repeated: tuple[tuple[str, str], ...] = ()


def describe_source(connection: Connection, spec: Spec) -> SourceFacts:
    """The facts that readers hold the source to. Raises SourceRefused where the snapshot clock can't hold."""
    row = connection.execute(_HISTORY).fetchone()
    assert row is not None
    system_identifier, timeline = row
    key = key_columns(result_columns(connection, spec.source.postgres.query), spec)
    query = source_query(spec, key)
    estimate = estimate_query(connection, query)
    tables = read_tables(connection, lockable_tables(connection, estimate))
    rows, size = sample_size(connection, query, estimate)
    return SourceFacts(system_identifier, int(timeline, 16), key, tables, rows, rows * size)


def result_columns(connection: Connection, query: str) -> tuple[ResultColumn, ...]:
    """The columns of the query's result, without running it."""
    text = f"select * from (\n{query}\n) q limit 0"
    result = connection.execute(text).pgresult
    assert result is not None
    numbers = range(result.nfields)
    types = connection.execute(
        _COLUMN_TYPES, [[result.ftype(n) for n in numbers], [result.fmod(n) for n in numbers]]
    ).fetchall()
    return tuple(_column(connection, result, n, type_) for n, (type_,) in zip(numbers, types, strict=True))


def key_columns(columns: tuple[ResultColumn, ...], spec: Spec) -> tuple[KeyColumn, ...]:
    """The key columns with their types. Raises SourceRefused when the result has no such column, or it is an array."""
    types = {column.name: column.type for column in columns}
    for name in spec.source.postgres.key:
        if name not in types:
            raise SourceRefused(
                f"the query's result has no key column {name!r}",
                where=spec.place("source.postgres.key"),
                why=f"its columns are {', '.join(types)}",
                remedy="return the column from the query, or name another key",
            )
        if types[name].endswith("[]"):
            raise SourceRefused(
                f"key column {name!r} is an array",
                where=spec.place("source.postgres.key"),
                why=f"its type is {types[name]}, and lists of keys are arrays of the key's type",
                remedy=f"return its elements as columns, or {name}::text, and make that the key",
            )
    return tuple(KeyColumn(name, types[name]) for name in spec.source.postgres.key)


def source_query(spec: Spec, key: tuple[KeyColumn, ...]) -> SourceQuery:
    """The spec's query with its scope."""
    keys = spec.scope.keys
    return SourceQuery(spec.source.postgres.query, spec.scope.where, key, keys.low, keys.high)


def estimate_query(connection: Connection, query: SourceQuery) -> Estimate:
    """What EXPLAIN says, with every partition in sight, whatever the scope would prune."""
    with connection.transaction(force_rollback=True):
        connection.execute("set local enable_partition_pruning = off; set local constraint_exclusion = off")
        explain = sql.SQL("explain (verbose, format json) {}").format(query.everything())
        row = connection.execute(explain, {}).fetchone()
    assert row is not None
    plan = row[0][0]["Plan"]
    nodes = list(_nodes(plan))
    kinds = [node["Node Type"] for node in _nodes(plan, without=_SCALAR)]
    relations = Counter((node["Schema"], node["Relation Name"]) for node in nodes if "Relation Name" in node)
    repeated = sorted(relation for relation, times in relations.items() if times > 1)
    foreign = any(node["Node Type"] == "Foreign Scan" for node in nodes)
    single = not set(kinds) - _SCANS - _ONE_TO_ONE and sum(kind in _SCANS for kind in kinds) == 1
    return Estimate(
        int(plan["Plan Rows"]), int(plan["Plan Width"]), tuple(sorted(relations)), foreign, single, tuple(repeated)
    )


def reads_in_key_order(connection: Connection, query: SourceQuery) -> bool:
    """Whether a page can be read in the key's order from an index; else each page sorts everything."""
    order = sql.SQL(", ").join(sql.SQL("o.{}").format(sql.Identifier(column.name)) for column in query.key)
    statement = sql.SQL("explain (format json) select * from ({}) o order by {} limit 1000").format(
        query.everything(), order
    )
    with connection.transaction(force_rollback=True):
        connection.execute("set local enable_sort = off")
        row = connection.execute(statement, {}).fetchone()
    assert row is not None
    # Only what the rows themselves come through: what is looked up for each of them may be sorted.
    main = _nodes(row[0][0]["Plan"], without=(*_SCALAR, "Inner"))
    return all(node["Node Type"] != "Sort" for node in main)


def lockable_tables(connection: Connection, estimate: Estimate) -> list[int]:
    """Oids of the tables to lock and watch. Raises SourceRefused for what can be neither."""
    relations = find_relations(connection, estimate.relations)
    unfit = {"m": "a materialized view", "f": "a foreign table"}
    found = [f"{name} is {unfit[kind]}" for _, name, kind in relations if kind in unfit]
    if estimate.foreign and not found:
        found = ["the query reads a foreign server"]
    if found:
        raise SourceRefused(
            "the query reads what has no place in this server's history",
            why=f"{'; '.join(found)}: it can't be locked, and its contents change without a clock",
            remedy="read the tables behind it, or copy it into a table",
        )
    return [oid for oid, _, _ in relations]


def sample_size(connection: Connection, query: SourceQuery, estimate: Estimate, seconds: int = 20) -> tuple[int, int]:
    """Documents, and mean bytes of one: from the first rows where they come soon, else from EXPLAIN."""
    statement = sql.SQL(
        "select count(*), coalesce(avg(octet_length(row_to_json(s.*)::text)), 0)::bigint from ({} limit {}) as s"
    ).format(query.everything(), sql.Literal(_SAMPLE_ROWS))
    try:
        with connection.transaction():
            connection.execute(f"set local statement_timeout = '{seconds}s'")
            row = connection.execute(statement, {}).fetchone()
    except psycopg.errors.QueryCanceled:
        return estimate.rows, estimate.width
    assert row is not None
    counted, size = row
    return (counted if counted < _SAMPLE_ROWS else max(estimate.rows, counted)), size


def _column(connection: Connection, result: pq.abc.PGresult, n: int, type_: str) -> ResultColumn:
    name = result.fname(n)
    assert name is not None
    table, number = _base(connection, result.ftable(n), result.ftablecol(n))
    return ResultColumn(name.decode(), type_, table, number)


def _base(connection: Connection, table: int, number: int) -> tuple[int, int]:
    """The column of a table behind a column of a view; (0, 0) where the view computes it or hides it."""
    for _ in range(_MAX_VIEW_DEPTH):
        if not table:
            break
        row = connection.execute(_VIEW, [table]).fetchone()
        if row is None:
            return table, number
        text = f"select * from (\n{row[0].rstrip().removesuffix(';')}\n) q limit 0"
        try:
            result = connection.execute(text).pgresult
        except psycopg.errors.InsufficientPrivilege:
            break
        assert result is not None
        table, number = result.ftable(number - 1), result.ftablecol(number - 1)
    return 0, 0


def _nodes(plan: dict[str, Any], without: Collection[str] = ()) -> Iterator[dict[str, Any]]:
    """The nodes of a plan, but not those under a parent relationship in `without`."""
    yield plan
    for child in plan.get("Plans", ()):
        if child["Parent Relationship"] not in without:
            yield from _nodes(child, without)
