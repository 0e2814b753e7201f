"""The slot and the publication of a run on a real server: made, waited for, looked at and dropped."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from reshelve.errors import AccessRefused, BlockedError, SourceRefused
from reshelve.model import ChangePlan, ChangeRule, RunId
from reshelve.producers.slot import (
    Connection,
    await_old_transactions,
    create_publication,
    create_slot,
    drop_publication,
    drop_slot,
    find_publications,
    find_slots,
    slot_state,
)
from reshelve.producers.source import open_session
from reshelve.producers.transactions import old_transactions

pytestmark = pytest.mark.services

SCHEMA = """
create table items (id bigint primary key, name text);
create table parts (id bigint, year int, primary key (id, year)) partition by range (year);
create table parts_1 partition of parts for values from (0) to (2000);
create table parts_2 partition of parts for values from (2000) to (3000);
"""


class Stop(Exception):
    """Raised by a test to end a wait."""


@pytest.fixture
def session(database: str) -> Iterator[Connection]:
    """A session as the run has it: of a reader, read-only by default."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(SCHEMA)
    connection, _ = open_session(database, "test")
    with connection:
        yield connection


@pytest.fixture
def plan(session: Connection) -> Iterator[ChangePlan]:
    run = RunId(f"t{secrets.token_hex(4)}", "20260102-030405-abcd")
    rules = tuple(
        ChangeRule("public", table, _oid(session, table), columns, types)
        for table, columns, types in (
            ("items", ("id",), ("bigint",)),
            ("parts", ("id", "year"), ("bigint", "integer")),
        )
    )
    yield ChangePlan("replication", run.slot, run.slot, True, rules)
    drop_slot(session, run.slot)
    drop_publication(session, run.slot)


def test_publication(session: Connection, plan: ChangePlan, database: str) -> None:
    create_publication(session, plan)
    before = _row(session, "select oid::bigint from pg_publication where pubname = %s", plan.publication)
    create_publication(session, plan)
    assert _row(session, "select oid::bigint from pg_publication where pubname = %s", plan.publication) == before
    tables = session.execute(
        "select schemaname || '.' || tablename from pg_publication_tables where pubname = %s order by 1",
        [plan.publication],
    ).fetchall()
    assert tables == [("public.items",), ("public.parts",)]
    assert find_publications(session) == [plan.publication]

    with psycopg.connect(database, autocommit=True) as owner:
        owner.execute(f"alter publication {plan.publication} set (publish = 'insert')")
    create_publication(session, plan)
    assert _row(session, "select pubdelete from pg_publication where pubname = %s", plan.publication) == (True,)

    drop_publication(session, plan.publication)
    drop_publication(session, plan.publication)
    assert find_publications(session) == []


def test_a_table_whose_updates_would_fail_is_not_published(
    session: Connection, plan: ChangePlan, database: str
) -> None:
    with psycopg.connect(database, autocommit=True) as owner:
        owner.execute("alter table items replica identity nothing")
    with pytest.raises(SourceRefused, match="replica identity using index items_pkey"):
        create_publication(session, plan)
    assert find_publications(session) == []


def test_a_table_that_is_locked_is_waited_for_a_moment(session: Connection, plan: ChangePlan, database: str) -> None:
    session.execute("set lock_timeout = '200ms'")
    with psycopg.connect(database) as other:
        other.execute("lock table items in share update exclusive mode")
        with pytest.raises(BlockedError, match="VACUUM"):
            create_publication(session, plan)


def test_slot(session: Connection, plan: ChangePlan) -> None:
    assert not slot_state(session, plan.slot).exists
    create_publication(session, plan)
    made = create_slot(session, plan, _nothing_to_wait_for)
    state = slot_state(session, plan.slot)
    assert state.exists
    assert state.confirmed_lsn == made.confirmed_lsn
    assert state.restart_lsn is not None
    assert state.retained_bytes is not None
    assert state.retained_bytes >= 0
    assert (state.active_pid, state.wal_status, state.invalidation) == (None, "reserved", "")
    assert _row(session, "select failover, two_phase from pg_replication_slots where slot_name = %s", plan.slot) == (
        True,
        False,
    )
    found = {slot.name: slot for slot in find_slots(session)}
    assert found[plan.slot].database == session.info.dbname
    assert not found[plan.slot].active

    again = create_slot(session, plan, _nothing_to_wait_for)
    assert again.confirmed_lsn >= made.confirmed_lsn
    assert again.xid > made.xid
    await_old_transactions(session, again.xid, _nothing_to_wait_for)

    drop_slot(session, plan.slot)
    drop_slot(session, plan.slot)
    assert not slot_state(session, plan.slot).exists


