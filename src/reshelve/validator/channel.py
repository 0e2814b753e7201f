"""`checks` as the coordinator uses it: tasks out, results in."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from reshelve.context import RunContext
from reshelve.kafka import is_transient, refusal
from reshelve.schemas.codec import CodecError
from reshelve.validator.tasks import CheckResult, CheckTask, decode

_SAY_S: Final = 5.0


class CheckChannel:
    """Tasks are sent, results are received from where the topic ended when this was made."""

    def __init__(self, context: RunContext, report: Callable[[str], None]) -> None:
        self._topic, self._partitions = context.run.topic("checks"), context.partitions
        self._where, self._report = context.cluster.bootstrap, report
        ends = context.cluster.stable_ends(self._topic, self._partitions)
        # gzip: the client of Faust reads it without further libraries.
        self._producer: Producer = context.cluster.producer({"compression.type": "gzip", "message.timeout.ms": 60_000})
        self._consumer: Consumer = context.cluster.consumer(context.run.group("coordinator"))
        self._consumer.assign([TopicPartition(self._topic, p, offset) for p, offset in ends.items()])
        self._errors: list[KafkaError] = []

    def __enter__(self) -> CheckChannel:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def send(self, tasks: Iterable[CheckTask]) -> None:
        """Returns when the brokers have the tasks. Raises Unreachable when they don't take them within a minute,
        ReshelveError when they refuse one."""
        for task in tasks:
            self._producer.produce(
                self._topic,
                task.encode(),
                task.key,
                partition=task.number % self._partitions,
                on_delivery=lambda error, _: self._errors.append(error) if error else None,
            )
        while left := self._producer.flush(_SAY_S):
            self._report(f"Kafka ({self._where}): {left} tasks of the check are not acknowledged")
        if self._errors:
            raise refusal(self._errors[0], "cannot send the tasks of the check", self._where)

    def receive(self, timeout: float) -> CheckResult | None:
        """The next result; None when none came in time, or something else did. Raises ReshelveError."""
        try:
            message = self._consumer.poll(timeout)
        except KafkaException as error:
            raise refusal(error, "cannot read the results of the check", self._where) from error
        if message is None:
            return None
        failure = message.error()
        if failure is not None:
            if is_transient(failure):
                return None
            raise refusal(failure, "cannot read the results of the check", self._where)
        try:
            record = decode(message.value() or b"")
        except CodecError:  # not ours to judge: the task it would have answered is still waited for
            return None
        return record if isinstance(record, CheckResult) else None
