"""The changes of a PostgreSQL replication slot, over the streaming protocol on psycopg's `pq` layer.

https://www.postgresql.org/docs/current/protocol-replication.html

The position that the server names in a keepalive is how far it has decoded the log: all that committed before is in
the stream before the keepalive (WalSndKeepalive in src/backend/replication/walsender.c). What we confirm is what the
tailer says is durable, and nothing else: the server forgets the log up to there.
"""

from __future__ import annotations

import select
import time
from collections.abc import Mapping, Sequence
from struct import Struct
from typing import Any, Final, TypeAlias

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import ExecStatus

from reshelve.errors import AccessRefused, BlockedError, SourceRefused
from reshelve.model import ChangePlan, ChangeRule, SourceFacts
from reshelve.producers.changes import Change, history_broken
from reshelve.producers.pgoutput import Decoder
from reshelve.producers.source import KEEPALIVE, SESSION, access_refusal, server_of

RulesByOid: TypeAlias = Mapping[int, Sequence[tuple[int, ChangeRule]]]
"""The plan's rules with their numbers, by the oid of every table whose rows they are for."""

_MOST_CHANGES: Final = 2_000
_STATUS_S: Final = 5.0  # well below wal_sender_timeout, by default 60 s
_ASK_S: Final = 0.05
_STATUS: Final = Struct(">cQQQq?")
_WAL_END: Final = Struct(">Q")
_DATA, _KEEPALIVE = b"wk"
_DATA_HEADER: Final = 25  # 'w', start and end of the WAL, time
_REPLY_WANTED: Final = 17  # its place in a keepalive


class SlotInUse(BlockedError):
    """Another tailer reads from the slot: this one may stand by."""


class ReplicationFeed:
    """A `ChangeFeed` on a slot of our own.

    Made by `open_feed`; its rows are those of the plan's publication."""

    def __init__(self, connection: psycopg.Connection[Any], decoder: Decoder, where: str) -> None:
        self._connection, self._decoder, self._where = connection, decoder, where
        self._pg = connection.pgconn
        self._poll = select.poll()
        self._poll.register(self._pg.socket, select.POLLIN)
        self._passed = self._confirmed = 0
        self._told_at = self._asked_at = 0.0

    @property
    def where(self) -> str:
        return self._where

    @property
    def passed(self) -> int:
        return max(self._passed, self._decoder.passed)

    @property
    def transactions(self) -> int:
        return self._decoder.transactions

    def poll(self, timeout: float) -> Sequence[Change]:
        deadline = time.monotonic() + timeout
        changes: list[Change] = []
        before = self.passed
        while True:
            self._take(changes)
            if changes or self.passed != before:
                break
            self._pg.consume_input()
            self._take(changes)  # before waiting: what TLS has decrypted already makes no socket readable
            wait = deadline - time.monotonic()
            if changes or self.passed != before or wait <= 0:
                break
            self._keep_in_touch()
            if self._poll.poll(min(wait, _STATUS_S) * 1000):
                self._pg.consume_input()
        self._keep_in_touch()
        return changes

    def ask(self, lsn: int) -> None:
        if self.passed < lsn and time.monotonic() - self._asked_at > _ASK_S:
            self._asked_at = time.monotonic()
            self._tell(reply=True)

    def confirm(self, lsn: int) -> None:
        self._confirmed = max(self._confirmed, lsn)
        self._tell()

    def keep_alive(self) -> None:
        self._keep_in_touch()

    def close(self) -> None:
        self._connection.close()

    def _take(self, changes: list[Change]) -> None:
        """What has arrived, message by message, up to a bound."""
        get, take = self._pg.get_copy_data, self._decoder.take
        while len(changes) < _MOST_CHANGES:
            size, view = get(1)
            if size == 0:
                return
            if size < 0:
                raise self._ended()
            data = bytes(view)
            if data[0] == _DATA:
                take(data, _DATA_HEADER, changes)
            elif data[0] == _KEEPALIVE:
                self._passed = max(self._passed, _WAL_END.unpack_from(data, 1)[0])
                if data[_REPLY_WANTED]:
                    self._tell()

    def _keep_in_touch(self) -> None:
        if time.monotonic() - self._told_at > _STATUS_S:
            self._tell()

    def _tell(self, *, reply: bool = False) -> None:
        """Standby status update: written, flushed and applied so far, and whether an answer is wanted."""
        self._told_at = time.monotonic()
        durable = self._confirmed
        self._pg.put_copy_data(_STATUS.pack(b"r", max(self.passed, durable), durable, durable, 0, reply))
        self._pg.flush()

    def _ended(self) -> Exception:
        """Why the stream ended."""
        result = self._pg.get_result()
        if result is not None and result.status == ExecStatus.FATAL_ERROR:
            return _refusal(errors.error_from_result(result), self._where)
        return psycopg.OperationalError("the server ended the replication")


