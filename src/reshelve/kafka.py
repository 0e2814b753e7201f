"""Kafka clients, made in one place: what every client of a run has in common, and how a refusal reads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, TypeVar

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]
from confluent_kafka.cimpl import NewTopic

from reshelve.errors import AccessRefused, BlockedError, ReshelveError, Unreachable

T = TypeVar("T")

_ACCESS: Final = frozenset(
    {
        KafkaError._AUTHENTICATION,
        KafkaError._SSL,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    }
)
FENCED: Final = frozenset(
    {
        KafkaError._FATAL,  # what a client says once it has been fenced
        KafkaError._FENCED,
        KafkaError.PRODUCER_FENCED,
        KafkaError.INVALID_PRODUCER_EPOCH,
        KafkaError.FENCED_INSTANCE_ID,
    }
)
# What passes by itself: brokers that are away, starting, or handing over. A consumer's errors never say so
# themselves (`KafkaError.retriable()` is set by transactional producers only).
_TRANSIENT: Final = frozenset(
    {
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._TRANSPORT,
        KafkaError._TIMED_OUT,
        KafkaError._TIMED_OUT_QUEUE,
        KafkaError._MSG_TIMED_OUT,
        KafkaError._WAIT_COORD,
        KafkaError._WAIT_CACHE,
        KafkaError._RETRY,
        KafkaError._RESOLVE,
        KafkaError._NOENT,  # "No leaders found": the broker has not loaded its partitions yet
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.CONCURRENT_TRANSACTIONS,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.KAFKA_STORAGE_ERROR,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.NOT_COORDINATOR,
        KafkaError.NOT_ENOUGH_REPLICAS,
        KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.UNSTABLE_OFFSET_COMMIT,
    }
)
ADMIN_TIMEOUT_S: Final = 30.0
_RETRY_S: Final = 0.2


def is_transient(error: KafkaError) -> bool:
    """Whether waiting is enough."""
    return error.retriable() or error.code() in _TRANSIENT


def kafka_error(error: KafkaException | KafkaError) -> KafkaError:
    """The KafkaError inside an exception."""
    if isinstance(error, KafkaError):
        return error
    inner: KafkaError = error.args[0]
    return inner


def header_items(message: Message) -> list[tuple[str, bytes]]:
    """The record's headers that have a value, as bytes."""
    headers = message.headers() or []
    pairs = headers.items() if isinstance(headers, dict) else headers
    return [(name, v.encode() if isinstance(v, str) else v) for name, v in pairs if v is not None]


def _is_access(error: KafkaError) -> bool:
    """Whether the brokers refused who we are or how we speak; librdkafka has no code for a TLS handshake that
    a plain listener hangs up on."""
    return error.code() in _ACCESS or "SSL handshake failed" in error.str()


