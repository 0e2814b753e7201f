"""The changes that a Debezium connector has written to Kafka: no second slot on the source.

Why nothing is missed, and a watermark is exact: docs/decisions/0013-debezium.md. What this needs of the connector:
it confirms its slot (`flush.lsn.source`), and it leaves out neither a followed table nor an operation on its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import psycopg
from confluent_kafka import Consumer, KafkaException, TopicPartition

from reshelve.errors import BlockedError, SourceRefused
from reshelve.kafka import ADMIN_TIMEOUT_S, KafkaCluster
from reshelve.model import ChangePlan, ChangeRule, RunId
from reshelve.producers.changes import history_broken
from reshelve.producers.debezium_events import EventReader, RulesByName
from reshelve.producers.debezium_feed import ConnectorSlot, DebeziumFeed, partitions_of
from reshelve.producers.debezium_format import AvroFormat, EventFormat, JsonFormat
from reshelve.producers.debezium_passage import Place
from reshelve.producers.debezium_registry import SchemaRegistry
from reshelve.producers.identity import identity_gaps
from reshelve.producers.source import open_session, server_of
from reshelve.spec import Spec
from reshelve.spec.source import Debezium

_ROLE: Final = "tailer"
_FETCH: Final[Mapping[str, Any]] = {"enable.partition.eof": True, "queued.max.messages.kbytes": 16384}

_NAMES: Final = """
with recursive family as (
    select root, root as member from unnest(%s::oid[]) as root
    union
    select root, inhrelid from family join pg_inherits on inhparent = member
)
select root::bigint, nspname::text, relname::text
  from family join pg_class on pg_class.oid = member join pg_namespace on pg_namespace.oid = relnamespace
 order by 1, 2, 3
