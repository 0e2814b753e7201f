"""The replication slot and the publication of a run: made, looked at and dropped, on ordinary connections.

A slot that nobody reads keeps the source's WAL until its disk is full, so that whoever makes one must see to its
end. Every function here can be done again: what is there already, or gone already, is no error. Names are
`RunId.slot`; what does not begin with `SLOT_PREFIX` is somebody else's and is never dropped.

Connections are in autocommit mode. Every function can raise psycopg.OperationalError when the server is gone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import psycopg
from psycopg import errors, sql
from psycopg.conninfo import make_conninfo

from reshelve.errors import AccessRefused, BlockedError, ReshelveError, SourceRefused
from reshelve.model import SLOT_PREFIX, ChangePlan
from reshelve.producers.identity import identity_gaps
from reshelve.producers.transactions import name_transactions, old_transactions
from reshelve.producers.visibility import may_read

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]
Waiting: TypeAlias = Callable[[str], None]
"""Told what is waited for, about once a second; raises to end the waiting."""

_FAILOVER_VERSION: Final = 17_00_00
_TWO_PHASE_VERSION: Final = 14_00_00
_TOLD_AFTER_S: Final = 1.0
_GRACE_S: Final = 3.0  # that a tailer which was told to end may take to let go of the slot
_DROP_S: Final = 30.0

_PUBLICATION: Final = """
select pubinsert and pubupdate and pubdelete and pubtruncate and pubviaroot and not puballtables,
       array(select prrelid::bigint from pg_publication_rel where prpubid = pg_publication.oid order by 1)
  from pg_publication where pubname = %s
"""
_SLOT: Final = """
select active_pid,
       (confirmed_flush_lsn - '0/0'::pg_lsn)::bigint,
       (restart_lsn - '0/0'::pg_lsn)::bigint,
       ({now} - restart_lsn)::bigint,
       wal_status,
       {invalidation}
  from pg_replication_slots where slot_name = %s
"""
_SLOTS: Final = """
select slot_name::text, coalesce(database::text, ''), active, ({now} - restart_lsn)::bigint
  from pg_replication_slots where starts_with(slot_name::text, %s) order by 1
