"""What the source's catalog says of the tables that a query reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import psycopg

from reshelve.model import Table

# The fingerprint covers what changes without any row being written: TRUNCATE, a rewriting ALTER TABLE,
# CLUSTER and VACUUM FULL give a new file; partitions come and go; columns are added, dropped, renamed or
# retyped. One round trip, so that a page reader can compare it inside every page's transaction.
TABLES_FINGERPRINT: Final = """
with recursive family as (
    select table_oid as root, table_oid as member from unnest(%s::oid[]) as table_oid
    union
    select family.root, pg_inherits.inhrelid
      from family join pg_inherits on pg_inherits.inhparent = family.member
),
described as (
    select family.root, family.member,
           concat_ws(' ', family.member, pg_relation_filenode(family.member), (
               select string_agg(format('%%s:%%s:%%s', attname, atttypid, atttypmod), ' ' order by attnum)
                 from pg_attribute
                where attrelid = family.member and attnum > 0 and not attisdropped
           )) as facts
      from family
)
select pg_class.oid, nspname::text, relname::text,
       md5(string_agg(described.facts, E'\\n' order by described.member))
  from described
       join pg_class on pg_class.oid = described.root
       join pg_namespace on pg_namespace.oid = pg_class.relnamespace
 group by pg_class.oid, nspname, relname
 order by nspname, relname
"""

# The relations of the given names, each raised to the topmost partitioned table (or ancestor) that this role
# may read: locking that one locks its partitions, and its fingerprint covers them.
_RELATIONS: Final = """
with recursive named as (
    select pg_class.oid
      from unnest(%s::text[], %s::text[]) as given (schema_name, table_name)
           join pg_namespace on nspname = schema_name
           join pg_class on relnamespace = pg_namespace.oid and relname = table_name
),
lineage as (
    select oid as leaf, oid as ancestor, 0 as depth from named
    union all
    select lineage.leaf, pg_inherits.inhparent, lineage.depth + 1
      from lineage join pg_inherits on pg_inherits.inhrelid = lineage.ancestor
     where has_table_privilege(pg_inherits.inhparent, 'select')
),
topmost as (
    select distinct on (leaf) ancestor from lineage order by leaf, depth desc
)
select distinct pg_class.oid, pg_class.oid::regclass::text, relkind::text
  from topmost join pg_class on pg_class.oid = topmost.ancestor
"""

_NAMED_VIEWS: Final = """
select schemaname::text, viewname::text from pg_views
 where schemaname !~ '^pg_' and schemaname <> 'information_schema'
   and (strpos(lower(%(query)s), lower(schemaname || '.' || viewname)) > 0
        or strpos(%(query)s, quote_ident(schemaname) || '.' || quote_ident(viewname)) > 0)
 order by 1, 2
"""


def named_views(connection: psycopg.Connection[Any], query: str) -> tuple[tuple[str, str], ...]:
    """(schema, name) of the views whose qualified names stand in the query: as text, so perhaps in a comment."""
    return tuple(connection.execute(_NAMED_VIEWS, {"query": query}).fetchall())


def read_tables(connection: psycopg.Connection[Any], oids: Sequence[int]) -> tuple[Table, ...]:
    """The tables with these oids as they are now, by schema and name. One that was dropped is left out."""
    if not oids:
        return ()
    rows = connection.execute(TABLES_FINGERPRINT, [list(oids)]).fetchall()
    return tuple(Table(schema, name, oid, fingerprint) for oid, schema, name, fingerprint in rows)


def find_relations(connection: psycopg.Connection[Any], names: Sequence[tuple[str, str]]) -> list[tuple[int, str, str]]:
    """(oid, qualified name, relkind) of what must be locked to read the relations (schema, name)."""
    schemas, tables = [schema for schema, _ in names], [name for _, name in names]
    return connection.execute(_RELATIONS, [schemas, tables]).fetchall()