def open_feed(url: str, plan: ChangePlan, facts: SourceFacts, rules: RulesByOid, *, name: str) -> ReplicationFeed:
    """Begin where the slot was confirmed last. `name` is the application_name.

    Raises SlotInUse, SourceRefused, AccessRefused, psycopg.OperationalError."""
    where = f"{server_of(url)}, slot {plan.slot}"
    try:
        connection = psycopg.connect(_conninfo(url), autocommit=True, application_name=name)
    except psycopg.OperationalError as error:
        raise access_refusal(error, url) or error from None
    try:
        _check_history(connection, facts, where)
        # Names of publications are a list of identifiers inside a string.
        publication = plan.publication.replace('"', '""').replace("'", "''")
        command = (
            f"START_REPLICATION SLOT {plan.slot} LOGICAL 0/0 (proto_version '1', publication_names '\"{publication}\"')"
        )
        result = connection.pgconn.exec_(command.encode())
        if result.status != ExecStatus.COPY_BOTH:
            raise _refusal(errors.error_from_result(result), where)
        return ReplicationFeed(connection, Decoder(rules, where), where)
    except BaseException:
        connection.close()
        raise


def _conninfo(url: str) -> str:
    """Values come as text in the same form as a reader's session writes them: so the same settings, which the
    server takes with the connection here, because a replication connection has no parameters for statements."""
    given = conninfo_to_dict(url).get("options") or ""
    # Not read-only: libpq would take the server for one that a URL with target_session_attrs=read-write passes over.
    session = {name: value for name, value in SESSION.items() if name != "default_transaction_read_only"}
    settings = " ".join(f"-c {name}={_escaped(value)}" for name, value in session.items())
    return make_conninfo(
        url, replication="database", client_encoding="utf8", connect_timeout=10, options=f"{given} {settings}".strip(),
        **KEEPALIVE,
    )  # fmt: skip


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace(" ", "\\ ")


def _check_history(connection: psycopg.Connection[Any], facts: SourceFacts, where: str) -> None:
    result = connection.pgconn.exec_(b"IDENTIFY_SYSTEM")
    if result.status != ExecStatus.TUPLES_OK:
        raise _refusal(errors.error_from_result(result), where)
    system, timeline = (result.get_value(0, column) or b"" for column in (0, 1))
    if (system.decode(), int(timeline)) != (facts.system_identifier, facts.timeline):
        raise history_broken(
            "the source is another history than the one planned",
            where=where,
            why=f"system {system.decode()}, timeline {int(timeline)}; planned: system {facts.system_identifier},"
            f" timeline {facts.timeline}. It was failed over or restored: transactions may be lost",
        )


def _refusal(error: psycopg.Error, where: str) -> Exception:
    """The error that stops the tailer, or itself when waiting may help."""
    why = " ".join((error.diag.message_primary or str(error)).split())
    match error:
        case errors.ObjectInUse():
            return SlotInUse("another tailer reads from the slot", where=where, why=why)
        case errors.UndefinedObject():
            return history_broken("the slot or the publication is gone", where=where, why=why)
        case errors.ObjectNotInPrerequisiteState():
            return history_broken("the server has given the slot up", where=where, why=why)
        case errors.InsufficientPrivilege():
            return AccessRefused("PostgreSQL refused the replication", where=where, why=why)
        case psycopg.OperationalError():
            return error
    return SourceRefused(
        "PostgreSQL can't decode the changes",
        where=where,
        why=why,
        remedy="see the server's log; then run again: it goes on from there",
    )
