"""What the source is, and into which key ranges its reading is divided. Nothing is written.

Connections come from `source.open_session`. Every function can raise psycopg.Error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, TypeAlias

import psycopg
from psycopg import pq, sql

from reshelve.errors import SourceRefused
from reshelve.model import Bound, KeyColumn, Segment, SourceFacts
from reshelve.producers.catalog import find_relations, read_tables
from reshelve.producers.query import SourceQuery
from reshelve.spec import Spec

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

DOCUMENTS_PER_SEGMENT: Final = 50_000  # about a second of reading: fine enough to share among readers
SEGMENTS_PER_PARTITION: Final = 16  # more would only make the list of receipts long
FEW_DOCUMENTS: Final = 10_000  # below this one segment is read before a second reader has started
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
# The values that ANALYZE kept of a column: bounds of buckets that hold equal shares of the rows, and the
# frequent values with theirs. They are sorted here by the database, in the column's own type and collation,
# since only its order makes segments. A bound is the first value at which the share of rows has reached
# i / segments.
_BOUNDS: Final = """
with statistics as (
    select histogram_bounds::text::{type}[] as bounds,
           most_common_vals::text::{type}[] as frequent,
           most_common_freqs as frequencies,
           greatest(1 - coalesce((select sum(f) from unnest(most_common_freqs) as f), 0) - null_frac, 0)
             / greatest(cardinality(histogram_bounds) - 1, 1) as share
      from pg_stats
     where schemaname = %(schema)s and tablename = %(table)s and attname = %(column)s
     order by inherited desc
     limit 1
),
weighted as (
    select unnest(frequent) as value, unnest(frequencies)::float8 as weight from statistics
    union all
    select unnest(bounds), share::float8 from statistics
),
grouped as (
    select value {collation} as value, sum(weight) as weight
      from weighted where value is not null group by value {collation}
),
running as (
    select value, sum(weight) over (order by value) / nullif(sum(weight) over (), 0) as share,
           row_number() over (order by value desc) as from_the_end
      from grouped
)
select chosen.value::text
  from (select distinct on (i) i, value, from_the_end
          from running, generate_series(1, %(segments)s - 1) as i
         where share >= i::float8 / %(segments)s
         order by i, value) as chosen
 where from_the_end > 1
 group by chosen.value order by chosen.value
"""
_BASE_COLUMN: Final = """
select nspname::text, relname::text, attname::text,
       case when attcollation <> 0 then quote_ident(cn.s) || '.' || quote_ident(cn.c) end
  from pg_attribute
       join pg_class on pg_class.oid = attrelid
       join pg_namespace on pg_namespace.oid = relnamespace
       left join lateral (select collnamespace::regnamespace::text as s, collname::text as c
                            from pg_collation where pg_collation.oid = attcollation) as cn on true
 where attrelid = %s and attnum = %s
"""


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
    return SourceQuery(spec.source.postgres.query, spec.scope.where, key)


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


def default_segments(documents: int, partitions: int) -> int:
    """How many segments to plan: about one per 50,000 documents, at least one for each of the readers that
    `partitions` allows once there is work to share, and never more than 16 times as many."""
    least = partitions if documents >= FEW_DOCUMENTS else 1
    wanted = -(-documents // DOCUMENTS_PER_SEGMENT)
    return max(least, min(wanted, SEGMENTS_PER_PARTITION * partitions))


def plan_segments(connection: Connection, spec: Spec, facts: SourceFacts, segments: int) -> tuple[Segment, ...]:
    """At most `segments` key ranges that tile all keys, of about equal size by the leading key column's
    statistics. One when the column is computed or was never analyzed."""
    bounds: list[str] = []
    columns = {c.name: c for c in result_columns(connection, spec.source.postgres.query)}
    leading = columns[facts.key[0].name]
    if segments > 1 and leading.table:
        bounds = _bounds(connection, leading, segments)
    return tile([(bound,) for bound in bounds])


def tile(bounds: list[tuple[str, ...]]) -> tuple[Segment, ...]:
    """The segments between ascending bounds, open at both ends."""
    edges: list[Bound] = [None, *bounds, None]
    return tuple(Segment(number, low, high) for number, (low, high) in enumerate(pairwise(edges)))


def _bounds(connection: Connection, column: ResultColumn, segments: int) -> list[str]:
    row = connection.execute(_BASE_COLUMN, [column.table, column.number]).fetchone()
    if row is None:
        return []
    schema, table, name, collation = row
    statement = sql.SQL(_BOUNDS).format(
        type=sql.SQL(column.type),
        collation=sql.SQL(f"collate {collation}" if collation else ""),
    )
    named = {"schema": schema, "table": table, "column": name, "segments": segments}
    return [value for (value,) in connection.execute(statement, named).fetchall()]


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
