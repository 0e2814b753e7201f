"""A change tailer at work on tables that a test has made, in a thread, with what it wrote."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import psycopg
from sources import MAX_DOCUMENT_BYTES, describe

from reshelve.errors import ReshelveError
from reshelve.kafka import KafkaCluster
from reshelve.model import ChangePlan, ChangeRule, KeyTask, RunId, SourceFacts, Watermark
from reshelve.producers.changes import ChangeSource
from reshelve.producers.query import SourceQuery
from reshelve.producers.slot import (
    CreatedSlot,
    SlotState,
    create_publication,
    create_slot,
    drop_publication,
    drop_slot,
    slot_state,
)
from reshelve.producers.slot_source import SlotSource
from reshelve.producers.snapshot import Snapshot, SnapshotReader
from reshelve.producers.source import open_session
from reshelve.producers.tailer import Tailer
from reshelve.producers.visibility import SnapshotIds
from reshelve.reporter import Reporter
from reshelve.schemas.codec import WATERMARK, decode_key_task, decode_watermark

PARTITIONS = 2
PATIENCE_S = 60.0


class RememberingReader(SnapshotReader):
    """Remembers what each of its snapshots saw."""

    seen: dict[int, SnapshotIds]

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        with super().snapshot() as snapshot:
            self.seen[snapshot.version] = snapshot.ids
            yield snapshot


@dataclass
class Tailed:
    """A source whose changes are followed: slot, publication and topics of the test's own."""

    url: str
    cluster: KafkaCluster
    run: RunId
    query: str
    facts: SourceFacts
    plan: ChangePlan
    slot: CreatedSlot
    seen: dict[int, SnapshotIds] = field(default_factory=dict)

    def source(self, max_wal_retained: int = 10**12) -> SlotSource:
        return SlotSource(
            self.url,
            self.plan,
            self.facts,
            created_lsn=self.slot.confirmed_lsn,
            created_xid=self.slot.xid,
            max_wal_retained=max_wal_retained,
            name="test tailer",
        )

    @contextmanager
    def tailer(self, source: ChangeSource | None = None) -> Iterator[Working]:
        """A tailer at work within the block."""
        working = Working(self, source or self.source())
        working.thread.start()
        try:
            yield working
        finally:
            working.end()

    def execute(self, *statements: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def slot_state(self) -> SlotState:
        with psycopg.connect(self.url, autocommit=True) as connection:
            return slot_state(connection, self.plan.slot)

    def insert_lsn(self) -> int:
        with psycopg.connect(self.url, autocommit=True) as connection:
            row = connection.execute("select (pg_current_wal_insert_lsn() - '0/0')::bigint").fetchone()
            assert row is not None
            return int(row[0])

    def records(self) -> list[list[tuple[str, KeyTask | Watermark]]]:
        """Of each partition of `changes`, in order: key and task, or a watermark."""
        found: list[list[tuple[str, KeyTask | Watermark]]] = [[] for _ in range(PARTITIONS)]
        for message in self.cluster.read(self.run.topic("changes"), range(PARTITIONS)):
            key, value = (message.key() or b"").decode(), message.value() or b""
            decoded = decode_watermark(value) if value.startswith(WATERMARK.prefix) else decode_key_task(value)
            found[message.partition() or 0].append((key, decoded))
        return found

    def tasks(self) -> list[tuple[str, KeyTask]]:
        return [(key, task) for part in self.records() for key, task in part if isinstance(task, KeyTask)]

    def task_keys(self) -> list[str]:
        """Of all key tasks, sorted."""
        return sorted(key for key, _ in self.tasks())


class Working:
    """A tailer in a thread."""

    def __init__(self, tailed: Tailed, source: ChangeSource) -> None:
        self._tailed, self._stop = tailed, threading.Event()
        self.error: BaseException | None = None
        self.reporter = Reporter(tailed.cluster, tailed.run, "tailer", "test", stop=self._stop)
        query = SourceQuery(tailed.query, None, tailed.facts.key)
        reader = RememberingReader(
            tailed.url, query, tailed.facts, epoch=0, max_document_bytes=MAX_DOCUMENT_BYTES, name="test tailer"
        )
        reader.seen = tailed.seen
        self._tailer = Tailer(
            tailed.cluster,
            tailed.run,
            reader,
            source,
            rules=tailed.plan.rules,
            key=tailed.facts.key,
            partitions=PARTITIONS,
            reporter=self.reporter,
        )
        self.thread = threading.Thread(target=self._work, daemon=True)

    def _work(self) -> None:
        try:
            self._tailer.work()
        except BaseException as error:  # noqa: BLE001 - the test asks for it
            self.error = error

    def catch_up(self) -> None:
        """Wait until the slot is confirmed past all that is committed now: everything is written then."""
        lsn = self._tailed.insert_lsn()
        self.await_that(lambda: (self._tailed.slot_state().confirmed_lsn or 0) >= lsn)

    def await_that(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            if self.error is not None:
                raise self.error
            assert self.thread.is_alive(), "the tailer has ended"
            assert time.monotonic() < deadline, f"not within {PATIENCE_S} s"
            time.sleep(0.05)

    def refusal(self) -> ReshelveError:
        """The error that stops it."""
        self.thread.join(PATIENCE_S)
        assert isinstance(self.error, ReshelveError), repr(self.error)
        return self.error

    def end(self) -> None:
        self._stop.set()
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()
        self.reporter.close()


Rules = Callable[[SourceFacts], Sequence[ChangeRule]]


def key_rule(table: str = "docs", **columns: str) -> Rules:
    """A rule whose columns, given with their types, are the key."""

    def rules(facts: SourceFacts) -> Sequence[ChangeRule]:
        oids = {found.name: found.oid for found in facts.tables}
        return [ChangeRule("public", table, oids[table], tuple(columns), tuple(columns.values()))]

    return rules


ID_RULE: Final = key_rule(id="bigint")


@contextmanager
def tailed(
    url: str,
    cluster: KafkaCluster,
    namespace: str,
    query: str = "select * from public.docs",
    key: Sequence[str] = ("id",),
    rules: Rules = ID_RULE,
) -> Iterator[Tailed]:
    """Slot, publication and topics, dropped afterwards."""
    run = RunId(namespace, "r1")
    facts = describe(url, query, key)
    changes = ChangePlan("replication", run.slot, run.slot, True, tuple(rules(facts)))
    for topic in ("changes", "progress"):
        cluster.create_topic(run.topic(topic), PARTITIONS, {}, None)
    connection, _ = open_session(url, "test")
    with connection:
        create_publication(connection, changes)
        slot = create_slot(connection, changes, print)
    try:
        yield Tailed(url, cluster, run, query, facts, changes, slot)
    finally:
        connection, _ = open_session(url, "test")
        with connection:
            drop_slot(connection, changes.slot)
            drop_publication(connection, changes.publication)
