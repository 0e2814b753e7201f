"""Whether the old values that rules need are in the log: the replica identity of their tables.

An UPDATE or DELETE of a published table that has no replica identity fails at the source, so that a publication must
never be made before this has been looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from reshelve.model import ChangeRule

# The tables themselves and their leaf partitions: rows are logged with the leaf's identity, and published
# under the topmost table with that one's. `columns` are those that each rule's table must log, together.
_GAPS: Final = """
with recursive wanted as (
    select table_oid, array_agg(distinct name) as columns
      from unnest(%(tables)s::oid[], %(columns)s::text[]) as w (table_oid, name) group by table_oid
),
family as (
    select table_oid as member, columns, true as topmost from wanted
    union
    select inhrelid, columns, false
      from family
           join pg_class on pg_class.oid = member and relkind = 'p'
           join pg_inherits on inhparent = member
),
fit as (
    select indrelid, indexrelid, indisprimary, indisreplident,
           array(select attname::text from pg_attribute
                  where attrelid = indrelid and attnum = any ((indkey::int2[])[0:indnkeyatts - 1])) as columns,
           not exists (select from pg_attribute
                        where attrelid = indrelid and attnum = any ((indkey::int2[])[0:indnkeyatts - 1])
                          and not attnotnull) as never_null
      from pg_index
     where indisunique and indisvalid and indimmediate and indpred is null and indexprs is null
)
select quote_ident(nspname) || '.' || quote_ident(relname),
       family.columns,
       case relreplident when 'n' then 'nothing' when 'd' then 'its primary key'
                         else 'an index of other columns' end,
       exists (select from pg_index where indrelid = member and indisprimary),
       (select quote_ident(candidate.relname)
          from fit join pg_class candidate on candidate.oid = indexrelid
         where indrelid = member and never_null and fit.columns @> family.columns
         order by cardinality(fit.columns), candidate.relname limit 1)
  from family
       join pg_class on pg_class.oid = member
       join pg_namespace on pg_namespace.oid = relnamespace
 where (topmost or relkind = 'r')
   and relreplident <> 'f'
   and not exists (select from fit
                    where indrelid = member and fit.columns @> family.columns
                      and case relreplident when 'd' then indisprimary when 'i' then indisreplident else false end)
 order by 1
"""


@dataclass(frozen=True, slots=True)
class IdentityGap:
    """A table that does not log the old values of columns that its rules need.

    table      schema.table, quoted where needed
    columns    that must be logged
    statement  ALTER TABLE … that makes it so, with the smallest index that does, else in full
    """

    table: str
    columns: tuple[str, ...]
    why: str
    statement: str


def identity_gaps(connection: psycopg.Connection[Any], rules: Sequence[ChangeRule]) -> list[IdentityGap]:
    """The gaps of the rules' tables and their partitions, by table. Raises psycopg.Error."""
    pairs = [(rule.oid, column) for rule in rules for column in rule.columns]
    tables, columns = [table for table, _ in pairs], [column for _, column in pairs]
    rows = connection.execute(_GAPS, {"tables": tables, "columns": columns}).fetchall()
    return [_gap(*row) for row in rows]


def _gap(table: str, columns: list[str], logged: str, has_primary_key: bool, index: str | None) -> IdentityGap:
    if logged == "its primary key" and not has_primary_key:
        logged = "nothing: it has no primary key"
    identity = f"using index {index}" if index else "full"
    why = f"its changes must tell the old values of {', '.join(columns)}, and its replica identity is {logged}"
    return IdentityGap(table, tuple(columns), why, f"alter table {table} replica identity {identity};")
