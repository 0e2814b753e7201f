"""What a worker is told by `control`, obeyed: whether it may take work, and how fast."""

from __future__ import annotations

from confluent_kafka import Consumer, TopicPartition

from reshelve.commands import Bounds, ControlState
from reshelve.control import ControlReader
from reshelve.kafka import KafkaCluster
from reshelve.model import RunId
from reshelve.reporter import Reporter
from reshelve.spec import Limits
from reshelve.throttle import Throttle


class Orders:
    """The orders of one worker: `admit` before each time that it takes work.

    A worker that is paused finishes what it has, and goes on polling its consumer, whose partitions are paused: so it
    stays in its group and commits as ever. Not thread-safe.

    reader    None: nobody tells it anything, as in a replay
    throttle  gets the limits that hold; None: the worker has none
    """

    def __init__(
        self, reader: ControlReader | None, limits: Limits | None, throttle: Throttle | None, reporter: Reporter
    ) -> None:
        self._reader, self._limits, self._throttle, self._reporter = reader, limits, throttle, reporter
        self._state = ControlState()
        self._shut = False
        if reader is not None:
            self._obey(reader.catch_up())  # before any work is taken

    @classmethod
    def none(cls, reporter: Reporter) -> Orders:
        """Nobody's."""
        return cls(None, None, None, reporter)

    @classmethod
    def of_run(
        cls, cluster: KafkaCluster, run: RunId, limits: Limits, throttle: Throttle | None, reporter: Reporter
    ) -> Orders:
        """Those of a run. Raises ReshelveError."""
        return cls(ControlReader(cluster, run), limits, throttle, reporter)

    @property
    def paused(self) -> bool:
        """Whether no work may be taken."""
        return self._state.pause is not None

    def poll(self) -> None:
        """Take new orders; an abort stops the worker. Raises ReshelveError."""
        if self._reader is not None:
            self._obey(self._reader.poll())

    def admit(self, consumer: Consumer, *, wait: bool = False) -> bool:
        """Whether work may be taken now, and the consumer's partitions paused or not accordingly.

        wait  no work shall be taken for a reason of the worker's own. Raises ReshelveError."""
        self.poll()
        if self._throttle is not None:
            self._reporter.limit = self._throttle.documents_per_second  # its share changes with its partitions
        shut = self.paused or wait
        if shut:
            consumer.pause(consumer.assignment())
        elif self._shut:
            consumer.resume(consumer.assignment())
        self._shut = shut
        return not shut

    def on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """For `subscribe`: partitions that come while no work may be taken bring none."""
        consumer.incremental_assign(partitions)
        if self._shut:
            consumer.pause(partitions)

    def _obey(self, state: ControlState) -> None:
        before, self._state = self._state, state
        if state is before:
            return
        if state.aborted is not None:
            self._reporter.say(f"ends: the run was aborted by {state.aborted.by}")
            self._reporter.stop.set()
        if state.pause != before.pause:
            pause = state.pause
            self._reporter.paused = pause is not None
            self._reporter.say("going on" if pause is None else f"paused by {pause.by}: {pause.why}")
        if self._throttle is not None and self._limits is not None:
            bounds = self._bounds(self._limits)
            self._throttle.set_limits(bounds.documents_per_second, bounds.megabytes_per_second)
            self._reporter.limit = self._throttle.documents_per_second

    def _bounds(self, limits: Limits) -> Bounds:
        return self._state.bounds(limits.documents_per_second, limits.megabytes_per_second)

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
