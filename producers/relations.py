"""The tables that a query reads, with what belongs to them: partitions, inheriting tables, columns, foreign keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from reshelve.model import Table

# The tables with all that inherit from them, and the relations named.
_RELATIONS: Final = """
with recursive family as (
    select table_oid as topmost, table_oid as member from unnest(%(tables)s::oid[]) as table_oid
    union
    select topmost, inhrelid from family join pg_inherits on inhparent = member
),
named as (
    select pg_class.oid
      from unnest(%(schemas)s::text[], %(names)s::text[]) as given (schema_name, table_name)
           join pg_namespace on nspname = schema_name
           join pg_class on relnamespace = pg_namespace.oid and relname = table_name
)
select pg_class.oid::bigint, topmost::bigint, nspname::text, relname::text, relkind::text
  from (select member as oid, topmost from family
        union select oid, null from named where oid not in (select member from family)) as found
       join pg_class using (oid)
       join pg_namespace on pg_namespace.oid = relnamespace
"""
# Columns with their base types: of a domain, what it is made of.
_COLUMNS: Final = """
with recursive base as (
    select attrelid, attname::text as name, attnum, atttypid as type, atttypmod as modifier,
           attgenerated <> '' as generated
      from pg_attribute where attrelid = any (%s::oid[]) and attnum > 0 and not attisdropped
    union all
    select attrelid, name, attnum, typbasetype, typtypmod, generated
      from base join pg_type on pg_type.oid = type where typtype = 'd'
)
select attrelid::bigint, name, attnum, format_type(type, modifier), generated
  from base join pg_type on pg_type.oid = type where typtype <> 'd' order by attrelid, attnum
"""
_FOREIGN_KEYS: Final = """
select conrelid::bigint, confrelid::bigint,
       array(select attname::text from unnest(conkey) with ordinality as k (number, n)
                    join pg_attribute on attrelid = conrelid and attnum = number order by n),
       array(select attname::text from unnest(confkey) with ordinality as k (number, n)
                    join pg_attribute on attrelid = confrelid and attnum = number order by n)
  from pg_constraint
 where contype = 'f' and conrelid = any (%(tables)s::oid[]) and confrelid = any (%(tables)s::oid[])
"""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: `type` is the base type (`format_type`)."""

    name: str
    number: int
    type: str
    generated: bool


@dataclass(frozen=True, slots=True)
class Relation:
    """A table, or what was taken for one. `kind` is its relkind."""

    oid: int
    schema: str
    name: str
    kind: str
    columns: tuple[Column, ...]

    @property
    def label(self) -> str:
        """schema.table, as the spec writes it."""
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """`columns` of table `child` refer to `referred` columns of table `parent`."""

    child: int
    parent: int
    columns: tuple[str, ...]
    referred: tuple[str, ...]


@dataclass(frozen=True)
class Relations:
    """Relations by oid.

    tables    oids of the tables that the query reads, each the topmost of its family
    families  by oid of a table or of one below it: the topmost one's
    """

    tables: frozenset[int]
    by_oid: Mapping[int, Relation]
    families: Mapping[int, int]
    foreign_keys: tuple[ForeignKey, ...]

    def __getitem__(self, oid: int) -> Relation:
        return self.by_oid[oid]

    def topmost(self, oid: int) -> int | None:
        """The topmost table of the family of `oid`; None when the query reads none of it."""
        return self.families.get(oid)

    def named(self, name: tuple[str, str]) -> int | None:
        """The oid of (schema, table)."""
        return next((oid for oid, found in self.by_oid.items() if (found.schema, found.name) == name), None)

    def topmost_named(self, name: tuple[str, str]) -> int | None:
        """The topmost table of the family of (schema, table)."""
        oid = self.named(name)
        return None if oid is None else self.topmost(oid)

    def is_view(self, oid: int) -> bool:
        return self.by_oid[oid].kind in ("v", "m")

    def logged(self, relation: Relation) -> list[Relation]:
        """The tables under whose names the relation's rows are logged: a partitioned one alone, since it is published
        as the root; else the relation and each that inherits from it."""
        if relation.kind == "p":
            return [relation]
        below = sorted(oid for oid, topmost in self.families.items() if topmost == relation.oid != oid)
        return [relation, *(self.by_oid[oid] for oid in below)]

    def suggestion(self, relation: Relation, root: Relation, key: tuple[str, ...]) -> str | None:
        """An entry of `depends_on` for the relation, where a foreign key from or to the key's table tells it."""
        for foreign in self.foreign_keys:
            if (foreign.child, foreign.parent) == (relation.oid, root.oid) and set(foreign.referred) == set(key):
                referring = dict(zip(foreign.referred, foreign.columns, strict=True))
                return f"{{table: {relation.label}, key: [{', '.join(referring[name] for name in key)}]}}"
        for foreign in self.foreign_keys:
            if (foreign.child, foreign.parent) == (root.oid, relation.oid) and len(foreign.columns) == 1:
                lookup = f"select {', '.join(key)} from {root.label} where {foreign.columns[0]} = any(%(values)s)"
                return f'{{table: {relation.label}, lookup: "{lookup}", columns: [{foreign.referred[0]}]}}'
        return None


def read_relations(
    connection: psycopg.Connection[Any], tables: Sequence[Table], names: Sequence[tuple[str, str]]
) -> Relations:
    """The tables with their families, and the relations (schema, name) as far as they exist. Raises psycopg.Error."""
    oids = [table.oid for table in tables]
    parameters = {"tables": oids, "schemas": [schema for schema, _ in names], "names": [name for _, name in names]}
    rows = connection.execute(_RELATIONS, parameters).fetchall()
    columns: dict[int, list[Column]] = {}
    wanted = [row[0] for row in rows]
    for oid, *facts in connection.execute(_COLUMNS, [wanted]).fetchall():
        columns.setdefault(oid, []).append(Column(*facts))
    found = {oid: Relation(oid, schema, name, kind, tuple(columns.get(oid, ()))) for oid, _, schema, name, kind in rows}
    families = {oid: topmost for oid, topmost, *_ in rows if topmost is not None}
    keys = connection.execute(_FOREIGN_KEYS, {"tables": oids}).fetchall()
    foreign = tuple(ForeignKey(child, parent, tuple(own), tuple(referred)) for child, parent, own, referred in keys)
    return Relations(frozenset(oids), found, families, foreign)
