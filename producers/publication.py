"""Whether the publication says all that the plan's rules need to know, and has done so since the slot was made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import psycopg

from reshelve.errors import SourceRefused
from reshelve.model import ChangePlan, ChangeRule
from reshelve.producers.changes import history_broken
from reshelve.producers.replication import RulesByOid
from reshelve.producers.xids import widen_xid

# Every table whose rows a rule is for: its partitions and heirs too, which may be published under their own name.
_FAMILIES: Final = """
with recursive family as (
    select root, root as member from unnest(%s::oid[]) as root
    union
    select family.root, pg_inherits.inhrelid
      from family join pg_inherits on pg_inherits.inhparent = family.member
)
select root::bigint, member::bigint, member::regclass::text, relkind = 'p',
       array(select relid::oid::bigint from pg_partition_ancestors(member) as relid)
  from family join pg_class on pg_class.oid = member
"""

_COLUMNS_VERSION: Final = 15_00_00
_PUBLISHED: Final = """
select pg_class.oid::bigint, {columns}
  from pg_publication_tables
       join pg_namespace on nspname = schemaname
       join pg_class on relnamespace = pg_namespace.oid and relname = tablename
 where pubname = %s
"""

# The catalog's rows, with the transactions that wrote them: what was changed and changed back shows, too.
_ROWS: Final = """
select pubinsert and pubupdate and pubdelete,
       array(
           select pg_publication.xmin::text::bigint
           union all
           select xmin::text::bigint from pg_publication_rel where prpubid = pg_publication.oid and prrelid = any(%s)
           union all
           select xmin::text::bigint from pg_publication_namespace where pnpubid = pg_publication.oid
       )
  from pg_publication where pubname = %s
"""


class PublicationGuard:
    """Looks whether the publication is as it was when the slot was made.

    since  64-bit id of a transaction that was begun after the slot was made

    Methods raise SourceRefused, psycopg.Error; the connection may be in a transaction, whose snapshot then counts."""

    def __init__(self, plan: ChangePlan, since: int, where: str) -> None:
        self._plan, self._since, self._where = plan, since, where
        self._members: list[int] = []
        self._rows: object = None

    def open(self, connection: psycopg.Connection[Any], xmax: int) -> RulesByOid:
        """The rules by the oid of every table that may be named in a change; `xmax` is a snapshot's. Refuses a
        publication that leaves out what they need, or that was changed since the slot was made."""
        families = connection.execute(_FAMILIES, [list({rule.oid for rule in self._plan.rules})]).fetchall()
        self._members = sorted({member for _, member, *_ in families})
        self._rows = self._read_rows(connection)
        publishes, xids = self._rows
        if not publishes:
            raise self._insufficient("does not publish insert, update and delete")
        if any(self._since < widen_xid(xid, xmax) <= xmax for xid in xids):
            raise self._changed()
        listed = self._listed(connection)
        rules: dict[int, list[tuple[int, ChangeRule]]] = {}
        own = {rule.oid for rule in self._plan.rules}
        for root, member, name, partitioned, ancestors in families:
            if member != root and member in own:
                continue
            of_root = [(number, rule) for number, rule in enumerate(self._plan.rules) if rule.oid == root]
            rules.setdefault(member, []).extend(of_root)
            published = [listed[oid] for oid in (member, *ancestors) if oid in listed]
            if not partitioned and not published:  # a partitioned table has no rows of its own
                raise self._insufficient(f"leaves out table {name}")
            for columns, filtered in published:
                if filtered:
                    raise self._insufficient(f"has a row filter for table {name}")
                missing = {column for _, rule in of_root for column in rule.columns}.difference(columns or ())
                if columns is not None and missing:
                    raise self._insufficient(f"leaves out columns of table {name}: {', '.join(sorted(missing))}")
        return rules

    def check(self, connection: psycopg.Connection[Any]) -> None:
        """Refuses a publication that was changed since `open`."""
        if self._read_rows(connection) != self._rows:
            raise self._changed()

    def _read_rows(self, connection: psycopg.Connection[Any]) -> tuple[bool, list[int]]:
        row = connection.execute(_ROWS, [self._members, self._plan.publication]).fetchone()
        if row is None:
            raise history_broken(
                f"the publication {self._plan.publication} is gone", where=self._where, why="somebody dropped it"
            )
        publishes, xids = row
        return publishes, sorted(xids)

    def _listed(self, connection: psycopg.Connection[Any]) -> Mapping[int, tuple[list[str] | None, bool]]:
        """The published tables, each with its columns, None for all, and whether rows are filtered."""
        known = connection.info.server_version >= _COLUMNS_VERSION
        statement = _PUBLISHED.format(
            columns="attnames::text[], rowfilter is not null" if known else "null::text[], false"
        )
        rows = connection.execute(statement.encode(), [self._plan.publication]).fetchall()
        return {oid: (columns, filtered) for oid, columns, filtered in rows}

    def _insufficient(self, why: str) -> SourceRefused:
        publication = self._plan.publication
        return SourceRefused(
            f"publication {publication} does not tell all changes",
            where=self._where,
            why=f"it {why}",
            remedy="publish the tables whole, or leave `publication` out of the spec, so that the run makes its own;"
            " then start a new run with `reshelve run --new`",
        )

    def _changed(self) -> SourceRefused:
        return history_broken(
            f"the publication {self._plan.publication} was changed since the slot was made",
            where=self._where,
            why="changes made meanwhile may have been left out",
        )
