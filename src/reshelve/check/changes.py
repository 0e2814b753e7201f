"""Checks of how changes are followed: does every table's change lead to documents, is it in the log with what that
needs, and may this role read it from there?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from psycopg import sql

from reshelve.check.findings import Findings
from reshelve.errors import SourceRefused
from reshelve.model import ChangeRule, KeyColumn, RunId
from reshelve.producers.catalog import read_tables
from reshelve.producers.identity import identity_gaps
from reshelve.producers.planner import Connection, Estimate, lockable_tables
from reshelve.producers.rules import find_rules
from reshelve.producers.transactions import name_transactions, old_transactions

_CHANGES: Final = "changes"
_PUBLICATION: Final = "changes.replication.publication"
_SLOT: Final = "changes.debezium.slot"
_OLD_S: Final = 120.0  # a transaction that has gone on for so long may go on for long
_COLUMN_LISTS_VERSION: Final = 15_00_00

# `own` slots are those of this reindex, which a run that goes on has already. Roles of managed services
# stand for the attribute that they don't give away.
_SERVER: Final = """
select current_setting('wal_level'),
       current_setting('max_replication_slots')::int,
       (select count(*) from pg_replication_slots)::int,
       current_setting('max_wal_senders')::int,
       (select count(*) from pg_stat_replication)::int,
       (select count(*) from pg_replication_slots where starts_with(slot_name::text, %(own)s))::int,
       (select setting::bigint * 1024 * 1024 from pg_settings where name = 'max_slot_wal_keep_size'),
       current_setting('idle_replication_slot_timeout', true),
       (select rolreplication or rolsuper from pg_roles where rolname = current_user)
         or exists (select from pg_roles
                     where rolname in ('rds_replication', 'rds_superuser') and pg_has_role(oid, 'member')),
       has_database_privilege(current_database(), 'create')
"""
_GIVEN: Final = """
select array_remove(array[case when not pubinsert then 'insert' end, case when not pubupdate then 'update' end,
                          case when not pubdelete then 'delete' end, case when not pubtruncate then 'truncate' end],
                    null),
       pubviaroot
  from pg_publication where pubname = %s
"""
# Of the tables and of their partitions, down to the leaves.
_TABLES: Final = """
with recursive family as (
    select table_oid as topmost, table_oid as member from unnest(%s::oid[]) as table_oid
    union
    select topmost, inhrelid from family join pg_inherits on inhparent = member
)
select topmost::bigint, bool_and(top.relkind = 'p'), bool_and(pg_has_role(top.relowner, 'usage')),
       min(top.relowner::regrole::text),
       min(member::regclass::text) filter (where below.relpersistence <> 'p')
  from family
       join pg_class top on top.oid = topmost
       join pg_class below on below.oid = member
 group by topmost
