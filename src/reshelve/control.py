"""The topic `control`: where a run is told things, from anywhere, and read from its beginning by all whom it concerns.

Nobody who reads it waits for anybody else to do so: a worker that starts knows what was said before it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any, Final

from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition

from reshelve.commands import Command, ControlState, fold_commands
from reshelve.errors import BlockedError, Unreachable
from reshelve.kafka import KafkaCluster, may_pass, refusal
from reshelve.model import RunId
from reshelve.schemas.codec import COMMAND, CodecError

_SEND_S: Final = 30.0
_CATCH_UP_S: Final = 30.0


class ControlWriter:
    """Says things to a run. Raises ReshelveError."""

    def __init__(self, cluster: KafkaCluster, run: RunId) -> None:
        self._cluster, self._topic = cluster, run.topic("control")
        self._producer: Producer = cluster.producer({"message.timeout.ms": int(_SEND_S * 1000)})

    def send(self, kind: str, by: str, why: str, values: Mapping[str, Any] | None = None) -> None:
        """Returns once the brokers have it."""
        failures: list[KafkaException] = []
        self._produce(kind, by, why, values, failures)
        left = self._producer.flush(_SEND_S + 5)
        what = f"cannot send the command {kind} to the run"
        if failures:
            raise refusal(failures[0], what, self._cluster.bootstrap)
        if left:
            raise Unreachable(
                what, where=self._cluster.bootstrap, why="it is not acknowledged", remedy="see that the brokers run"
            )

    def post(self, kind: str, by: str, why: str, values: Mapping[str, Any] | None = None) -> None:
        """Does not wait: who posts sees by the topic whether it came, and posts again."""
        self._produce(kind, by, why, values, [])
        self._producer.poll(0)

    def _produce(
        self, kind: str, by: str, why: str, values: Mapping[str, Any] | None, failures: list[KafkaException]
    ) -> None:
        data = json.dumps({"by": by, "why": why, **(values or {})}, ensure_ascii=False)
        self._producer.produce(
            self._topic,
            COMMAND.encode({"kind": kind, "at": int(time.time() * 1000), "data": data}),
            kind.encode(),
            partition=0,
            on_delivery=lambda error, _: failures.append(KafkaException(error)) if error else None,
        )


class ControlReader:
    """Follows the commands of a run. Not thread-safe."""

    def __init__(self, cluster: KafkaCluster, run: RunId) -> None:
        self._cluster, self._topic = cluster, run.topic("control")
        self._consumer: Consumer = cluster.consumer(
            run.group("control"), {"auto.offset.reset": "earliest", "queued.max.messages.kbytes": 1024}
        )
        self._next = 0
        self.state = ControlState()
        self.commands: list[Command] = []
        """Those that came with the last `poll` or `catch_up`."""

    def catch_up(self) -> ControlState:
        """What stands once everything that was said until now is read; to be called first. Raises ReshelveError."""
        # Not by the consumer that follows: a new one takes most of a second to find its way, and work waits for this.
        self.commands = []
        for message in self._cluster.read(self._topic, [0], starts={0: self._next}, idle=_CATCH_UP_S):
            self._take(message)
        self._consumer.assign([TopicPartition(self._topic, 0, self._next)])
        return self.state

    def poll(self) -> ControlState:
        """What stands, as far as it has arrived; does not wait. Raises ReshelveError."""
        self.commands = []
        for message in self._consumer.consume(100, 0):
            error = message.error()
            if error is None:
                self._take(message)
            elif not may_pass(error):
                raise refusal(error, f"cannot read topic {self._topic}", self._cluster.bootstrap)
        return self.state

    def _take(self, message: Message) -> None:
        command = _decode(message)
        self.commands.append(command)
        self.state = self.state.take(command)
        self._next = command.offset + 1

    def close(self) -> None:
        self._consumer.close()


def read_control(cluster: KafkaCluster, run: RunId, *, timeout: float) -> ControlState:
    """What stands now. Raises ReshelveError; a run whose topic is not made yet, or is gone, was told nothing."""
    topic = run.topic("control")
    if not cluster.topics(topic, timeout=timeout):
        return ControlState()
    return fold_commands(_decode(message) for message in cluster.read(topic, [0], idle=timeout))


def _decode(message: Message) -> Command:
    try:
        record = COMMAND.decode(message.value() or b"")
    except CodecError as error:
        raise BlockedError(
            f"record {message.offset()} of {message.topic()} is no command",
            why=str(error),
            remedy="something else wrote to the run's topic; start a new run with --new",
        ) from None
    values = json.loads(record["data"])
    by, why = values.pop("by", ""), values.pop("why", "")
    return Command(record["kind"], record["at"], by, why, values, message.offset() or 0)
