"""What the driver of a run makes of what the run is told: it is journaled, and an abort ends the driving."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from reshelve.context import RunContext
from reshelve.control import OF_THE_DRIVER, Bounds, ControlReader, ControlState, Pause
from reshelve.errors import AbortedError, BlockedError
from reshelve.progress import Progress
from reshelve.state import RunState

Record = Callable[[str, dict[str, Any]], None]
Say = Callable[[str], None]


class Steering:
    """Follows `control` for the driver of a run. Not thread-safe, but for what its properties tell.

    Raises ReshelveError."""

    def __init__(self, context: RunContext, state: RunState, record: Record, say: Say) -> None:
        self._context, self._state, self._record, self._say = context, state, record, say
        if "created" not in state.facts:
            _make_topic(context)  # first of all topics: also a run that waits to begin can be told something
        self._reader = ControlReader(context.cluster, context.run)
        self._reader.catch_up()
        self._told = ControlState()
        self._take()

    def poll(self) -> None:
        """See what came since. Raises AbortedError when the run is to end."""
        self._reader.poll()
        self._take()
        if self.aborting is not None:
            raise self.aborting

    def close(self) -> None:
        self._reader.close()

    @property
    def control(self) -> ControlState:
        """What the run was told."""
        return self._told

    @property
    def pause(self) -> Pause | None:
        """Why it takes no work now."""
        return self._told.pause

    @property
    def bounds(self) -> Bounds:
        """The limits that hold now."""
        limits = self._context.spec.limits
        return self._told.bounds(limits.documents_per_second, limits.megabytes_per_second)

    def shown(self, progress: Progress) -> Progress:
        """The picture with what holds the run back."""
        pause, run = self.pause, str(self._context.run)
        waiting = progress.waiting if pause is None else (f"{pause.text}; next: {pause.next(run)}", *progress.waiting)
        return replace(progress, waiting=waiting, pause=pause, bounds=self.bounds)

    @property
    def aborting(self) -> AbortedError | None:
        """Why the run is to end, unless that can't be any more."""
        asked, known = self._told.aborted, self._state.facts
        refused = int(known.get("abort_refused", {}).get("offset", -1))
        if asked is None or "completed" in known or asked.offset <= refused:
            return None
        run = self._context.run
        return AbortedError(
            f"run {run} was aborted by {asked.by}",
            where=run.topic("control"),
            why=asked.why,
            remedy=f"`reshelve status {run}` says what is left of it, `reshelve clean {run}` removes that",
        )

    def _take(self) -> None:
        before, self._told = self._told, self._reader.state
        known = int(self._state.facts.get("command", {}).get("offset", -1))
        for command in self._reader.commands:
            if command.offset > known and command.kind not in OF_THE_DRIVER:
                self._record("command", command.as_dict())
        pause = self._told.pause
        if pause != before.pause:
            run = str(self._context.run)
            self._say("going on" if pause is None else f"{pause.text}; next: {pause.next(run)}")
        if self._told.limited != before.limited:
            self._say(f"limit: {self.bounds.text}")


def _make_topic(context: RunContext) -> None:
    name = context.run.topic("control")
    topic = next(topic for topic in context.plan.topics if topic.name == name)
    factor = context.spec.kafka.replication_factor
    context.cluster.create_topic(topic.name, topic.partitions, topic.config, factor)


def require_running(context: RunContext, control: ControlState, what: str) -> None:
    """Raises BlockedError while the run is paused. `what` is to be done."""
    pause = control.pause
    if pause is not None:
        raise BlockedError(
            f"{what} while the run is paused",
            where=str(context.run),
            why=pause.text,
            remedy=pause.next(str(context.run)),
        )
