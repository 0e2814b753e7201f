"""Live changes as a run's driver sees them: begun before the first page, settled after the last, ended in the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from reshelve.consumers import generation
from reshelve.context import RunContext
from reshelve.producers.settling import settle
from reshelve.producers.slot import (
    Connection,
    await_old_transactions,
    create_publication,
    create_slot,
    drop_publication,
    drop_slot,
    take_xid,
)
from reshelve.producers.source import source_session
from reshelve.state import RunState

Record = Callable[[str, dict[str, Any]], None]
Say = Callable[[str], None]


class LiveChanges:
    """The changes of one run. Every step finds what is done already, by the journal.

    `say` is told what is waited for, and ends the waiting by raising. Methods raise ReshelveError."""

    def __init__(self, context: RunContext, state: RunState, record: Record, say: Say) -> None:
        self._context, self._state, self._record, self._say = context, state, record, say
        self._plan, self._url = context.plan.changes, context.spec.source.postgres.url

    def begin(self) -> None:
        """Make publication and slot, or note where the connector's topics end; then wait until a page can't miss what
        the log does not tell (`visibility.may_read`). To be called before the first page is read."""
        with source_session(self._url, "reshelve run") as connection:
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
        return self.settled

    @property
    def settled(self) -> dict[int, int]:
        """What `settle` returned."""
        return {int(p): offset for p, offset in self._state.facts["settled"]["ends"].items()}

    def version_now(self) -> int:
        """As of `RunContext.version_now`."""
        return self._context.version_now("reshelve run")

    def end(self) -> None:
        """Drop slot and publication. The index, where there is one, gets the settings that following had kept from
        it."""
        self.drop()
        if self._state.index_uuid:
            generation.release(self._context.opensearch, self._context.plan.index, self._context.plan.definition)

    def drop(self) -> None:
        """Drop slot and publication: from then on the source keeps no WAL for the run."""
        if self._plan.mode == "replication" and "slot_dropped" not in self._state.facts:
            with source_session(self._url, "reshelve run") as connection:
                drop_slot(connection, self._plan.slot)
                if self._plan.owns_publication:
                    drop_publication(connection, self._plan.publication)
            self._record("slot_dropped", {"slot": self._plan.slot})


def _texts(offsets: dict[int, int]) -> dict[str, int]:
    return {str(partition): offset for partition, offset in sorted(offsets.items())}