"""
_NOW: Final = "case when pg_is_in_recovery() then pg_last_wal_receive_lsn() else pg_current_wal_insert_lsn() end"


@dataclass(frozen=True, slots=True)
class CreatedSlot:
    """A slot that was just made.

    confirmed_lsn  where it begins: every transaction that commits after it is decoded
    xid            taken after it was made; pages may be read once `may_read(xmin, xid)`
    """

    name: str
    confirmed_lsn: int
    xid: int


@dataclass(frozen=True, slots=True)
class SlotState:
    """A slot as it is now. LSNs are byte positions; everything but `exists` is empty when there is none.

    retained_bytes  of WAL that the server keeps for it
    wal_status      reserved, extended, unreserved or lost
    invalidation    why the server has made it useless; empty while it has not, or does not say (before version 17)
    """

    exists: bool
    active_pid: int | None = None
    confirmed_lsn: int | None = None
    restart_lsn: int | None = None
    retained_bytes: int | None = None
    wal_status: str = ""
    invalidation: str = ""


@dataclass(frozen=True, slots=True)
class FoundSlot:
    """A slot of some run on the server. `retained_bytes` is None when the server keeps none for it any more."""

    name: str
    database: str
    active: bool
    retained_bytes: int | None


def create_publication(connection: Connection, plan: ChangePlan) -> None:
    """Publish the tables of the plan's rules, partitions under their topmost table; to be done before the slot is
    made. One of ours that is otherwise, left by an attempt before, is made anew; one that was given is left alone.

    Raises AccessRefused when the role doesn't own the tables or may not create in the database; SourceRefused when a
    table does not log what its rules need (once published, its updates and deletes might fail)."""
    gaps = identity_gaps(connection, plan.rules)
    if gaps:
        raise SourceRefused(
            f"the changes of {', '.join(gap.table for gap in gaps)} can't be followed",
            where=_where(connection),
            why="; ".join(f"{gap.table}: {gap.why}" for gap in gaps),
            remedy=" ".join(gap.statement for gap in gaps),
        )
    if not plan.owns_publication:
        return
    tables = {rule.oid: (rule.schema, rule.table) for rule in plan.rules}
    found = connection.execute(_PUBLICATION, [plan.publication]).fetchone()
    if found is not None and found == (True, sorted(tables)):
        return
    statement = sql.SQL(
        "create publication {} for table {}"
        " with (publish = 'insert, update, delete, truncate', publish_via_partition_root = true)"
    ).format(
        sql.Identifier(_ours(plan.publication)),
        sql.SQL(", ").join(sql.Identifier(schema, table) for schema, table in tables.values()),
    )
    try:
        with connection.transaction():
            connection.execute("set transaction read write")
            connection.execute(sql.SQL("drop publication if exists {}").format(sql.Identifier(plan.publication)))
            connection.execute(statement)
    except psycopg.Error as error:
        raise _refusal(connection, f"cannot create the publication {plan.publication}", error) or error from None


def drop_publication(connection: Connection, publication: str) -> None:
    """Raises AccessRefused. No error when there is none."""
    statement = sql.SQL("drop publication if exists {}").format(sql.Identifier(_ours(publication)))
    try:
        with connection.transaction():
            connection.execute("set transaction read write")
            connection.execute(statement)
    except psycopg.Error as error:
        raise _refusal(connection, f"cannot drop the publication {publication}", error) or error from None


def create_slot(connection: Connection, plan: ChangePlan, waiting: Waiting) -> CreatedSlot:
    """Make the run's slot, and take a transaction id after it. One that is there already is made anew: whoever has
    read from it has written that in the journal, and does not come here.

    The server waits for every transaction that runs, however long that is; `waiting` is told which, and may raise.

    Raises SourceRefused, AccessRefused, BlockedError."""
    slot = _ours(plan.slot)
    what = f"cannot create the replication slot {slot}"
    drop_slot(connection, slot)
    failover = connection.info.server_version >= _FAILOVER_VERSION
    try:
        try:
            lsn = _create(connection, slot, failover, waiting)
        except (errors.InvalidParameterValue, errors.FeatureNotSupported):
            if not failover:
                raise
            lsn = _create(connection, slot, False, waiting)
        return CreatedSlot(slot, lsn, take_xid(connection))
    except psycopg.Error as error:
        raise _refusal(connection, what, error) or error from None


def await_old_transactions(connection: Connection, xid: int, waiting: Waiting) -> None:
    """Return once pages may be read: every transaction up to `xid` has ended (`may_read`). `waiting` is told which
    have not, and may raise."""
    told = time.monotonic()
    while True:
        row = connection.execute("select pg_snapshot_xmin(pg_current_snapshot())::text::bigint").fetchone()
        assert row is not None
        if may_read(row[0], xid):
            return
        if time.monotonic() - told >= _TOLD_AFTER_S:
            told = time.monotonic()
            found = old_transactions(connection, xid)
            if found:
                waiting(f"waiting for old transactions of the source to end: {name_transactions(found)}")
        time.sleep(0.05)


def drop_slot(connection: Connection, slot: str) -> None:
    """Drop a slot of ours; no error when there is none. Who still reads from it gets a moment to end, then is
    ended: what a dead run left behind.

    Raises AccessRefused, BlockedError when somebody keeps on reading from it."""
    what = f"cannot drop the replication slot {_ours(slot)}"
    began = time.monotonic()
    while True:
        reader: int | None = None
        try:
            row = connection.execute("select active_pid from pg_replication_slots where slot_name = %s", [slot])
            found = row.fetchone()
            if found is None:
                return
            (reader,) = found
            if reader is None:
                connection.execute("select pg_drop_replication_slot(%s)", [slot])
                return
            if time.monotonic() - began > _GRACE_S:
                connection.execute("select pg_terminate_backend(%s)", [reader])
        except errors.UndefinedObject:
            return
        except errors.ObjectInUse:
            pass
        except psycopg.Error as error:
            raise _refusal(connection, what, error) or error from None
        if time.monotonic() - began > _DROP_S:
            raise BlockedError(
                what,
                where=_where(connection),
                why=f"process {reader} of the server keeps on reading from it",
                remedy="end the program that does, then try again",
            )
        time.sleep(0.1)


def slot_state(connection: Connection, slot: str) -> SlotState:
    """The slot as it is now."""
    knows = connection.info.server_version >= _FAILOVER_VERSION
    invalidation = sql.SQL("coalesce(invalidation_reason, '')" if knows else "''")
    row = connection.execute(sql.SQL(_SLOT).format(now=sql.SQL(_NOW), invalidation=invalidation), [slot]).fetchone()
    if row is None:
        return SlotState(False)
    pid, confirmed, restart, retained, status, reason = row
    return SlotState(True, pid, confirmed, restart, retained, status or "", reason)


def find_slots(connection: Connection) -> list[FoundSlot]:
    """The slots of Reshelve's runs on this server, of all its databases."""
    rows = connection.execute(sql.SQL(_SLOTS).format(now=sql.SQL(_NOW)), [SLOT_PREFIX]).fetchall()
    return [FoundSlot(*row) for row in rows]


