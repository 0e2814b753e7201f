"""Kafka clients, made in one place: what every client of a run has in common, and how a refusal reads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, TypeVar

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from reshelve.admin import Admin
from reshelve.errors import BlockedError, Unreachable
from reshelve.kafka_errors import FENCED as FENCED
from reshelve.kafka_errors import is_access, patiently, require_all
from reshelve.kafka_errors import is_transient as is_transient
from reshelve.kafka_errors import kafka_error as kafka_error
from reshelve.kafka_errors import may_pass as may_pass
from reshelve.kafka_errors import refusal as refusal

T = TypeVar("T")

ADMIN_TIMEOUT_S: Final = 30.0
_READER: Final = "reshelve.reader"
ANSWER_TIMEOUT_S: Final = 10.0  # of one attempt: the next one may be made by a better client


def _attempt(left: float) -> float:
    return min(ANSWER_TIMEOUT_S, left)


def header_items(message: Message) -> list[tuple[str, bytes]]:
    """The record's headers that have a value, as bytes."""
    headers = message.headers() or []
    pairs = headers.items() if isinstance(headers, dict) else headers
    return [(name, v.encode() if isinstance(v, str) else v) for name, v in pairs if v is not None]


@dataclass(frozen=True, slots=True)
class CommittedPlace:
    """What a group has committed of a partition. offset None: nothing; metadata: of the committer's making."""

    offset: int | None
    metadata: str


