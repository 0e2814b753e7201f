"""One process drives a reindex at a time: the member of a consumer group that holds its only partition. A run that is
followed after it completed has a lease of its own, named after it: meanwhile a newer run may be built.

The group protocol gives what a lock needs: a heartbeat in the background, an owner whom everybody can
see, and an end when the process dies. It is not what keeps an index unmixed (a paused process could
overlook its end): that is the journal's fencing and the alias guarded in the cut-over.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from reshelve.errors import LeaseHeld, Unreachable
from reshelve.kafka import ADMIN_TIMEOUT_S, KafkaCluster, refusal
from reshelve.kafka_errors import is_access
from reshelve.model import JOURNAL_TOPIC

SESSION_MS: Final = 6_000
_DESCRIBE_S: Final = 5.0
_CONFIRM_S: Final = 2.0
_TAKE_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds a lease."""

    host: str
    pid: int

    @property
    def client_id(self) -> str:
        return f"{self.host}:{self.pid}"

    @classmethod
    def here(cls) -> Holder:
        return cls(socket.gethostname(), os.getpid())

    @classmethod
    def parse(cls, client_id: str) -> Holder | None:
        host, _, pid = client_id.rpartition(":")
        return cls(host, int(pid)) if host and pid.isdigit() else None

    def is_gone(self) -> bool:
        """Certainly dead: a process of this machine that no longer exists."""
        if self.host != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False


def lease_group(reindex: str) -> str:
    return f"reshelve.{reindex}.lease"


def read_holders(cluster: KafkaCluster, reindex: str, *, timeout: float = ADMIN_TIMEOUT_S) -> list[Holder]:
    """The processes that drive the reindex, or want to. Raises ReshelveError."""
    group = lease_group(reindex)

    def describe(admin: AdminClient) -> list[Any]:
        # The older of the client's two requests: the other one may abort the process while a broker restarts. Short,
        # because a request that a coordinator on its way has swallowed is asked again, within the timeout.
        found = admin.list_groups(group, timeout=min(timeout, _DESCRIBE_S))
        for one in found:
            if one.error is not None:
                raise KafkaException(one.error)
        return [member for one in found for member in one.members]

    try:
        members = cluster.ask(describe, timeout)
    except KafkaException as error:
        raise refusal(error, f"cannot see who drives {reindex}", cluster.bootstrap) from None
    return [holder for member in members if (holder := Holder.parse(member.client_id))]


def read_holder(cluster: KafkaCluster, reindex: str) -> Holder | None:
    """The process that drives the reindex now; None when none does. Raises ReshelveError."""
    holders = read_holders(cluster, reindex)
    return holders[0] if holders else None


class Lease:
    """The lease of one reindex. `take` it before anything is written, `poll` it while it is needed."""

    def __init__(self, cluster: KafkaCluster, reindex: str) -> None:
        self._cluster, self._reindex = cluster, reindex
        self._consumer: Consumer | None = None
        self._held = False
        self._confirmed_at = 0.0

    def take(self, report: Callable[[str], None]) -> None:
        """Raises LeaseHeld when another living process has it, AccessRefused, Unreachable.

        A holder on this machine that is dead is waited off: its session ends within `SESSION_MS`."""
        self._wait_for_the_dead(report)
        self._consumer = self._cluster.consumer(
            lease_group(self._reindex),
            {
                "client.id": Holder.here().client_id,
                "session.timeout.ms": SESSION_MS,
                "heartbeat.interval.ms": 1000,
                # Waiting for replicas may take long; a dead process is noticed by its session.
                "max.poll.interval.ms": 86_400_000,
                "auto.offset.reset": "latest",
                "fetch.wait.max.ms": 500,
            },
        )
        self._consumer.subscribe(
            [JOURNAL_TOPIC], on_assign=self._on_assign, on_revoke=self._on_gone, on_lost=self._on_gone
        )
        deadline = time.monotonic() + _TAKE_S
        while not self._held and time.monotonic() < deadline:
            message = self._consumer.poll(0.1)
            error = None if message is None else message.error()
            if error is not None and is_access(error):
                self.release()
                raise refusal(error, f"cannot take the lease of {self._reindex}", self._cluster.bootstrap)
        if not self._held:
            self.release()
            holder = read_holder(self._cluster, self._reindex)
            if holder is None:
                raise Unreachable(
                    f"cannot take the lease of {self._reindex}",
                    where=self._cluster.bootstrap,
                    why=f"the brokers gave it to nobody within {_TAKE_S:.0f} s",
                    remedy="see that the brokers run, then run again",
                )
            raise self._refused(holder)

    def poll(self) -> None:
        """Keep it; to be called every few seconds. Raises LeaseHeld when another process has it.

        When the brokers are away for longer than a session the membership ends, but nobody else can get it
        either: it is taken again when they are back."""
        if self._consumer is not None:
            self._consumer.poll(0)
        if not self._held and time.monotonic() - self._confirmed_at > _CONFIRM_S:
            self.confirm()

    def confirm(self) -> bool:
        """Ask the brokers whether the reindex is still ours to drive; False while they do not tell.

        Raises LeaseHeld when another process drives it, or is about to."""
        try:
            holders = read_holders(self._cluster, self._reindex, timeout=_CONFIRM_S)
        except Unreachable:
            return False
        finally:
            self._confirmed_at = time.monotonic()
        here = Holder.here()
        others = [holder for holder in holders if holder != here]
        if others:
            raise self._refused(others[0])
        return True

    def release(self) -> None:
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None
        self._held = False

    def _wait_for_the_dead(self, report: Callable[[str], None]) -> None:
        said = False
        while (holder := read_holder(self._cluster, self._reindex)) is not None:
            if not holder.is_gone():
                raise self._refused(holder)
            if not said:
                said = True
                report(f"waiting for the lease of process {holder.pid}, which died, to end ({SESSION_MS // 1000} s)")
            time.sleep(0.25)

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if partitions:
            self._held = True
            consumer.incremental_assign(partitions)
            consumer.pause(partitions)  # the records are of no interest, the membership is

    def _on_gone(self, _consumer: Consumer, _partitions: list[TopicPartition]) -> None:
        self._held = False

    def _refused(self, holder: Holder) -> LeaseHeld:
        return LeaseHeld(
            f"process {holder.pid} on {holder.host} drives the reindex {self._reindex}",
            where=self._cluster.bootstrap,
            why="a reindex has one run at a time",
            remedy=f"wait for it or stop it; see `reshelve status {self._reindex}`",
        )