"""
_SLOT: Final = """
select (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint
  from pg_replication_slots where slot_name = %s and slot_type = 'logical' and database = current_database()
"""


def cluster_of(spec: Spec) -> KafkaCluster:
    """The brokers that hold the connector's topics."""
    debezium = _settings(spec)
    bootstrap = debezium.bootstrap or spec.kafka.bootstrap
    same = bootstrap == spec.kafka.bootstrap
    return KafkaCluster(bootstrap, debezium.config or (spec.kafka.config if same else {}))


def prepare(connection: psycopg.Connection[Any], run: RunId, spec: Spec) -> int:
    """Note where the run's reading of the topics begins: at their ends as they are now. What stands before them is of
    transactions that have committed, so that pages which see all transactions up to an id that is taken after this
    need none of it. To be done before that id is taken; what is noted already is left as it is.

    Returns the source's LSN. Raises ReshelveError, psycopg.Error."""
    cluster, group, debezium = cluster_of(spec), run.group(_ROLE), _settings(spec)
    slot = connection.execute(_SLOT, [debezium.slot]).fetchone()
    if slot is None:
        raise SourceRefused(
            f"the source has no replication slot {debezium.slot} of this database",
            where=server_of(spec.source.postgres.url),
            why="the connector has not begun, or its slot.name is another",
            remedy="start the connector, or correct changes.debezium.slot",
        )
    missing = []
    for topic in debezium.topics:
        partitions = partitions_of(cluster, topic)
        if not partitions:
            raise _no_topic(topic, cluster)
        ends, known = cluster.written_ends(topic, partitions), cluster.committed(group, topic, partitions)
        missing += [TopicPartition(topic, p, ends[p]) for p, offset in known.items() if offset is None]
    if missing:
        cluster.place_group(group, missing)
    return int(slot[0])


class DebeziumSource:
    """A `ChangeSource`: feeds from the connector's topics, one at a time, for which each holds a lock on the source.

    created_lsn  what `prepare` returned
    name         the application_name
    """

    def __init__(self, run: RunId, spec: Spec, plan: ChangePlan, *, created_lsn: int, name: str) -> None:
        self._run, self._spec, self._plan = run, spec, plan
        self._created_lsn, self._name = created_lsn, name
        self._cluster = cluster_of(spec)
        self._where = f"{self._cluster.bootstrap}, topics of slot {plan.slot}"
        self._names: list[tuple[int, str, str]] = []

    def open(self, connection: psycopg.Connection[Any], xmax: int, durable: Callable[[], int]) -> DebeziumFeed:
        """Raises SlotInUse, ReshelveError, psycopg.OperationalError, KafkaException."""
        self._names = self._read_names(connection)
        self.check(connection)
        rules = self._rules()
        slot = self._connector_slot(rules)
        consumer: Consumer | None = None
        try:
            consumer = self._cluster.consumer(self._run.group(_ROLE), _FETCH)
            positions = self._positions(consumer)
            consumer.assign([TopicPartition(topic, p, offset) for (topic, p), offset in positions.items()])
            reader = EventReader(rules, self._created_lsn, self._where)
            format_ = event_format(_settings(self._spec))
            return DebeziumFeed(consumer, self._cluster, positions, slot, reader, format_, self._where)
        except BaseException:
            slot.close()
            if consumer is not None:
                consumer.close()
            raise

    def check(self, connection: psycopg.Connection[Any]) -> None:
        if self._read_names(connection) != self._names:
            raise history_broken(
                "a followed table was renamed, or a partition of it was made, attached or detached",
                where=self._where,
                why="the connector's events name tables, and come under another name then",
            )
        for gap in identity_gaps(connection, self._plan.rules):
            raise SourceRefused(
                f"the changes of {gap.table} do not tell enough",
                where=self._where,
                why=gap.why,
                remedy=f"{gap.statement} Then start a new run with `reshelve run --new`",
            )

    def upkeep(self, gauge: Callable[[str, int], None]) -> None:
        """The slot is the connector's: its owners look after it."""

    def close(self) -> None:
        """Nothing is open between feeds."""

    def _read_names(self, connection: psycopg.Connection[Any]) -> list[tuple[int, str, str]]:
        return connection.execute(_NAMES, [sorted({rule.oid for rule in self._plan.rules})]).fetchall()

    def _rules(self) -> RulesByName:
        found: dict[tuple[str, str], list[tuple[int, ChangeRule]]] = {}
        for root, schema, name in self._names:
            of_root = [(number, rule) for number, rule in enumerate(self._plan.rules) if rule.oid == root]
            found.setdefault((schema, name), []).extend(of_root)
        return found

    def _connector_slot(self, rules: RulesByName) -> ConnectorSlot:
        wanted = message_topics(_settings(self._spec).topics, rules)
        nudged = bool(wanted) and all(partitions_of(self._cluster, topic) for topic in wanted)
        connection, _ = open_session(self._spec.source.postgres.url, self._name)
        slot = ConnectorSlot(connection, self._plan.slot, nudged=nudged)
        try:
            slot.claim(self._run)
        except BaseException:
            slot.close()
            raise
        return slot

    def _positions(self, consumer: Consumer) -> dict[Place, int]:
        """The committed offsets."""
        wanted = []
        for topic in _settings(self._spec).topics:
            partitions = partitions_of(self._cluster, topic)
            if not partitions:
                raise _no_topic(topic, self._cluster)
            wanted += [TopicPartition(topic, p) for p in range(partitions)]
        found = consumer.committed(wanted, ADMIN_TIMEOUT_S)
        for tp in found:
            if tp.error is not None:
                raise KafkaException(tp.error)
        lost = [f"{tp.topic}[{tp.partition}]" for tp in found if tp.offset < 0]
        if lost:
            raise history_broken(
                f"the offsets of group {self._run.group(_ROLE)} are lost",
                where=self._cluster.bootstrap,
                why=f"there is none for {', '.join(lost[:5])}; brokers forget them when no tailer has run for"
                " offsets.retention.minutes (by default 7 days), or partitions were added",
            )
        return {(tp.topic, tp.partition): tp.offset for tp in found}


def message_topics(topics: Iterable[str], tables: Iterable[tuple[str, str]]) -> set[str]:
    """Where a connector with these topics writes the log's logical messages: `<topic.prefix>.message`."""
    names = {f".{schema}.{table}" for schema, table in tables}
    return {f"{topic.removesuffix(name)}.message" for topic in topics for name in names if topic.endswith(name)}


def event_format(debezium: Debezium) -> EventFormat:
    if debezium.format == "json":
        return JsonFormat()
    assert debezium.registry is not None
    return AvroFormat(SchemaRegistry(debezium.registry).schema)


def _settings(spec: Spec) -> Debezium:
    assert spec.changes.debezium is not None
    return spec.changes.debezium


def _no_topic(topic: str, cluster: KafkaCluster) -> BlockedError:
    return BlockedError(
        f"topic {topic} does not exist",
        where=cluster.bootstrap,
        why="the connector makes it with the table's first event, or writes to another",
        remedy="correct changes.debezium.topics, or make the topic",
    )
