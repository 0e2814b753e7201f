"""What the driver of a run makes of what the run is told, and what it tells the run itself.

Commands are journaled, and an abort ends the driving. While the maintenance window is closed or a stop signal is up,
the run is held, and the adaptive throttle gives it a rate: by commands of the driver's, which its workers obey wherever
they are. What the driver says comes back to it by the topic, and only then counts, for itself too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from reshelve.adaptive import Adaptive
from reshelve.commands import OF_THE_DRIVER, Bounds, ControlState, Pause
from reshelve.context import RunContext
from reshelve.control import ControlReader, ControlWriter
from reshelve.errors import AbortedError, BlockedError
from reshelve.progress import Progress
from reshelve.spec.window import Window
from reshelve.state import RunState
from reshelve.window import Standing, WindowClock

Record = Callable[[str, dict[str, Any]], None]
Say = Callable[[str], None]
Hold = tuple[str, str]
"""By what the run is held, and why."""
_POSTED_S: Final = 3.0  # so long it is waited for what was said to come back, before it is said again


class Steering:
    """Follows `control` for the driver of a run. Not thread-safe, but for what its properties tell.

    now  the time of day, for windows
    Raises ReshelveError."""

    def __init__(
        self, context: RunContext, state: RunState, record: Record, say: Say, now: Callable[[], datetime]
    ) -> None:
        self._context, self._state, self._record, self._say, self._now = context, state, record, say, now
        self._window = None if context.spec.window is None else WindowWatch(context.spec.window)
        self._writer = ControlWriter(context.cluster, context.run)
        self._rated_at = float("-inf")
        self._posted_at = float("-inf")
        if "created" not in state.facts:
            _make_topic(context)  # first of all topics: also a run that waits to begin can be told something
        self._reader = ControlReader(context.cluster, context.run)
        self._reader.catch_up()
        self._told = ControlState()
        self._take()
        self._adaptive = Adaptive(context, context.spec.throttle, self._told.rate, say)
        wanted = self._wanted_hold()
        if wanted is not None and self._told.held is None:
            self._writer.send("hold", *wanted)  # and no worker is started before it stands
            self._reader.catch_up()
            self._take()

    def poll(self) -> None:
        """See what came since. Raises AbortedError when the run is to end."""
        self._reader.poll()
        self._take()
        if self.aborting is not None:
            raise self.aborting
        self._hold()

    def close(self) -> None:
        self._adaptive.close()
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
        return self._told.bounds(*self._limits)

    @property
    def _limits(self) -> tuple[float | None, float | None]:
        """Those of the spec."""
        limits = self._context.spec.limits
        return limits.documents_per_second, limits.megabytes_per_second

    def shown(self, progress: Progress) -> Progress:
        """The picture with what holds the run back."""
        self._adapt(progress)
        pause, run = self.pause, str(self._context.run)
        waiting = progress.waiting if pause is None else (f"{pause.text}; next: {pause.next(run)}", *progress.waiting)
        return replace(progress, waiting=waiting, pause=pause, bounds=self.bounds, signals=self._adaptive.values)

    def _adapt(self, progress: Progress) -> None:
        """Let the adaptive throttle judge, and tell the run its rate where that is another one."""
        limit = replace(self._told, rate=None).bounds(*self._limits).documents_per_second
        self._adaptive.step(progress, limit, self.pause is not None)
        told, allowed = self._told.rate, self._adaptive.allowed
        stands = None if told is None else told.values.get("documents_per_second")
        if stands == allowed.rate or time.monotonic() - self._rated_at < _POSTED_S:
            return
        self._rated_at = time.monotonic()
        self._writer.post("rate", "throttle", allowed.because, {"documents_per_second": allowed.rate})

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

    def _wanted_hold(self) -> Hold | None:
        """What should hold the run now. Once searches read its index no window does: it must not fall behind."""
        if self._adaptive.stop:
            return "stop signal", self._adaptive.stop
        if self._window is None or "cutover" in self._state.facts:
            return None
        return self._window.hold(self._now(), self._told)

    def _hold(self) -> None:
        wanted, held = self._wanted_hold(), self._told.held
        stands = None if held is None else (held.by, held.why)
        if wanted == stands or time.monotonic() - self._posted_at < _POSTED_S:
            return
        self._posted_at = time.monotonic()
        if wanted is not None:
            self._writer.post("hold", *wanted)
        elif held is not None:
            self._writer.post("release", held.by, "it does not hold any more")

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


class WindowWatch:
    """A window that is asked many times a second."""

    def __init__(self, window: Window) -> None:
        self._clock, self._zone = WindowClock(window), window.zone
        self._standing: Standing | None = None
        self._seen = datetime.min.replace(tzinfo=UTC)

    def hold(self, now: datetime, control: ControlState) -> Hold | None:
        """What the window has against work now."""
        standing = self._at(now)
        resumed = control.resumed
        if standing.is_open:
            return None
        if resumed is not None and resumed.values.get("ignore_window"):
            asked = datetime.fromtimestamp(resumed.at / 1000, UTC)
            if self._clock.ignored_since(asked, now):
                return None
        return "window", standing.text(self._zone)

    def _at(self, now: datetime) -> Standing:
        known = self._standing
        if known is None or now < self._seen or (known.until is not None and now >= known.until):
            known = self._standing = self._clock.at(now)
        self._seen = now
        return known


def require_running(context: RunContext, control: ControlState) -> None:
    """Raises BlockedError while the run is paused, or its window is closed: for what is done without a driver."""
    window = context.spec.window
    closed = None if window is None else WindowWatch(window).hold(datetime.now(UTC), control)
    pause, run = control.pause, str(context.run)
    if pause is None and closed is None:
        return
    raise BlockedError(
        f"run {run} is paused",
        where=run,
        why=pause.text if pause is not None else f"its window is {closed[1] if closed else ''}",
        remedy=f"`reshelve resume {run}`; for one that the window makes, with --ignore-window",
    )
