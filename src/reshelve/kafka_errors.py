"""What an error of Kafka's means: refused, fenced, passing by itself; and how it reads to an operator."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Final, TypeVar

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from reshelve.errors import AccessRefused, BlockedError, ReshelveError, Unreachable

T = TypeVar("T")
_GRACE_S: Final = 5.0
_RETRY_S: Final = 0.2
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
        -137,  # _DESTROY_BROKER, which older clients don't name: the broker was replaced while it was asked
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

_PERHAPS_GONE: Final = frozenset(
    {KafkaError._UNKNOWN_PARTITION, KafkaError._UNKNOWN_TOPIC, KafkaError.UNKNOWN_TOPIC_OR_PART}
)


def is_access(error: KafkaError) -> bool:
    """Whether the brokers refused who we are or how we speak; librdkafka has no code for a TLS handshake that
    a plain listener hangs up on."""
    return error.code() in _ACCESS or "SSL handshake failed" in error.str()


def is_transient(error: KafkaError) -> bool:
    """Whether waiting is enough."""
    return error.retriable() or error.code() in _TRANSIENT


def may_pass(error: KafkaError) -> bool:
    """Whether waiting may be enough: also a topic that is unknown to brokers which have just started. One that is gone
    stays so."""
    return is_transient(error) or error.code() in _PERHAPS_GONE


def kafka_error(error: KafkaException | KafkaError) -> KafkaError:
    """The KafkaError inside an exception."""
    if isinstance(error, KafkaError):
        return error
    inner: KafkaError = error.args[0]
    return inner


def refusal(error: KafkaException | KafkaError, what: str, where: str) -> ReshelveError:
    """The ReshelveError that a Kafka error means to an operator, in the broker's words."""
    inner = kafka_error(error)
    if is_access(inner):
        return AccessRefused(
            what,
            where=where,
            why=inner.str(),
            remedy="correct the credentials, the TLS settings or the ACLs (kafka.config in the spec)",
        )
    if may_pass(inner):  # whoever drives a run looks for its topics: what is gone for good is told there
        return Unreachable(
            what,
            where=where,
            why=inner.str(),
            remedy="see that the brokers run and kafka.bootstrap names them",
        )
    return BlockedError(what, where=where, why=f"{inner.name()}: {inner.str()}", remedy="see the broker's log")


def place_lost(error: KafkaError, group: str, topic: str, where: str) -> BlockedError:
    """What _AUTO_OFFSET_RESET means: the group has no offset any more, or the topic has none of its records there."""
    if "No offset stored" in error.str():
        return BlockedError(
            f"the offsets of group {group} are lost",
            where=where,
            why=f"{error.str()}; brokers forget them when no worker has run for offsets.retention.minutes"
            " (by default 7 days), or somebody deleted them",
            remedy="start a new run with --new: where this one was can't be told any more",
        )
    return BlockedError(
        f"records of {topic} are gone before they were read",
        where=where,
        why=error.str(),
        remedy="the topic's retention or somebody removed them: start a new run with --new",
    )


def poll_refusal(error: KafkaError, group: str, topic: str, where: str) -> ReshelveError | None:
    """What an error means that a consumer returned instead of a record; None: it may pass by itself."""
    if error.code() == KafkaError._AUTO_OFFSET_RESET:
        return place_lost(error, group, topic, where)
    if may_pass(error) or error.code() == KafkaError._MAX_POLL_EXCEEDED:  # the latter: it joins again
        return None
    return refusal(error, f"cannot read topic {topic}", where)


def patiently(attempt: Callable[[float], T], timeout: float, between: Callable[[], None] = lambda: None) -> T:
    """What `attempt` returns, made again for `timeout` seconds while brokers start or hand over.

    attempt  is given the seconds that are left to it
    between  called after an attempt that failed
    Raises the last KafkaException."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            return attempt(max(0.1, deadline - time.monotonic()))
        except KafkaException as error:
            if not may_pass(kafka_error(error)):
                raise
            between()
            if time.monotonic() + _RETRY_S > deadline:
                raise
            time.sleep(_RETRY_S)


def require_all(places: list[TopicPartition]) -> list[TopicPartition]:
    """The places of an answer, none of which has failed: partitions fail one by one, and raise nothing by themselves.

    Raises KafkaException."""
    for place in places:
        if place.error is not None:
            raise KafkaException(place.error)
    return places


def bounded(call: Callable[[], T], timeout: float) -> T:
    """What a transactional call returns, that has promised to take `timeout` seconds at most.

    When a broker restarts during such a call librdkafka may never come back from it. Then the thread is left behind
    in it, together with the client, which must not be used again. Raises KafkaException, also for that."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is waited for
            future.set_exception(error)

    threading.Thread(target=run, daemon=True, name="kafka call").start()
    try:
        return future.result(timeout + _GRACE_S)
    except FutureTimeout:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "the client does not come back from a call")) from None
