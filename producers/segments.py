"""Into which key ranges the reading of a source is divided: segments, drawn from statistics, and the phases of the spec
that they lie in. Nothing is written.

Connections come from `source.open_session`. Every function can raise psycopg.Error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import psycopg
from psycopg import sql

from reshelve.errors import SourceRefused
from reshelve.model import Bound, KeyColumn, PhasePlan, Segment, SourceFacts
from reshelve.producers.planner import Connection, ResultColumn, estimate_query, result_columns
from reshelve.producers.query import SourceQuery
from reshelve.spec import Spec
from reshelve.spec.scope import describe_range, in_key_order, needed_phases, phase_range

DOCUMENTS_PER_SEGMENT: Final = 50_000  # about a second of reading: fine enough to share among readers
SEGMENTS_PER_PARTITION: Final = 16  # more would only make the list of receipts long
FEW_DOCUMENTS: Final = 10_000  # below this one segment is read before a second reader has started

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
      from weighted where value is not null {inside} group by value {collation}
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
class Division:
    """Segments that tile the scope, and the phases that they lie in; none where the spec has none."""

    segments: tuple[Segment, ...]
    phases: tuple[PhasePlan, ...] = ()


def divide(connection: Connection, spec: Spec, facts: SourceFacts) -> Division:
    """Into phases as the spec says, and these into segments. Raises SourceRefused for a range that is none."""
    for field, why in range_faults(connection, spec, facts.key):
        remedy = "give its bounds in the order of the key, each as PostgreSQL reads it"
        raise SourceRefused("a key range of the spec is none", where=spec.place(field), why=why, remedy=remedy)
    partitions = spec.kafka.partitions
    if not spec.phases:
        wanted = default_segments(facts.estimated_documents, partitions)
        return Division(plan_segments(connection, spec, facts, wanted))
    edges: list[tuple[str, ...]] = []
    planned: dict[int, PhasePlan] = {}
    order = in_key_order(spec.scope.keys, spec.phases)
    for number in order:
        phase, (low, high) = spec.phases[number], phase_range(spec.scope.keys, spec.phases[number])
        query = SourceQuery(spec.source.postgres.query, spec.scope.where, facts.key, low, high)
        rows = min(estimate_query(connection, query).rows, facts.estimated_documents)
        first = len(edges)
        edges += draw_bounds(connection, spec, facts.key, default_segments(rows, partitions), low, high)
        planned[number] = PhasePlan(phase.name, low, high, needed_phases(spec.phases, number), first, len(edges), rows)
        if number != order[-1] and high is not None:
            edges.append(high)
    return Division(tile(edges), tuple(planned[number] for number in range(len(spec.phases))))


def default_segments(documents: int, partitions: int) -> int:
    """How many segments to plan: about one per 50,000 documents, at least one for each of the readers that
    `partitions` allows once there is work to share, and never more than 16 times as many."""
    least = partitions if documents >= FEW_DOCUMENTS else 1
    wanted = -(-documents // DOCUMENTS_PER_SEGMENT)
    return max(least, min(wanted, SEGMENTS_PER_PARTITION * partitions))


def plan_segments(connection: Connection, spec: Spec, facts: SourceFacts, segments: int) -> tuple[Segment, ...]:
    """At most `segments` key ranges that tile the scope, of about equal size by the leading key column's
    statistics. One when the column is computed or was never analyzed."""
    keys = spec.scope.keys
    return tile(draw_bounds(connection, spec, facts.key, segments, keys.low, keys.high))


def draw_bounds(
    connection: Connection, spec: Spec, key: tuple[KeyColumn, ...], segments: int, low: Bound, high: Bound
) -> list[tuple[str, ...]]:
    """Ascending bounds between `low` and `high`, without these, that make at most `segments` ranges."""
    columns = {c.name: c for c in result_columns(connection, spec.source.postgres.query)}
    leading = columns[key[0].name]
    if segments <= 1 or not leading.table:
        return []
    return [(bound,) for bound in _bounds(connection, leading, segments, low, high)]


def tile(bounds: Sequence[tuple[str, ...]]) -> tuple[Segment, ...]:
    """The segments between ascending bounds, open at both ends: what lies beyond a scope's the query leaves out."""
    edges: list[Bound] = [None, *bounds, None]
    return tuple(Segment(number, low, high) for number, (low, high) in enumerate(pairwise(edges)))


def range_faults(connection: Connection, spec: Spec, key: tuple[KeyColumn, ...]) -> Iterator[tuple[str, str]]:
    """(field of the spec, why) of every key range that is none: a bound that is no key, or not above the other one."""
    keys = spec.scope.keys
    ranges = [("scope.keys", (keys.low, keys.high))]
    ranges += [(f"phases.{n}.keys", phase_range(keys, phase)) for n, phase in enumerate(spec.phases)]
    query = SourceQuery(spec.source.postgres.query, None, key)
    for field, (low, high) in ranges:
        first, second = low or high, high or low
        if first is None or second is None:
            continue
        try:
            with connection.transaction():
                row = connection.execute(*query.order_of(first, second)).fetchone()
        except (psycopg.DataError, psycopg.IntegrityError) as error:
            yield field, f"{describe_range(low, high)}: {error.diag.message_primary or error}"
            continue
        assert row is not None
        lower, equal, *_ = row
        # A bound of fewer columns stands behind all keys that begin with it.
        if low is not None and high is not None and not (lower or (equal and len(low) > len(high))):
            yield (
                field,
                f"{describe_range(low, high)}: no key lies there, since the first does not come before the second",
            )


def _bounds(connection: Connection, column: ResultColumn, segments: int, low: Bound, high: Bound) -> list[str]:
    row = connection.execute(_BASE_COLUMN, [column.table, column.number]).fetchone()
    if row is None:
        return []
    schema, table, name, collation = row
    collate = sql.SQL(f"collate {collation}" if collation else "")
    inside: list[sql.Composable] = []
    named: dict[str, object] = {"schema": schema, "table": table, "column": name, "segments": segments}
    for which, bound, operator in (("low", low, ">"), ("high", high, "<")):
        if bound is not None:
            inside.append(sql.SQL(f"and value {{}} {operator} %({which})s::{column.type}").format(collate))
            named[which] = bound[0]
    statement = sql.SQL(_BOUNDS).format(type=sql.SQL(column.type), collation=collate, inside=sql.SQL(" ").join(inside))
    return [value for (value,) in connection.execute(statement, named).fetchall()]
