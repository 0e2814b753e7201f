"""Which documents a change of a table makes dirty: the rules of a plan, found out from the query and the spec."""

from __future__ import annotations

from typing import Any, Final

import psycopg

from reshelve.errors import SourceRefused
from reshelve.model import ChangePlan, ChangeRule, RunId, SourceFacts, Table
from reshelve.producers.planner import result_columns
from reshelve.spec import Spec

# The base types of columns (of a domain: what it is made of) and the topmost table that has them.
_COLUMNS: Final = """
with recursive base as (
    select attname::text as name, attnum, atttypid as type, atttypmod as modifier
      from pg_attribute where attrelid = %(table)s and attnum > 0 and not attisdropped
    union all
    select name, attnum, typbasetype, typtypmod from base join pg_type on pg_type.oid = type where typtype = 'd'
)
select name, attnum, format_type(type, modifier) from base join pg_type on pg_type.oid = type where typtype <> 'd'
"""


def change_plan(
    connection: psycopg.Connection[tuple[Any, ...]], spec: Spec, facts: SourceFacts, run: RunId
) -> ChangePlan:
    """How the run follows changes. Raises SourceRefused where a table's changes lead to no document."""
    mode = spec.changes.mode
    if mode == "none":
        return ChangePlan("none")
    rules = (_key_rule(connection, spec, facts),)
    if spec.changes.debezium is not None:
        return ChangePlan(mode, slot=spec.changes.debezium.slot, rules=rules)
    given = spec.changes.replication.publication if spec.changes.replication is not None else None
    return ChangePlan(mode, run.slot, given or run.slot, given is None, rules)


def _key_rule(connection: psycopg.Connection[tuple[Any, ...]], spec: Spec, facts: SourceFacts) -> ChangeRule:
    columns = {column.name: column for column in result_columns(connection, spec.source.postgres.query)}
    key = [columns[name] for name in spec.source.postgres.key]
    table = _table(facts, key[0].table)
    rows = connection.execute(_COLUMNS, {"table": table.oid}).fetchall()
    numbers = {number: (name, type_) for name, number, type_ in rows}
    found = [numbers[column.number] for column in key]
    return ChangeRule(
        table.schema, table.name, table.oid, tuple(name for name, _ in found), tuple(type_ for _, type_ in found)
    )


def _table(facts: SourceFacts, oid: int) -> Table:
    for table in facts.tables:
        if table.oid == oid:
            return table
    raise SourceRefused("the key's table is not known", why=str(oid), remedy="declare it in depends_on")