"""


def check_changes(findings: Findings, connection: Connection, key: tuple[KeyColumn, ...], estimate: Estimate) -> None:
    """Everything about changes that can be known before a run. Raises psycopg.Error."""
    if findings.spec.changes.mode == "none":
        findings.warning(
            _CHANGES,
            "writes made to the source during the copy are not followed: they may be missing from the new index, and "
            "what is deleted may be found in it",
            "follow them (`changes: replication`), or stop the writers until the cut-over",
        )
        return
    try:
        tables = read_tables(connection, lockable_tables(connection, estimate))
    except SourceRefused:
        return  # it is among the findings already
    found = find_rules(connection, findings.spec, key, tables)
    for problem in found.problems:
        what = f"{problem.what}: {problem.why}" if problem.why else problem.what
        findings.error(problem.field, what, problem.remedy)
    checks = _Changes(findings, connection, found.rules)
    checks.check_tables()
    if findings.spec.changes.mode == "debezium":
        checks.check_connector()
    else:
        checks.check_server()
        checks.check_publication()


class _Changes:
    """The checks of one connection, for the rules found."""

    def __init__(self, findings: Findings, connection: Connection, rules: Sequence[ChangeRule]) -> None:
        self._findings, self._connection, self._rules = findings, connection, rules
        self._spec = findings.spec
        rows = connection.execute(_TABLES, [[rule.oid for rule in rules]]).fetchall()
        self._tables = {oid: facts for oid, *facts in rows}

    def check_tables(self) -> None:
        """Every change is in the log, with the old values that its rules need."""
        unlogged = [name for *_, name in self._tables.values() if name is not None]
        for name in unlogged:
            remedy = f"alter table {name} set logged; or leave its changes out (`ignore: true` in depends_on)"
            self._findings.error(_CHANGES, f"table {name} is unlogged or temporary: its changes are in no log", remedy)
        for gap in identity_gaps(self._connection, self._rules):
            if gap.table not in unlogged:
                self._findings.error(_CHANGES, f"changes of {gap.table} can't be followed: {gap.why}", gap.statement)

    def check_connector(self) -> None:
        assert self._spec.changes.debezium is not None
        slot = self._spec.changes.debezium.slot
        row = self._connection.execute(
            "select slot_type, database::text, wal_status from pg_replication_slots where slot_name = %s", [slot]
        ).fetchone()
        if row is None:
            remedy = "name the connector's `slot.name`, and see that the connector has begun"
            self._findings.error(_SLOT, f"there is no replication slot {slot!r}", remedy)
        elif row[0] != "logical" or row[1] != self._connection.info.dbname:
            kind = f"a {row[0]} slot" if row[0] != "logical" else f"a slot of database {row[1]}"
            self._findings.error(_SLOT, f"{slot!r} is {kind}", "name the slot of the connector of this database")
        elif row[2] == "lost":
            remedy = "set the connector up anew: it has missed changes"
            self._findings.error(_SLOT, f"the WAL that slot {slot!r} needs was removed", remedy)

    def check_server(self) -> None:
        """A slot can be made and read from, and is not in danger at once."""
        own = RunId(self._spec.reindex, "").slot
        row = self._connection.execute(_SERVER, {"own": own}).fetchone()
        assert row is not None
        wal_level, max_slots, slots, max_senders, senders, mine, keep, idle, may_replicate, self._may_create = row
        instead = "or, where that can't be, `changes: none`, which guarantees less"
        if wal_level != "logical":
            remedy = f"alter system set wal_level = logical; and restart the server, {instead}"
            self._findings.error(_CHANGES, f"the source has wal_level = {wal_level}: it logs no rows", remedy)
        if not may_replicate:
            role = self._connection.info.user
            remedy = f"alter role {role} replication; (on Amazon RDS: grant rds_replication to {role};)"
            self._findings.refusal(_CHANGES, f"role {role} may not use replication slots", remedy)
        if slots >= max_slots:
            what = f"all {max_slots} replication slots of the source are taken"
            remedy = "drop one that nobody needs (`reshelve runs` lists ours), or raise max_replication_slots"
            if mine:
                self._findings.warning(_CHANGES, f"{what}, {mine} of them by runs of this reindex", remedy)
            else:
                self._findings.error(_CHANGES, what, remedy)
        if senders >= max_senders:
            report = self._findings.warning if mine else self._findings.error
            remedy = "end one that nobody needs (pg_stat_replication), or raise max_wal_senders"
            report(_CHANGES, f"all {max_senders} WAL senders of the source are busy", remedy)
        self._check_dangers(keep, idle)

    def _check_dangers(self, keep: int | None, idle: str | None) -> None:
        limit = self._spec.limits.max_wal_retained
        if keep is not None and 0 <= keep < limit:
            self._findings.warning(
                "limits.max_wal_retained",
                f"the source gives a slot up at {keep / 1e9:,.1f} GB of WAL (max_slot_wal_keep_size), before the limit "
                f"of {limit / 1e9:,.1f} GB is reached",
                "raise max_slot_wal_keep_size at the source, or lower the limit",
            )
        if idle not in (None, "0"):
            self._findings.warning(
                _CHANGES,
                f"the source gives a slot up that nobody reads for {idle} (idle_replication_slot_timeout)",
                "don't leave a run standing for as long, or set it to 0",
            )
        row = self._connection.execute("select pg_snapshot_xmax(pg_current_snapshot())::text::bigint").fetchone()
        assert row is not None
        old = [found for found in old_transactions(self._connection, row[0]) if (found.seconds or 0) >= _OLD_S]
        if old:
            self._findings.warning(
                _CHANGES,
                f"old transactions are open, and the run will wait for their end: {name_transactions(old)}",
                "end them, or start the run after them",
            )

    def check_publication(self) -> None:
        """The publication is there with all that the rules need, or can be made."""
        replication = self._spec.changes.replication
        given = replication.publication if replication is not None else None
        if given is not None:
            self._check_given(given)
            return
        role = self._connection.info.user
        foreign = [(rule, self._tables[rule.oid][2]) for rule in self._rules if not self._tables[rule.oid][1]]
        if not foreign and self._may_create:
            return
        name = f"{self._spec.reindex.replace('-', '_')}_changes"
        owners = ", ".join(sorted({owner for _, owner in foreign}))
        if foreign:
            what = f"role {role} does not own {', '.join(sorted({_label(rule) for rule, _ in foreign}))}, so it can't "
            remedy = f"as {owners}: {self._statement(name)}"
        else:
            what = f"role {role} may not create in database {self._connection.info.dbname}, so it can't "
            remedy = f"grant create on database {self._connection.info.dbname} to {role}; or: {self._statement(name)}"
        remedy += f" and in the spec `changes: {{replication: {{publication: {name}}}}}`"
        self._findings.refusal(_CHANGES, f"{what}make the publication", remedy)

    def _check_given(self, name: str) -> None:
        row = self._connection.execute(_GIVEN, [name]).fetchone()
        if row is None:
            self._findings.error(_PUBLICATION, f"there is no publication {name!r}", self._statement(name))
            return
        missing, via_root = row
        quoted = sql.Identifier(name).as_string(None)
        if missing:
            what = f"publication {name!r} does not publish {', '.join(missing)}"
            remedy = f"alter publication {quoted} set (publish = 'insert, update, delete, truncate');"
            self._findings.error(_PUBLICATION, what, remedy)
        partitioned = [_label(rule) for rule in self._rules if self._tables[rule.oid][0]]
        if partitioned and not via_root:
            what = f"publication {name!r} publishes partitions by their own names ({', '.join(partitioned)})"
            remedy = f"alter publication {quoted} set (publish_via_partition_root = true);"
            self._findings.error(_PUBLICATION, what, remedy)
            return
        self._check_published(name, quoted)

    def _check_published(self, name: str, quoted: str) -> None:
        lists = self._connection.info.server_version >= _COLUMN_LISTS_VERSION
        rows = self._connection.execute(
            "select schemaname::text, tablename::text, "
            + ("attnames::text[], rowfilter" if lists else "null, null")
            + " from pg_publication_tables where pubname = %s",
            [name],
        ).fetchall()
        published = {(schema, table): (columns, row_filter) for schema, table, columns, row_filter in rows}
        for rule in self._rules:
            table = sql.Identifier(rule.schema, rule.table).as_string(None)
            if (rule.schema, rule.table) not in published:
                what = f"publication {name!r} does not contain {_label(rule)}"
                self._findings.error(_PUBLICATION, what, f"alter publication {quoted} add table {table};")
                continue
            columns, row_filter = published[rule.schema, rule.table]
            hidden = [column for column in rule.columns if columns is not None and column not in columns]
            if row_filter is not None or hidden:
                why = "filters its rows" if row_filter is not None else f"leaves out {', '.join(hidden)}"
                what = f"publication {name!r} does not publish {_label(rule)} whole: it {why}"
                remedy = f"alter publication {quoted} drop table {table}; alter publication {quoted} add table {table};"
                self._findings.error(_PUBLICATION, what, remedy)

    def _statement(self, name: str) -> str:
        tables = dict.fromkeys(sql.Identifier(rule.schema, rule.table).as_string(None) for rule in self._rules)
        quoted = sql.Identifier(name).as_string(None)
        return f"create publication {quoted} for table {', '.join(tables)} with (publish_via_partition_root = true);"


def _label(rule: ChangeRule) -> str:
    return f"{rule.schema}.{rule.table}"
