"""Reading the source at a snapshot clock, and refusing where the clock would not hold.

version = epoch << 48 | clock,  clock = pg_snapshot_xmax(s) - |pg_snapshot_xip(s)|,  s = pg_current_snapshot()

The clock counts the transactions completed at the snapshot, so snapshots of one primary are totally
ordered by it and equal clocks mean equal visible state (docs/decisions/0002-snapshot-clock.md).
That is true only under the conditions below; each is checked in the very transaction that reads:

- the server is a primary (a standby's list of running transactions is empty);
- the reading transaction has no transaction id of its own (it would count as running for others only);
- the tables are locked ACCESS SHARE *before* the snapshot is taken, and are the ones that were planned
  (TRUNCATE and rewriting ALTER TABLE make an older snapshot see an empty table);
- row-level security is off, the search_path is empty, and the session is our own (no pooler in between);
- the server's system identifier and timeline are those of the plan;
- what was read is published only when the WAL is flushed past the insert position of the snapshot
  (with synchronous_commit = off, a crash takes visible rows away again).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, cast

import psycopg
from psycopg import sql
from psycopg.types.string import ByteaBinaryLoader

from reshelve.errors import BlockedError, ReshelveError, SourceRefused
from reshelve.model import Bound, SourceFacts, make_version
from reshelve.producers.catalog import read_tables
from reshelve.producers.query import SourceQuery
from reshelve.producers.source import access_refusal, open_session, server_of
from reshelve.producers.visibility import SnapshotIds

_STAMP: Final = """
select pg_is_in_recovery(),
       s::text,
       case when not pg_is_in_recovery() then pg_current_wal_insert_lsn()::text end,
       case when not pg_is_in_recovery() then substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) end,
       (select system_identifier::text from pg_control_system()),
       current_setting('reshelve.session', true),
       current_setting('row_security'),
       current_setting('search_path')
  from (select pg_current_snapshot() as s) as snapshot
"""

_OWN_XID: Final = "select pg_current_xact_id_if_assigned()::text"
_FLUSHED: Final = "select pg_current_wal_flush_lsn() >= %s::pg_lsn"
# A transaction with an id whose commit record the server flushes within wal_writer_delay, by default 0.2 s. A logical
# message would be flushed at once, and would stop any Debezium connector of the database that has no topic for it.
_FLUSH: Final = "begin read write; select pg_current_xact_id(); commit"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Where in the source's history a transaction reads. `insert_lsn` is in text form, e.g. "0/16B3748"."""

    version: int
    insert_lsn: str
    ids: SnapshotIds


