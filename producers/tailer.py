"""The change tailer: follows the source's log and writes which keys are to be read again.

The order of things, enforced by `Tailer._advance`:

1. take a snapshot of the source (its clock W, its history checked in it), then the log's insert position L
2. write a key task for every change that comes through the feed, until the feed has passed L
3. look up what the changes of other tables up to there make dirty, in a snapshot that sees them; write those key tasks
4. wait until Kafka has acknowledged all of them
5. write the watermark of W, with the position passed, to every partition, and wait for the acknowledgement
6. confirm that position to the source: it may forget the log up to there

So the position that the source has confirmed is never ahead of the last durable watermark, and killed anywhere the
changes since then come again. To write a key task again does no harm.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

import psycopg
from confluent_kafka import KafkaException
from psycopg import errors

from reshelve.errors import Unreachable
from reshelve.kafka import FENCED, KafkaCluster, kafka_error, refusal
from reshelve.model import ChangeRule, KeyColumn, KeyTask, RunId, Watermark, join_key
from reshelve.producers.change_writer import ChangeWriter, newest_lsn
from reshelve.producers.changes import Change, ChangeFeed, ChangeSource
from reshelve.producers.lookups import Lookups
from reshelve.producers.replication import SlotInUse
from reshelve.producers.snapshot import SnapshotReader
from reshelve.producers.watermarks import Watermarks, parse_lsn
from reshelve.producers.xids import widen_xid
from reshelve.reporter import Backoff, Reporter
from reshelve.schemas.codec import encode_key_task

TICK_S: Final = 0.25
IDLE_TICK_S: Final = 1.0
_POLL_S: Final = 0.1
_LOOK_S: Final = 0.02
# A round of the loop costs as much as ten changes: so small transactions are taken several at a time.
_FEW: Final = 50
_GATHER_S: Final = 0.005
_STANDBY_S: Final = 2.0
_FLUSH_AFTER_S: Final = 0.3
_SAY_AFTER_S: Final = 2.0
_UPKEEP_KEYS: Final = 5_000
_NOT_VISIBLE: Final = "waiting for a transaction of the log to become visible at the source"


class _Stopped(Exception):
    """The worker was told to stop while it waited."""


class Tailer:
    """Follows the changes of one run until it is told to stop. Any number may be started: one reads from the slot, the
    others stand by."""

    def __init__(
        self,
        cluster: KafkaCluster,
        run: RunId,
        reader: SnapshotReader,
        source: ChangeSource,
        *,
        rules: Sequence[ChangeRule],
        key: Sequence[KeyColumn],
        partitions: int,
        reporter: Reporter,
    ) -> None:
        self._cluster, self._topic, self._partitions = cluster, run.topic("changes"), partitions
        self._reader, self._source, self._reporter = reader, source, reporter
        self._lookups, self._marks = Lookups(rules, key), Watermarks()
        self._backoff = Backoff()
        self._writer: ChangeWriter | None = None
        self._feed: ChangeFeed | None = None
        self._reference = self._version = 0
        self._due: Watermark | None = None  # written once its lookups are done
        self._flush = Backoff(_FLUSH_AFTER_S)
        self._tick_at = self._flush_at = self._waiting_since = 0.0

    def work(self) -> None:
        """Follow until stopped. Raises ReshelveError when it can't go on."""
        try:
            while not self._reporter.stop.is_set():
                self._follow_once()
        except _Stopped:
            pass
        finally:
            self._rest()
            if self._writer is not None:
                self._writer.abandon()

    def _follow_once(self) -> None:
        """Until something is away; then wait for it, with everything closed that another tailer could want."""
        try:
            self._follow()
        except SlotInUse as error:
            self._rest()
            self._reporter.pause(f"standing by: {error.why}", _STANDBY_S)
        except psycopg.OperationalError as error:
            self._rest()
            reason = " ".join(str(error).split())
            self._reporter.pause(f"PostgreSQL ({self._reader.where}): {reason}", self._backoff.next_s())
        except Unreachable as error:
            self._rest()
            self._reporter.pause(str(error), self._backoff.next_s())
        except KafkaException as error:
            self._rest()
            if self._writer is not None:
                self._writer.abandon()  # what it had not delivered comes again from the feed
                self._writer = None
            inner = kafka_error(error)
            refused = refusal(error, f"cannot write to {self._topic}", self._cluster.bootstrap)
            if not isinstance(refused, Unreachable) and inner.code() not in FENCED and not inner.fatal():
                raise refused from None
            self._reporter.pause(f"Kafka ({self._cluster.bootstrap}): {inner.str()}", self._backoff.next_s())

    def _follow(self) -> None:
        writer = self._writer or ChangeWriter(self._cluster, self._topic, self._partitions, self._waiting)
        self._writer = writer
        self._marks.withdraw()
        self._due = None  # what it speaks of may have been lost with the writer before
        with self._reader.snapshot() as snapshot:
            self._reference = snapshot.ids.xmax
            self._feed = feed = self._source.open(self._reader.session(), snapshot.ids.xmax, self._durable_lsn)
        self._reporter.waiting("")
        ended = feed.transactions
        while not self._reporter.stop.is_set():
            changes = feed.poll(min(_LOOK_S if self._lookups.sealed else _POLL_S, self._until_tick()))
            if changes:
                self._write(writer, changes)
                if len(changes) < _FEW:
                    time.sleep(_GATHER_S)
            if feed.transactions != ended:
                self._reporter.count("transactions", feed.transactions - ended)
                ended = feed.transactions
            writer.poll()
            self._advance(writer, feed, idle=not changes)
            if time.monotonic() >= self._tick_at:
                self._tick(writer)
                self._advance(writer, feed, idle=False)
            self._source.upkeep(self._reporter.gauge)
            self._reporter.send()

    def _until_tick(self) -> float:
        return max(0.0, self._tick_at - time.monotonic())

    def _durable_lsn(self) -> int:
        return newest_lsn(self._cluster, self._topic, self._partitions)

    def _write(self, writer: ChangeWriter, changes: Sequence[Change]) -> None:
        lookups, reference = self._lookups, self._reference
        written, value = 0, b""
        xid = at = -1
        for number, old, new, change_xid, change_at in changes:
            if change_xid != xid or change_at != at:
                xid, at = change_xid, change_at
                wide = widen_xid(xid, reference)
                value = encode_key_task(KeyTask(wide, at))
            for values in (old, new):
                if values is None:
                    continue
                if number in lookups:
                    lookups.add(number, values, wide)
                elif None not in values:  # NULL in the key: no document
                    written += writer.key(join_key(values), value)  # type: ignore[arg-type]
        self._reporter.count("changes", len(changes))
        self._reporter.count("key_tasks", written)
        while lookups.full:
            self._tick(writer)
            if lookups.full:
                self._waiting(_NOT_VISIBLE)
                time.sleep(_LOOK_S)

    def _tick(self, writer: ChangeWriter) -> None:
        """Take a snapshot with its checks, look up what is to be looked up in it, and offer it as a watermark."""
        started, at = time.monotonic(), int(time.time() * 1000)
        self._tick_at = started + TICK_S
        try:
            with self._reader.snapshot() as snapshot:
                connection = self._reader.session()
                self._reference = snapshot.ids.xmax
                self._source.check(connection)
                if not self._lookups.sealed:
                    self._lookups.seal()
                if self._lookups.sealed and self._lookups.visible(snapshot.ids):
                    self._look_up(writer, connection, at)
        except (errors.LockNotAvailable, errors.QueryCanceled) as error:
            self._reporter.waiting(f"PostgreSQL ({self._reader.where}): {' '.join(str(error).split())}")
            return
        if self._due is None and self._marks.awaited is None:
            self._marks.offer(snapshot.version, at, parse_lsn(snapshot.insert_lsn))
            self._flush = Backoff(_FLUSH_AFTER_S)
            self._flush_at = time.monotonic() + self._flush.next_s()
        if snapshot.version == self._version:
            self._tick_at = started + IDLE_TICK_S
        self._version = snapshot.version

    def _look_up(self, writer: ChangeWriter, connection: psycopg.Connection[Any], at: int) -> None:
        value = encode_key_task(KeyTask(0, at))  # read later than this snapshot, so that it sees what has changed
        written = 0
        for number, key in enumerate(self._lookups.run(connection, self._reader.where)):
            written += writer.key(key, value)
            if number % _UPKEEP_KEYS == 0:
                self._upkeep()
        self._reporter.count("key_tasks", written)

    def _advance(self, writer: ChangeWriter, feed: ChangeFeed, *, idle: bool) -> None:
        """Write the watermark that is due, if one is: what its transactions have to look up included, and not what has
        come since."""
        if self._due is None:
            awaited = self._marks.awaited
            if awaited is None:
                return
            self._due = self._marks.reached(feed.passed)
            if self._due is None:
                self._ask(feed, awaited, idle=idle)
                return
            self._lookups.seal()
        if self._lookups.sealed:
            self._tick(writer)
            if self._lookups.sealed:
                self._say_if_long(_NOT_VISIBLE)
                return
        writer.watermark(self._due)
        feed.confirm(self._due.lsn)
        self._due = None
        self._backoff.reset()
        self._waiting_since = 0.0
        self._reporter.waiting("")

    def _ask(self, feed: ChangeFeed, awaited: int, *, idle: bool) -> None:
        """Have the server say how far it is; and when nothing comes, have it flush the last of its log."""
        feed.ask(awaited)
        if idle and time.monotonic() > self._flush_at:
            self._reader.ask_for_flush()
            self._flush_at = time.monotonic() + self._flush.next_s()

    def _say_if_long(self, reason: str) -> None:
        now = time.monotonic()
        self._waiting_since = self._waiting_since or now
        if now - self._waiting_since > _SAY_AFTER_S:
            self._reporter.waiting(reason)

    def _waiting(self, reason: str) -> None:
        """While something else takes long. Raises _Stopped."""
        self._say_if_long(reason)
        if self._reporter.stop.is_set():
            raise _Stopped
        self._upkeep()

    def _upkeep(self) -> None:
        if self._feed is not None:
            self._feed.keep_alive()
        self._source.upkeep(self._reporter.gauge)

    def _rest(self) -> None:
        if self._feed is not None:
            self._feed.close()
            self._feed = None
        self._source.close()
        self._reader.close()
