"""What the process that follows a run is told, wherever it runs: the topic `control`, read from its beginning.

`retire` ends the following of a run that has completed.
"""

from __future__ import annotations

import json
import time
from typing import Any, Final

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition

from reshelve.errors import Unreachable
from reshelve.kafka import KafkaCluster, may_pass, refusal
from reshelve.model import RunId
from reshelve.schemas.codec import COMMAND

_RETIRE: Final = "retire"
_SEND_S: Final = 30.0


def retire_follower(cluster: KafkaCluster, run: RunId) -> None:
    """Tell the process that follows a completed run to end that. Raises ReshelveError."""
    _send(cluster, run, _RETIRE, {})


def _send(cluster: KafkaCluster, run: RunId, kind: str, data: dict[str, Any]) -> None:
    record = {"kind": kind, "at": int(time.time() * 1000), "data": json.dumps(data)}
    producer = cluster.producer({"message.timeout.ms": int(_SEND_S * 1000)})
    failures: list[KafkaException] = []
    producer.produce(
        run.topic("control"),
        COMMAND.encode(record),
        kind.encode(),
        partition=0,
        on_delivery=lambda error, _: failures.append(KafkaException(error)) if error else None,
    )
    left = producer.flush(_SEND_S + 5)
    if failures:
        raise refusal(failures[0], "cannot send a command to the process that follows the run", cluster.bootstrap)
    if left:
        raise Unreachable(
            "cannot send a command to the process that follows the run",
            where=cluster.bootstrap,
            why="it is not acknowledged",
            remedy="see that the brokers run",
        )


class ControlReader:
    """The commands as that process sees them. Not thread-safe."""

    def __init__(self, cluster: KafkaCluster, run: RunId) -> None:
        self._cluster, self._topic = cluster, run.topic("control")
        self._consumer: Consumer = cluster.consumer(run.group("control"), {"auto.offset.reset": "earliest"})
        self._consumer.assign([TopicPartition(self._topic, 0, OFFSET_BEGINNING)])
        self._retired = False

    def retired(self) -> bool:
        """Whether the following is to end, as far as the commands have arrived. Raises ReshelveError."""
        self._read()
        return self._retired

    def _read(self) -> None:
        for message in self._consumer.consume(100, 0):
            error = message.error()
            if error is None:
                command = COMMAND.decode(message.value() or b"")
                if command["kind"] == _RETIRE:
                    self._retired = True
            elif not may_pass(error):
                raise refusal(error, f"cannot read topic {self._topic}", self._cluster.bootstrap)

    def close(self) -> None:
        self._consumer.close()