def refusal(error: KafkaException | KafkaError, what: str, where: str) -> ReshelveError:
    """The ReshelveError that a Kafka error means to an operator, in the broker's words."""
    inner = kafka_error(error)
    if _is_access(inner):
        return AccessRefused(
            what,
            where=where,
            why=inner.str(),
            remedy="correct the credentials, the TLS settings or the ACLs (kafka.config in the spec)",
        )
    if is_transient(inner):
        return Unreachable(
            what,
            where=where,
            why=inner.str(),
            remedy="see that the brokers run and kafka.bootstrap names them",
        )
    return BlockedError(what, where=where, why=f"{inner.name()}: {inner.str()}", remedy="see the broker's log")


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
    def admin(self) -> AdminClient:
        """The admin client, one until it fails: an answer awaited ends with its client."""
        return AdminClient(self._base())

    def ask(self, request: Callable[[AdminClient], T], timeout: float = ADMIN_TIMEOUT_S) -> T:
        """The answer to an idempotent request, asked again for `timeout` seconds while brokers start or hand over: on
        a fresh broker the topic of the groups is only just being made, after a restart it is loaded again.

        Each time with a new client: one stays with the leaders and coordinators that it has heard of, wrong ones
        too, for minutes. Raises the last KafkaException."""
        deadline = time.monotonic() + timeout
        while True:
            admin = self.admin
            try:
                return request(admin)
            except KafkaException as error:
                if not is_transient(kafka_error(error)):
                    raise
                if self.__dict__.get("admin") is admin:
                    del self.__dict__["admin"]
                if time.monotonic() + _RETRY_S > deadline:
                    raise
                time.sleep(_RETRY_S)

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
                refused = [e for e in errors if _is_access(e)]
                if refused:
                    raise refusal(refused[0], what, self.bootstrap) from None
                if time.monotonic() > deadline:
                    raise refusal(errors[0] if errors else error, what, self.bootstrap) from None

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
            known = self.admin.list_topics(topic=name, timeout=ADMIN_TIMEOUT_S).topics[name].partitions
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

    def start_group(self, group: str, topic: str, partitions: int) -> None:
        """Commit offset 0 for a group that has none yet, so that "no offset" afterwards always means "lost"."""
        known = self.committed(group, topic, partitions)
        missing = [TopicPartition(topic, p, 0) for p, offset in known.items() if offset is None]
        if missing:
            request = ConsumerGroupTopicPartitions(group, missing)
            try:
                self.ask(lambda admin: admin.alter_consumer_group_offsets([request])[group].result())
            except KafkaException as error:
                raise refusal(error, f"cannot set the offsets of group {group}", self.bootstrap) from None

    def committed(
        self, group: str, topic: str, partitions: int, *, timeout: float = ADMIN_TIMEOUT_S
    ) -> dict[int, int | None]:
        """The group's committed offset of every partition; None where there is none. Raises ReshelveError."""
        wanted = [TopicPartition(topic, p) for p in range(partitions)]
        request = ConsumerGroupTopicPartitions(group, wanted)

        def list_offsets(admin: AdminClient) -> list[TopicPartition]:
            answers = admin.list_consumer_group_offsets([request], request_timeout=timeout)
            return list(answers[group].result().topic_partitions)

        try:
            found = self.ask(list_offsets, timeout)
        except KafkaException as error:
            raise refusal(error, f"cannot read the offsets of group {group}", self.bootstrap) from None
        return {tp.partition: tp.offset if tp.offset >= 0 else None for tp in found}

    def stable_ends(self, topic: str, partitions: int, *, timeout: float = ADMIN_TIMEOUT_S) -> dict[int, int]:
        """The last stable offset of every partition: a reader of committed records ends there. Raises ReshelveError."""
        request = {TopicPartition(topic, p): OffsetSpec.latest() for p in range(partitions)}  # type: ignore[no-untyped-call]

        def list_offsets(admin: AdminClient) -> dict[int, int]:
            futures = admin.list_offsets(
                request, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=timeout
            )
            return {tp.partition: future.result().offset for tp, future in futures.items()}

        try:
            return self.ask(list_offsets, timeout)
        except KafkaException as error:
            raise refusal(error, f"cannot read the end of topic {topic}", self.bootstrap) from None

    def read(
        self, topic: str, partitions: Iterable[int], *, group: str = "reshelve.reader", idle: float = 60.0
    ) -> Iterator[Message]:
        """Every committed record of the partitions from their beginning to the last stable offset as it is now.

        Raises Unreachable when nothing comes for `idle` seconds before the end."""
        wanted = sorted(set(partitions))
        ends = self.stable_ends(topic, max(wanted) + 1) if wanted else {}
        open_ = {p for p in wanted if ends[p] > 0}
        if not open_:
            return
        consumer = self.consumer(group, {"enable.partition.eof": True, "auto.offset.reset": "earliest"})
        try:
            # 0 and not OFFSET_BEGINNING: librdkafka looks that one up first, and takes half a second for it.
            consumer.assign([TopicPartition(topic, p, 0) for p in sorted(open_)])
            last = time.monotonic()
            while open_:
                for message in consumer.consume(2000, 0.02):
                    last = time.monotonic()
                    error, partition, offset = message.error(), message.partition(), message.offset()
                    assert partition is not None and offset is not None
                    if error is None:
                        if offset < ends[partition]:
                            yield message
                    elif error.code() == KafkaError._PARTITION_EOF:
                        if offset >= ends[partition]:
                            open_.discard(partition)
                    elif not is_transient(error):
                        raise refusal(error, f"cannot read topic {topic}", self.bootstrap)
                    if offset + 1 >= ends[partition] and error is None:
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
