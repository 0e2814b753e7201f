"""Reading a Debezium connector's topics, and knowing how far that is in the source's log."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import psycopg
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from reshelve.errors import SourceRefused
from reshelve.kafka import KafkaCluster
from reshelve.kafka_errors import poll_refusal
from reshelve.model import RunId
from reshelve.producers.changes import Change, history_broken
from reshelve.producers.debezium_events import EventReader
from reshelve.producers.debezium_format import EventFormat, FormatError
from reshelve.producers.debezium_passage import Passage, Place
from reshelve.producers.replication import SlotInUse
from reshelve.producers.slot import slot_state

_BATCH: Final = 2000
_OBSERVE_S: Final = 0.1
_NUDGE_S: Final = 1.0
_CLAIM: Final = "select pg_try_advisory_lock(hashtextextended(%s, 0))"
_NUDGE: Final = "begin read write; select pg_logical_emit_message(true, 'reshelve', ''); commit"


class ConnectorSlot:
    """The connector's replication slot, looked at on an ordinary connection in autocommit mode.

    nudged  whether the connector may be sent messages through the log

    Methods raise psycopg.Error."""

    def __init__(self, connection: psycopg.Connection[Any], name: str, *, nudged: bool) -> None:
        self._connection, self._name, self._nudged = connection, name, nudged
        self._nudged_at = 0.0

    def claim(self, run: RunId) -> None:
        """Be the only tailer of the run, for as long as the connection lives. Raises SlotInUse."""
        row = self._connection.execute(_CLAIM, [run.slot]).fetchone()
        if row is None or not row[0]:
            raise SlotInUse("another tailer follows this run", why=f"it holds the advisory lock of {run.slot}")

    def confirmed(self) -> int:
        """The LSN up to which the connector's events are durable in Kafka. Raises SourceRefused."""
        slot = slot_state(self._connection, self._name)
        if not slot.exists or slot.confirmed_lsn is None or slot.wal_status == "lost":
            info = self._connection.info
            raise history_broken(
                f"the connector's replication slot {self._name} is {'lost' if slot.exists else 'gone'}",
                where=f"{info.host}:{info.port}/{info.dbname}",
                why=slot.invalidation or "somebody dropped it, or it kept more WAL than the server allows",
            )
        return slot.confirmed_lsn

    def nudge(self) -> None:
        """Have the connector go on though nothing happens to its tables, by a message in the log. Only where it has
        a topic for those: without one it would fail, or try for ever."""
        if self._nudged and time.monotonic() - self._nudged_at > _NUDGE_S:
            self._nudged_at = time.monotonic()
            self._connection.execute(_NUDGE)

    def close(self) -> None:
        self._connection.close()


class DebeziumFeed:
    """A `ChangeFeed` on the topics of a connector. Made by `DebeziumSource`.

    Its own place is the committed offsets of the run's group."""

    def __init__(
        self,
        consumer: Consumer,
        cluster: KafkaCluster,
        positions: Mapping[Place, int],
        slot: ConnectorSlot,
        reader: EventReader,
        format_: EventFormat,
        where: str,
    ) -> None:
        self._consumer, self._cluster, self._slot = consumer, cluster, slot
        self._reader, self._format, self._where = reader, format_, where
        self._partitions = Counter(topic for topic, _ in positions)
        self._passage = Passage(positions)
        self._observed_at = 0.0
        self._xid: int | None = None
        self._transactions = 0

    @property
    def where(self) -> str:
        return self._where

    @property
    def passed(self) -> int:
        return self._passage.passed

    @property
    def transactions(self) -> int:
        return self._transactions

    def poll(self, timeout: float) -> Sequence[Change]:
        self._observe()
        first = self._consumer.poll(timeout)
        if first is None:
            return ()
        changes: list[Change] = []
        for message in (first, *self._consumer.consume(_BATCH, 0)):
            self._take(message, changes)
        return changes

    def ask(self, lsn: int) -> None:
        if self.passed < lsn:
            self._slot.nudge()

    def confirm(self, lsn: int) -> None:
        durable = self._passage.confirm(lsn)
        if durable is not None:
            offsets = [TopicPartition(topic, p, offset) for (topic, p), offset in durable.items()]
            self._consumer.commit(offsets=offsets, asynchronous=False)

    def keep_alive(self) -> None:
        """Nothing ends for being silent: the partitions are ours without a group's say."""

    def close(self) -> None:
        self._consumer.close()
        self._slot.close()

    def _observe(self) -> None:
        now = time.monotonic()
        if now - self._observed_at < _OBSERVE_S:
            return
        self._observed_at = now
        confirmed = self._slot.confirmed()
        if self._passage.wants(confirmed):
            self._passage.saw(confirmed, self._ends())

    def _ends(self) -> dict[Place, int]:
        """Where the topics end now. Raises SourceRefused when one has other partitions than those that are read."""
        ends: dict[Place, int] = {}
        for topic, partitions in self._partitions.items():
            now = partitions_of(self._cluster, topic)
            if now != partitions:
                raise history_broken(
                    f"topic {topic} has {now} partitions and not {partitions} any more",
                    where=self._where,
                    why="it was made anew or got more of them, and not all of its events have been read",
                )
            # Written, and not yet stable, ends: a transaction of the connector's may not have been closed there yet.
            ends |= {(topic, p): end for p, end in self._cluster.written_ends(topic, partitions).items()}
        return ends

    def _take(self, message: Message, changes: list[Change]) -> None:
        topic, partition, offset = (cast(Any, get()) for get in (message.topic, message.partition, message.offset))
        error = message.error()
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF:
                self._passage.read((topic, partition), offset)
            elif refused := poll_refusal(error, "of the run's tailer", str(topic), self._where):
                raise refused
            return
        value = message.value()
        if value is not None:  # else a tombstone, which is for compaction
            self._decode(message.key(), value, f"{topic}[{partition}] at {offset}", changes)
        self._passage.read((topic, partition), offset + 1)

    def _decode(self, key: bytes | None, value: bytes, place: str, changes: list[Change]) -> None:
        try:
            event = self._format.event(key, value)
        except FormatError as error:
            raise SourceRefused(
                "a record of the connector's topics is not one of Debezium's change events",
                where=f"{self._where}, {place}",
                why=f"it {error}",
                remedy=f"{error.remedy}; then start a new run with `reshelve run --new`",
            ) from None
        if event is None:
            return
        if event.xid != self._xid:
            self._xid = event.xid
            self._transactions += 1
        changes += self._reader.changes(event)


def partitions_of(cluster: KafkaCluster, topic: str) -> int:
    """0: there is no such topic."""
    return cluster.topics(topic).get(topic, 0)
