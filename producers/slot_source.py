"""Changes from a slot of the run's own: opened, guarded, and given up before the source's disk is full."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import psycopg

from reshelve.errors import BlockedError
from reshelve.model import ChangePlan, SourceFacts
from reshelve.producers.changes import history_broken
from reshelve.producers.publication import PublicationGuard
from reshelve.producers.replication import ReplicationFeed, open_feed
from reshelve.producers.slot import SlotState, drop_slot, slot_state
from reshelve.producers.source import open_session, server_of
from reshelve.producers.watermarks import format_lsn

_LOOK_S: Final = 1.0
_SHRINK_S: Final = 10.0  # within which a backlog that is over the limit has to become smaller


class SlotSource:
    """A `ChangeSource`.

    created_lsn       where the slot began; `created_xid` was taken after it
    max_wal_retained  bytes that the server may keep for the slot; past it, unless it becomes less from one ten seconds
                      to the next, the slot is dropped and the run is Blocked
    """

    def __init__(
        self,
        url: str,
        plan: ChangePlan,
        facts: SourceFacts,
        *,
        created_lsn: int,
        created_xid: int,
        max_wal_retained: int,
        name: str,
    ) -> None:
        self._url, self._plan, self._facts, self._name = url, plan, facts, name
        self._created_lsn, self._max_wal_retained = created_lsn, max_wal_retained
        self._where = f"{server_of(url)}, slot {plan.slot}"
        self._publication = PublicationGuard(plan, created_xid, self._where)
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._feed: ReplicationFeed | None = None
        self._looked_at = 0.0
        self._over: tuple[float, int] | None = None

    def open(self, connection: psycopg.Connection[Any], xmax: int, durable: Callable[[], int]) -> ReplicationFeed:
        rules = self._publication.open(connection, xmax)
        # First the stream: from then on nobody else can move the slot, or write watermarks.
        feed = open_feed(self._url, self._plan, self._facts, rules, name=self._name)
        try:
            self._check_place(self._state(), durable())
        except BaseException:
            feed.close()
            raise
        self._feed = feed
        return feed

    def check(self, connection: psycopg.Connection[Any]) -> None:
        self._publication.check(connection)

    def upkeep(self, gauge: Callable[[str, int], None]) -> None:
        """Raises BlockedError when the server keeps too much for the slot, SourceRefused when it keeps it no more."""
        now = time.monotonic()
        if now - self._looked_at < _LOOK_S:
            return
        self._looked_at = now
        state = self._state()
        if not state.exists or state.wal_status == "lost" or state.invalidation:
            raise self._lost(state)
        retained = state.retained_bytes or 0
        gauge("wal_retained", retained)
        if retained <= self._max_wal_retained:
            self._over = None
        elif self._over is None:
            self._over = now, retained
        elif now - self._over[0] > _SHRINK_S:
            if retained >= self._over[1]:
                self._give_up(retained)
            self._over = now, retained

    def close(self) -> None:
        self._feed = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _state(self) -> SlotState:
        if self._connection is None or self._connection.closed:
            self._connection, _ = open_session(self._url, self._name)
        return slot_state(self._connection, self._plan.slot)

    def _check_place(self, state: SlotState, durable: int) -> None:
        """The server never had it confirmed further than a watermark says that is durable: who finds the slot
        beyond has lost what was between. And the log never ends before what was read of it, since only what is flushed
        is sent: a disk that was restored keeps the timeline."""
        if not state.exists or state.wal_status == "lost" or state.invalidation:
            raise self._lost(state)
        furthest = max(self._created_lsn, durable)
        if state.restart_lsn is not None and state.retained_bytes is not None:
            written = state.restart_lsn + state.retained_bytes
            if written < furthest:
                raise history_broken(
                    "the source was put back to an earlier state",
                    where=self._where,
                    why=f"its log ends at {format_lsn(written)}, and was read up to {format_lsn(furthest)}",
                )
        if (state.confirmed_lsn or 0) > furthest:
            raise history_broken(
                f"the replication slot {self._plan.slot} was moved or made anew",
                where=self._where,
                why=f"it is at {format_lsn(state.confirmed_lsn or 0)}, and the changes are known up to"
                f" {format_lsn(furthest)} only",
            )

    def _lost(self, state: SlotState) -> BlockedError:
        why = state.invalidation or (f"wal_status is {state.wal_status}" if state.exists else "somebody dropped it")
        return history_broken(f"the replication slot {self._plan.slot} is lost", where=self._where, why=why)

    def _give_up(self, retained: int) -> None:
        if self._feed is not None:
            self._feed.close()
        assert self._connection is not None
        drop_slot(self._connection, self._plan.slot)
        raise BlockedError(
            f"the replication slot {self._plan.slot} was dropped, so that the source's disk does not fill",
            where=self._where,
            why=f"the server kept {retained:,} bytes of WAL for it; limits.max_wal_retained allows"
            f" {self._max_wal_retained:,}",
            remedy="see what held it up (a transaction left open at the source, Kafka away), raise the limit if there"
            " is room; then start a new run with `reshelve run --new`: this one has lost changes",
        )