class SnapshotReader:
    """Reads pages and keys of one source, each in a transaction of its own, as the plan found it.

    Every method can raise psycopg.OperationalError (the server is gone: wait and read again),
    SourceRefused (the clock would not hold) and AccessRefused."""

    def __init__(
        self,
        url: str,
        query: SourceQuery,
        facts: SourceFacts,
        *,
        epoch: int,
        max_document_bytes: int,
        name: str,
    ) -> None:
        self._url, self._query, self._facts, self._epoch = url, query, facts, epoch
        self._max_bytes, self._name = max_document_bytes, name
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._token = ""
        tables = sql.SQL(", ").join(sql.Identifier(t.schema, t.name) for t in facts.tables)
        lock = sql.SQL("; lock table {} in access share mode").format(tables) if facts.tables else sql.SQL("")
        self._begin = sql.SQL("begin isolation level repeatable read read only") + lock

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @property
    def where(self) -> str:
        return server_of(self._url)

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """A read transaction whose conditions were checked; leaving it checks that it got no id of its own."""
        connection = self.session()
        try:
            try:
                connection.execute(self._begin)
                stamp = self._stamp(connection)
                yield stamp
                self._check_no_xid(connection)
            finally:
                if not connection.closed:
                    connection.execute("rollback")
        except psycopg.OperationalError:
            self.close()
            raise
        except psycopg.Error as error:
            raise self._refusal(error) from None

    def page(self, low: Bound, high: Bound, limit: int) -> Generator[tuple[bytes, bytes | None, int], None, None]:
        """(key, document, bytes) of the page, streamed; the document is None where it is over the limit.

        To be used inside `snapshot()`."""
        statement, parameters = self._query.page(low, high, limit, self._max_bytes)
        return self._stream(statement, parameters)

    def keys(self, keys: Sequence[tuple[str, ...]]) -> Generator[tuple[bytes, bytes | None, int], None, None]:
        """The same for the keys given. To be used inside `snapshot()`."""
        statement, parameters = self._query.keys(keys, self._max_bytes)
        return self._stream(statement, parameters)

    def present(self, keys: Sequence[tuple[str, ...]]) -> Generator[bytes, None, None]:
        """Of the keys given those that have a row, as document keys. To be used inside `snapshot()`."""
        statement, parameters = self._query.present(keys)
        for (key,) in self.session().cursor(binary=True).stream(statement, parameters, size=_CHUNK_ROWS):
            yield key

    def has_null_key(self) -> bool:
        """Whether a row in scope can't be found by key, because that is NULL. To be used inside `snapshot()`."""
        row = self.session().execute(self._query.null_key(), {}).fetchone()
        return row is not None and bool(row[0])

    def await_durable(self, snapshot: Snapshot, wait: Callable[[str], None]) -> None:
        """Return once everything the snapshot saw is flushed to the WAL's disk.

        Commits made with synchronous_commit = off are flushed by the server within three times
        wal_writer_delay; WAL without a commit may stay unflushed for ever on an idle server, so after a
        second a flush is asked for. `wait` is called with the reason while it takes long."""
        connection = self.session()
        started = time.monotonic()
        asked = False
        try:
            while True:
                row = connection.execute(_FLUSHED, [snapshot.insert_lsn]).fetchone()
                if row is not None and row[0]:
                    return
                if time.monotonic() - started > 1 and not asked:
                    asked = True
                    self.ask_for_flush()
                if time.monotonic() - started > 2:
                    wait(f"waiting for the source to flush its WAL past {snapshot.insert_lsn}")
                time.sleep(0.005)
        except psycopg.OperationalError:
            self.close()
            raise
        except psycopg.Error as error:
            raise self._refusal(error) from None

    def ask_for_flush(self) -> None:
        """Have the server write a record behind all others, and flush them with it: an idle one leaves the last
        few in memory. Not to be used inside `snapshot()`."""
        self.session().execute(_FLUSH)

    def session(self) -> psycopg.Connection[tuple[Any, ...]]:
        """The connection that `snapshot()` has its transactions on; opened where there is none."""
        if self._connection is None or self._connection.closed:
            self._connection, self._token = open_session(self._url, self._name)
            # The document passes through as bytes: decoding and encoding it again would only cost.
            self._connection.adapters.register_loader("text", ByteaBinaryLoader)
        return self._connection

    def _stream(
        self, statement: sql.Composed, parameters: dict[str, Any]
    ) -> Generator[tuple[bytes, bytes | None, int], None, None]:
        cursor = self.session().cursor(binary=True)
        yield from cast(
            Iterator[tuple[bytes, bytes | None, int]], cursor.stream(statement, parameters, size=_CHUNK_ROWS)
        )

    def _stamp(self, connection: psycopg.Connection[tuple[Any, ...]]) -> Snapshot:
        row = connection.execute(_STAMP).fetchone()
        assert row is not None
        in_recovery, snapshot, insert_lsn, timeline, system_identifier, token, row_security, search_path = row
        if in_recovery:
            raise self._refuse(
                "the source is a standby",
                "read from the primary: a standby can't tell which transactions run",
            )
        if token != self._token or row_security != "off" or search_path not in ("", '""'):
            raise self._refuse(
                "the session is not the one that was set up",
                "connect to the server itself, without a transaction pooler; the query must not change settings",
            )
        if system_identifier != self._facts.system_identifier or int(timeline, 16) != self._facts.timeline:
            raise self._refuse(
                f"the source is another history (system {system_identifier}, timeline {int(timeline, 16)})"
                f" than the one planned (system {self._facts.system_identifier}, timeline {self._facts.timeline})",
                "it was failed over or restored, and transactions may be lost: start a new run with"
                " `reshelve run --new`",
            )
        now = {table.oid: table for table in read_tables(connection, [t.oid for t in self._facts.tables])}
        for table in self._facts.tables:
            found = now.get(table.oid)
            if found is None or found.fingerprint != table.fingerprint:
                raise self._refuse(
                    f"table {table.schema}.{table.name} was truncated, rewritten or altered since the plan",
                    "start a new run with `reshelve run --new`: what was read so far belongs to a table that is gone",
                )
        ids = SnapshotIds.parse(snapshot)
        return Snapshot(make_version(self._epoch, ids.clock), insert_lsn, ids)

    def _check_no_xid(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        row = connection.execute(_OWN_XID).fetchone()
        if row is not None and row[0] is not None:
            raise self._refuse(
                "reading gave the transaction an id of its own",
                "take what writes out of the query (a volatile function?): the snapshot's clock would count it",
            )

    def _refuse(self, why: str, remedy: str) -> SourceRefused:
        return SourceRefused("the source can't be read at a snapshot clock", where=self.where, why=why, remedy=remedy)

    def _refusal(self, error: psycopg.Error) -> ReshelveError:
        access = access_refusal(error, self._url)
        if access is not None:
            return access
        if isinstance(error, psycopg.ProgrammingError):  # class 42, and a few of our own doing
            return SourceRefused(
                "PostgreSQL refused the query",
                where=self.where,
                why=_words(error),
                remedy="correct the query (`reshelve check` shows where)",
            )
        return BlockedError(
            "PostgreSQL failed on the query",
            where=self.where,
            why=_words(error),
            remedy="correct the query or the row that it fails on, then run again: it goes on from there",
        )


_CHUNK_ROWS: Final = 500


def _words(error: psycopg.Error) -> str:
    diag = error.diag
    return " ".join(
        filter(None, [error.sqlstate, diag.message_primary or str(error), diag.message_detail, diag.message_hint])
    )