@dataclass(frozen=True)
class KafkaCluster:
    """Where the brokers are and how to speak to them.

    bootstrap  host:port[,host:port…]
    config     passed to librdkafka as it is (TLS, SASL, …)
    """

    bootstrap: str
    config: Mapping[str, str] = field(default_factory=dict)

    def _base(self, on_error: Callable[[KafkaError], None] | None = None) -> dict[str, Any]:
        config: dict[str, Any] = {
            "bootstrap.servers": self.bootstrap,
            # librdkafka would print to stderr past us; what matters comes as errors, and is said in our words.
            "log_level": 2,
            "reconnect.backoff.max.ms": 2000,
            # A broker that answers "unknown topic" just after the topic was made is not an error yet.
            "topic.metadata.propagation.max.ms": 10000,
        }
        if on_error is not None:
            config["error_cb"] = on_error
        return config | dict(self.config)

    @cached_property
    def _admin(self) -> Admin:
        return Admin(self._base())

    @property
    def admin(self) -> AdminClient:
        """The admin client as it is now; `ask` is for what may be asked again."""
        return self._admin.client

    def ask(self, request: Callable[[AdminClient], T], timeout: float = ADMIN_TIMEOUT_S) -> T:
        """The answer to an idempotent request, asked again for `timeout` seconds while brokers start or hand over.

        Raises the last KafkaException."""
        return self._admin.ask(request, timeout)

    def producer(self, overrides: Mapping[str, Any] | None = None) -> Producer:
        """An idempotent producer; `overrides` are librdkafka settings of the caller's role."""
        return Producer(
            self._base()
            | {
                "enable.idempotence": True,
                "linger.ms": 5,
                "compression.type": "lz4",
                "partitioner": "consistent",
            }
            | dict(overrides or {})
        )

    def consumer(self, group: str, overrides: Mapping[str, Any] | None = None) -> Consumer:
        """A consumer that reads committed records only, commits when told to, and takes a missing
        offset as an error: silently starting elsewhere would skip or repeat work."""
        return Consumer(
            self._base()
            | {
                "group.id": group,
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "error",
                "isolation.level": "read_committed",
                "partition.assignment.strategy": "cooperative-sticky",
                "session.timeout.ms": 10000,
                "heartbeat.interval.ms": 2000,
                "fetch.wait.max.ms": 100,
                # How long a full queue stops the fetching. By default a second, which makes a small queue slow:
                # 2 MiB passed 6,000 documents a second instead of 55,000.
                "fetch.queue.backoff.ms": 5,
            }
            | dict(overrides or {})
        )

    def probe(self, timeout: float = 10.0) -> int:
        """The number of brokers. Raises AccessRefused or Unreachable in the broker's words."""
        errors: list[KafkaError] = []
        admin = AdminClient(self._base(errors.append) | {"socket.timeout.ms": int(timeout * 1000)})
        deadline = time.monotonic() + timeout
        what = "cannot speak to Kafka"
        while True:
            try:
                return len(admin.list_topics(timeout=1.0).brokers)
            except KafkaException as error:
                admin.poll(0)  # has the errors told
                refused = [e for e in errors if is_access(e)]
                if refused:
                    raise refusal(refused[0], what, self.bootstrap) from None
                if time.monotonic() > deadline:
                    raise refusal(errors[0] if errors else error, what, self.bootstrap) from None

    def cluster_id(self) -> str:
        """What the brokers call their cluster. Raises ReshelveError."""
        try:
            return self.ask(lambda admin: admin.cluster_id(ANSWER_TIMEOUT_S))
        except KafkaException as error:
            raise refusal(error, "cannot ask for the cluster's identifier", self.bootstrap) from None

    def create_topic(
        self, name: str, partitions: int, config: Mapping[str, str], replication_factor: int | None
    ) -> None:
        """Create a topic; one that exists already is left as it is. Raises ReshelveError."""
        topic = NewTopic(
            name,
            num_partitions=partitions,
            replication_factor=-1 if replication_factor is None else replication_factor,
            config=dict(config),
        )
        try:
            self.admin.create_topics([topic], operation_timeout=ADMIN_TIMEOUT_S)[name].result()
        except KafkaException as error:
            if kafka_error(error).code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise refusal(error, f"cannot create topic {name}", self.bootstrap) from None
        self._await_topic(name, partitions)

    def _await_topic(self, name: str, partitions: int) -> None:
        """Wait until every partition has a leader; without one the first produce would fail."""
        deadline = time.monotonic() + ADMIN_TIMEOUT_S
        while time.monotonic() < deadline:
            try:
                found = self.ask(lambda admin: admin.list_topics(topic=name, timeout=ADMIN_TIMEOUT_S))
            except KafkaException as error:
                raise refusal(error, f"cannot create topic {name}", self.bootstrap) from None
            known = found.topics[name].partitions
            if len(known) == partitions and all(p.leader >= 0 for p in known.values()):
                return
            if len(known) not in (0, partitions):
                raise BlockedError(
                    f"topic {name} exists with {len(known)} partitions, not {partitions}",
                    where=self.bootstrap,
                    remedy="set kafka.partitions to that number, or remove the topic",
                )
            time.sleep(0.05)
        raise BlockedError(f"topic {name} has no leader after {ADMIN_TIMEOUT_S:.0f} s", where=self.bootstrap)

    def topics(self, prefix: str, *, timeout: float = ADMIN_TIMEOUT_S) -> dict[str, int]:
        """The topics whose name starts with `prefix`, with their number of partitions. Raises ReshelveError."""
        try:
            known = self.ask(lambda admin: admin.list_topics(timeout=timeout), timeout).topics
        except KafkaException as error:
            raise refusal(error, "cannot list topics", self.bootstrap) from None
        return {name: len(topic.partitions) for name, topic in known.items() if name.startswith(prefix)}

    def delete_topics(self, names: Sequence[str]) -> None:
        """Delete topics; one that is gone already is no error. Raises ReshelveError."""
        if not names:
            return
        for name, future in self.admin.delete_topics(list(names), operation_timeout=ADMIN_TIMEOUT_S).items():
            try:
                future.result()
            except KafkaException as error:
                if kafka_error(error).code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise refusal(error, f"cannot delete topic {name}", self.bootstrap) from None

    def start_group(self, group: str, topic: str, partitions: int, starts: Mapping[int, int] | None = None) -> None:
        """Commit an offset for a group that has none yet, so that "no offset" afterwards always means "lost": 0, or
        that of `starts`."""
        known = self.committed(group, topic, partitions)
        missing = [
            TopicPartition(topic, p, starts[p] if starts else 0) for p, offset in known.items() if offset is None
        ]
        if missing:
            self.place_group(group, missing)

    def place_group(self, group: str, places: list[TopicPartition]) -> None:
        """Commit these offsets for a group that has no member. Raises ReshelveError."""
        request = ConsumerGroupTopicPartitions(group, places)

        def place(admin: AdminClient) -> None:
            require_all(admin.alter_consumer_group_offsets([request])[group].result().topic_partitions)

        try:
            self.ask(place)
        except KafkaException as error:
            raise refusal(error, f"cannot set the offsets of group {group}", self.bootstrap) from None

    def delete_group(self, group: str, timeout: float = ADMIN_TIMEOUT_S) -> None:
        """Forget the group's offsets; one that is gone already is no error. Raises ReshelveError."""
        try:
            self.ask(lambda admin: admin.delete_consumer_groups([group])[group].result(), timeout)
        except KafkaException as error:
            if kafka_error(error).code() != KafkaError.GROUP_ID_NOT_FOUND:
                raise refusal(error, f"cannot delete group {group}", self.bootstrap) from None

    def committed(
        self, group: str, topic: str, partitions: int, *, timeout: float = ADMIN_TIMEOUT_S
    ) -> dict[int, int | None]:
        """The group's committed offset of every partition; None where there is none. Raises ReshelveError."""
        return {p: at.offset for p, at in self.committed_places(group, topic, partitions, timeout=timeout).items()}

    def committed_places(
        self, group: str, topic: str, partitions: int, *, timeout: float = ADMIN_TIMEOUT_S
    ) -> dict[int, CommittedPlace]:
        """The same, each with the metadata that was committed with the offset. Raises ReshelveError."""
        wanted = [TopicPartition(topic, p) for p in range(partitions)]
        observer = self._observer(group)
        try:
            found = patiently(lambda left: require_all(observer.committed(wanted, _attempt(left))), timeout)
        except KafkaException as error:
            raise refusal(error, f"cannot read the offsets of group {group}", self.bootstrap) from None
        return {tp.partition: CommittedPlace(tp.offset if tp.offset >= 0 else None, tp.metadata or "") for tp in found}

    def stable_ends(self, topic: str, partitions: int, *, timeout: float = ADMIN_TIMEOUT_S) -> dict[int, int]:
        """The last stable offset of every partition: a reader of committed records ends there. Raises ReshelveError."""
        return self._look_up(topic, partitions, OFFSET_END, "read_committed", timeout)

    def written_ends(self, topic: str, partitions: int, *, timeout: float = ADMIN_TIMEOUT_S) -> dict[int, int]:
        """The end of every partition, records of transactions included whose end has not reached it yet: what is
        committed in one topic may for a moment be not yet stable in another. Raises ReshelveError."""
        return self._look_up(topic, partitions, OFFSET_END, "read_uncommitted", timeout)

    def begins(self, topic: str, partitions: int, *, timeout: float = ADMIN_TIMEOUT_S) -> dict[int, int]:
        """The first offset that each partition still has. Raises ReshelveError."""
        return self._look_up(topic, partitions, OFFSET_BEGINNING, "read_committed", timeout)

    def offsets_since(
        self, topic: str, partitions: int, at_ms: int, *, timeout: float = ADMIN_TIMEOUT_S
    ) -> dict[int, int]:
        """Of each partition the first offset whose record is of that time (milliseconds since 1970 UTC) or a later
        one; negative where there is none. Raises ReshelveError."""
        return self._look_up(topic, partitions, at_ms, "read_committed", timeout)

    def _look_up(self, topic: str, partitions: int, at: int, isolation: str, timeout: float) -> dict[int, int]:
        """`at` is a time, or one of librdkafka's marks for the beginning and the end."""
        wanted = [TopicPartition(topic, p, at) for p in range(partitions)]
        observer = self._observer(_READER, isolation)
        try:
            found = patiently(lambda left: require_all(observer.offsets_for_times(wanted, _attempt(left))), timeout)
        except KafkaException as error:
            raise refusal(error, f"cannot look up offsets of topic {topic}", self.bootstrap) from None
        return {tp.partition: tp.offset for tp in found}

    def _observer(self, group: str, isolation: str = "read_committed") -> Consumer:
        """A consumer that never joins its group. It, and not the admin client, is asked for offsets: during a
        broker's restart that one's answer may be -1001 for the end of a partition, or an abort of the process."""
        if (group, isolation) not in self._observers:
            self._observers[group, isolation] = self.consumer(group, {"isolation.level": isolation})
        return self._observers[group, isolation]

    @cached_property
    def _observers(self) -> dict[tuple[str, str], Consumer]:
        return {}

    def read(
        self,
        topic: str,
        partitions: Iterable[int],
        *,
        starts: Mapping[int, int] | None = None,
        ends: Mapping[int, int] | None = None,
        group: str = _READER,
        idle: float = 60.0,
    ) -> Iterator[Message]:
        """Every committed record of the partitions from `starts` (by default their beginning) up to but not
        including `ends` (by default the last stable offset as it is now).

        Raises Unreachable when nothing comes for `idle` seconds before the end."""
        wanted = sorted(set(partitions))
        if ends is None:
            ends = self.stable_ends(topic, max(wanted) + 1) if wanted else {}
        starts = {p: 0 if starts is None else starts[p] for p in wanted}
        open_ = {p for p in wanted if ends[p] > starts[p]}
        if not open_:
            return
        settings = {
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            # By default 100,000 records wait in memory, at some 500 bytes each besides their own.
            "queued.min.messages": 10000,
            "queued.max.messages.kbytes": 4096,
            "fetch.message.max.bytes": 512 * 1024,
        }
        consumer = self.consumer(group, settings)
        try:
            # 0 and not OFFSET_BEGINNING: librdkafka looks that one up first, and takes half a second for it.
            consumer.assign([TopicPartition(topic, p, starts[p]) for p in sorted(open_)])
            last = time.monotonic()
            while open_:
                for message in consumer.consume(2000, 0.02):
                    last = time.monotonic()
                    error, partition, offset = message.error(), message.partition(), message.offset()
                    if error is not None and error.code() != KafkaError._PARTITION_EOF:
                        if not may_pass(error):
                            raise refusal(error, f"cannot read topic {topic}", self.bootstrap)
                        continue
                    assert partition is not None and offset is not None
                    if error is None and offset < ends[partition]:
                        yield message
                    if offset + (error is None) >= ends[partition]:
                        open_.discard(partition)
                if time.monotonic() - last > idle:
                    raise Unreachable(
                        f"cannot read topic {topic}",
                        where=self.bootstrap,
                        why=f"no record for {idle:.0f} s, {len(open_)} partitions not at their end",
                        remedy="see that the brokers run and that no transaction is left open",
                    )
        finally:
            consumer.close()
