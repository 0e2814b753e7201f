"""Live changes as a run's driver sees them: begun before the first page, settled after the last, ended in the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from reshelve.consumers import generation
from reshelve.context import RunContext
from reshelve.errors import ReshelveError, Unreachable
from reshelve.producers.settling import settle
from reshelve.producers.slot import (
    Connection,
    SlotState,
    await_old_transactions,
    create_publication,
    create_slot,
    drop_publication,
    drop_slot,
    slot_state,
    take_xid,
)
from reshelve.producers.snapshot import access_refusal, open_session, server_of
from reshelve.state import RunState

Record = Callable[[str, dict[str, Any]], None]
Say = Callable[[str], None]


class LiveChanges:
    """The changes of one run. Every step finds what is done already, by the journal.

    `say` is told what is waited for, and ends the waiting by raising. Methods raise ReshelveError."""

    def __init__(self, context: RunContext, state: RunState, record: Record, say: Say) -> None:
        self._context, self._state, self._record, self._say = context, state, record, say
        self._plan = context.plan.changes

    def begin(self) -> None:
        """Make publication and slot, or note where the connector's topics end; then wait until a page can't miss what
        the log does not tell (`visibility.may_read`). To be called before the first page is read."""
        with self._source("reshelve run") as connection:
            if "slot" not in self._state.facts:
                self._record("slot", self._make_slot(connection))
            await_old_transactions(connection, int(self._state.facts["slot"]["xid"]), self._say)

    def _make_slot(self, connection: Connection) -> dict[str, Any]:
        if self._plan.mode == "debezium":
            from reshelve.producers.debezium import prepare

            lsn = prepare(connection, self._context.run, self._context.spec)
            return {"slot": self._plan.slot, "confirmed_lsn": lsn, "xid": take_xid(connection)}
        create_publication(connection, self._plan)
        made = create_slot(connection, self._plan, self._say)
        return {
            "slot": made.name,
            "publication": self._plan.publication,
            "confirmed_lsn": made.confirmed_lsn,
            "xid": made.xid,
        }

    def settle(self) -> dict[int, int]:
        """Have the keys that changed during the copy read again; the ends of `changes` behind their tasks."""
        if "settled" not in self._state.facts:
            context = self._context
            ends = context.cluster.written_ends(context.run.topic("changes"), context.partitions)
            number, behind = settle(context.cluster, context.run, ends, self._say)
            facts = {"keys": number, "copy_ends": _texts(ends), "ends": _texts(behind)}
            self._record("settled", facts)
        return {int(p): offset for p, offset in self._state.facts["settled"]["ends"].items()}

    def version_now(self) -> int:
        """Of a snapshot taken now. Every change that was committed before has a clock that is not above it."""
        context = self._context
        reader = context.snapshot_reader("reshelve run")
        try:
            with reader.snapshot() as snapshot:
                return snapshot.version
        except psycopg.Error as error:
            raise _lost(error, context.spec.source.postgres.url) from None
        finally:
            reader.close()

    def slot(self) -> SlotState | None:
        """The run's slot as it is now; None when it has none of its own."""
        if self._plan.mode != "replication":
            return None
        with self._source("reshelve run") as connection:
            return slot_state(connection, self._plan.slot)

    def end(self) -> None:
        """Drop slot and publication: from then on the source keeps no WAL for the run. The index, where there is one,
        gets the settings that following had kept from it."""
        if self._plan.mode == "replication" and "slot_dropped" not in self._state.facts:
            with self._source("reshelve run") as connection:
                drop_slot(connection, self._plan.slot)
                if self._plan.owns_publication:
                    drop_publication(connection, self._plan.publication)
            self._record("slot_dropped", {"slot": self._plan.slot})
        if self._state.index_uuid:
            generation.release(self._context.opensearch, self._context.plan.index, self._context.plan.definition)

    @contextmanager
    def _source(self, name: str) -> Iterator[Connection]:
        """A connection to the source. Raises ReshelveError, also for one that is lost."""
        url = self._context.spec.source.postgres.url
        try:
            connection, _ = open_session(url, name)
            with connection:
                yield connection
        except psycopg.Error as error:
            raise _lost(error, url) from None


def _lost(error: psycopg.Error, url: str) -> ReshelveError:
    refused = access_refusal(error, url)
    return refused or Unreachable(
        "PostgreSQL does not answer",
        where=server_of(url),
        why=" ".join(str(error).split()),
        remedy="see that it runs, then run again: it goes on where it was",
    )


def _texts(offsets: dict[int, int]) -> dict[str, int]:
    return {str(partition): offset for partition, offset in sorted(offsets.items())}