def test_a_slot_waits_for_older_transactions_by_name_and_can_be_interrupted(
    session: Connection, plan: ChangePlan, database: str
) -> None:
    create_publication(session, plan)
    with psycopg.connect(database, application_name="nightly job") as other:
        other.execute("insert into items values (1, 'secret words')")
        told: list[str] = []

        def stop(text: str) -> None:
            told.append(text)
            raise Stop

        with pytest.raises(Stop):
            create_slot(session, plan, stop)
        assert f"process {other.info.backend_pid}" in told[0]
        assert "nightly job" in told[0]
        assert "open for" in told[0]
        assert "secret words" not in told[0]
        assert not slot_state(session, plan.slot).exists

        waited: list[str] = []

        def end_it(text: str) -> None:
            waited.append(text)
            if len(waited) > 1:
                other.rollback()

        session.execute("set lock_timeout = '500ms'")  # that of a reader; this wait has no end of its own
        made = create_slot(session, plan, end_it)
        assert waited
        assert made.confirmed_lsn == slot_state(session, plan.slot).confirmed_lsn


def test_pages_wait_for_transactions_older_than_the_slot(session: Connection, plan: ChangePlan, database: str) -> None:
    with psycopg.connect(database, application_name="late commit") as other:
        other.execute("insert into items values (3, 'x')")
        (xid,) = _row(other, "select pg_current_xact_id()::text::bigint")
        told: list[str] = []

        def commit(text: str) -> None:
            told.append(text)
            other.commit()

        await_old_transactions(session, xid, commit)
        assert f"process {other.info.backend_pid}" in told[0]
    (xmin,) = _row(session, "select pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
    assert xmin > xid


def test_dropping_a_slot_ends_who_is_left_reading_from_it(session: Connection, plan: ChangePlan, database: str) -> None:
    create_publication(session, plan)
    create_slot(session, plan, _nothing_to_wait_for)
    reader = psycopg.connect(database + "?replication=database", autocommit=True)
    started = threading.Event()

    def read() -> None:
        options = f"(proto_version '1', publication_names '{plan.publication}')"
        reader.pgconn.exec_(f"START_REPLICATION SLOT {plan.slot} LOGICAL 0/0 {options}".encode())
        started.set()

    threading.Thread(target=read, daemon=True).start()
    assert started.wait(20)
    assert slot_state(session, plan.slot).active_pid == reader.info.backend_pid
    drop_slot(session, plan.slot)
    assert not slot_state(session, plan.slot).exists
    reader.close()


def test_what_is_not_ours_is_not_dropped(session: Connection) -> None:
    with pytest.raises(ValueError, match="does not belong to a run"):
        drop_slot(session, "debezium")
    with pytest.raises(ValueError, match="does not belong to a run"):
        drop_publication(session, "theirs")


def test_a_role_without_the_privileges(session: Connection, plan: ChangePlan, database: str) -> None:
    role = f"r{secrets.token_hex(4)}"
    with psycopg.connect(database, autocommit=True) as owner:
        owner.execute(f"create role {role} login password 'r0le-password'; grant select on items, parts to {role}")
        parts = urlsplit(database)
        url = urlunsplit(parts._replace(netloc=f"{role}:r0le-password@{parts.hostname}:{parts.port}"))
        connection, _ = open_session(url, "test")
        try:
            with connection:
                with pytest.raises(AccessRefused) as refused:
                    create_publication(connection, plan)
                assert "permission denied for database" in refused.value.why
                with pytest.raises(AccessRefused, match="REPLICATION"):
                    create_slot(connection, plan, _nothing_to_wait_for)
                with psycopg.connect(database) as other:
                    other.execute("insert into items values (9, 'x')")
                    (xid,) = _row(other, "select pg_current_xact_id()::text::bigint")
                    assert other.info.backend_pid in [found.pid for found in old_transactions(connection, xid)]
                    other.rollback()
        finally:
            owner.execute(f"drop owned by {role}; drop role {role}")


def _nothing_to_wait_for(text: str) -> None:
    """Others use the server, too: what is waited for is theirs."""


def _oid(connection: psycopg.Connection[Any], table: str) -> int:
    (oid,) = _row(connection, "select %s::regclass::oid::bigint", f"public.{table}")
    return int(oid)


def _row(connection: psycopg.Connection[Any], statement: str, *parameters: object) -> tuple[Any, ...]:
    row = connection.execute(statement, list(parameters)).fetchone()
    assert row is not None
    return tuple(row)