def find_publications(connection: Connection) -> list[str]:
    """The publications of Reshelve's runs in this database."""
    rows = connection.execute(
        "select pubname::text from pg_publication where starts_with(pubname::text, %s) order by 1", [SLOT_PREFIX]
    )
    return [name for (name,) in rows.fetchall()]


def _create(connection: Connection, slot: str, failover: bool, waiting: Waiting) -> int:
    """The statement in a thread of its own, since the server may take hours over it. Its transaction has no id, so
    that an end of the waiting leaves nothing behind: the server drops a slot that it has not finished."""
    arguments = ["temporary"]
    if connection.info.server_version >= _TWO_PHASE_VERSION:
        arguments.append("twophase")
    call = "select (lsn - '0/0'::pg_lsn)::bigint from pg_create_logical_replication_slot(%s, 'pgoutput'"
    call += "".join(f", {name} := false" for name in arguments) + (", failover := true)" if failover else ")")
    made: list[int] = []
    failed: list[psycopg.Error] = []

    def execute() -> None:
        try:
            with connection.transaction():  # the wait is one for locks
                connection.execute("set local lock_timeout = 0; set local statement_timeout = 0")
                row = connection.execute(call, [slot]).fetchone()
            assert row is not None
            made.append(row[0])
        except psycopg.Error as error:
            failed.append(error)

    thread = threading.Thread(target=execute, name="create slot", daemon=True)
    with _beside(connection) as observer:
        row = observer.execute("select pg_snapshot_xmax(pg_current_snapshot())::text::bigint").fetchone()
        assert row is not None
        thread.start()
        try:
            while not _ended(thread):
                found = old_transactions(observer, row[0], waiter=connection.info.backend_pid)
                if found:
                    names = name_transactions(found)
                    waiting(f"the replication slot can't be made before older transactions end: {names}")
        except BaseException:
            with suppress(psycopg.Error):
                connection.cancel_safe(timeout=5)
            thread.join(_DROP_S)
            if made:
                with suppress(ReshelveError, psycopg.Error):
                    drop_slot(connection, slot)
            raise
    if failed:
        raise failed[0]
    return made[0]


def _ended(thread: threading.Thread) -> bool:
    thread.join(_TOLD_AFTER_S)
    return not thread.is_alive()


def _beside(connection: Connection) -> Connection:
    """Another session of the same kind."""
    info = connection.info
    conninfo = make_conninfo(info.dsn, password=info.password or None)
    return psycopg.connect(conninfo, autocommit=True, application_name="reshelve slot")


def take_xid(connection: Connection) -> int:
    """A new transaction id, 64-bit. Raises psycopg.Error."""
    with connection.transaction():
        connection.execute("set transaction read write")
        row = connection.execute("select pg_current_xact_id()::text::bigint").fetchone()
    assert row is not None
    return int(row[0])


def _ours(name: str) -> str:
    if not name.startswith(SLOT_PREFIX):
        raise ValueError(f"{name!r} does not belong to a run")
    return name


def _where(connection: Connection) -> str:
    info = connection.info
    return f"{info.host}:{info.port}/{info.dbname}"


def _refusal(connection: Connection, what: str, error: psycopg.Error) -> ReshelveError | None:
    """The error that a refusal of the server is; None when it is another, such as a lost connection."""
    where = _where(connection)
    words = [error.diag.message_primary or str(error), error.diag.message_detail or ""]
    why = " ".join(" ".join(words).split())
    role = connection.info.user
    match error:
        case errors.InsufficientPrivilege():
            remedy = f"as a superuser: alter role {role} replication; and let {role}, or another role by"
            remedy += " `changes: {replication: {publication: …}}`, own what is published (deploy/grants/postgres.sql)"
            return AccessRefused(what, where=where, why=why, remedy=remedy)
        case errors.ConfigurationLimitExceeded():
            remedy = "drop slots that nobody needs (`reshelve runs` lists ours), or raise max_replication_slots"
            return SourceRefused(what, where=where, why=why, remedy=remedy)
        case errors.ObjectNotInPrerequisiteState():
            remedy = "set wal_level = logical on the primary and restart it, or see `changes: none` in docs/spec.md"
            return SourceRefused(what, where=where, why=why, remedy=remedy)
        case errors.LockNotAvailable():
            remedy = "wait until the VACUUM, CREATE INDEX or ALTER TABLE that holds the table has ended, then run again"
            return BlockedError(what, where=where, why=why, remedy=remedy)
        case errors.UndefinedTable() | errors.InvalidParameterValue() | errors.UndefinedObject():
            return SourceRefused(what, where=where, why=why, remedy="make a new plan: `reshelve run --new`")
    return None
