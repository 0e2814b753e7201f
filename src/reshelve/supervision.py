"""A run under way: its workers are watched, its lease is kept, and what happens goes into its journal."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from reshelve.children import Children, beside
from reshelve.commands import ControlState
from reshelve.consumers.reject_picture import look_at_rejects
from reshelve.errors import BlockedError, GateClosed, Interrupted, Unreachable
from reshelve.notify.announce import announce
from reshelve.progress import Progress, ProgressReader
from reshelve.reject_limit import RejectLimit
from reshelve.report import save_report
from reshelve.session import Session, follower_session
from reshelve.steering import Steering

T = TypeVar("T")
FOLLOW: Final = "follow"
_TICK_S: Final = 0.2
_CHECKPOINT_S: Final = 5.0
_FOLLOWED_CHECKPOINT_S: Final = 600.0  # for years: the journal is kept for ever
_END_S: Final = 30.0
_COUNT_AGAIN_S: Final = 10.0


class Observer(Protocol):
    """Whoever watches: the terminal, or a log."""

    def stage(self, name: str) -> None: ...
    def progress(self, stage: str, progress: Progress) -> None: ...
    def say(self, text: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Options:
    """How a run is driven here; none of it changes what comes out.

    until                  "copied" or "validated" stops before the swap; None goes through
    page_readers, key_readers, indexers  workers on this machine; others may join from elsewhere
    reports                where report and logs go, in a folder named after the run
    now                    the time of day, for maintenance windows
    """

    until: str | None
    page_readers: int
    key_readers: int
    indexers: int
    reports: Path
    environ: dict[str, str]
    now: Callable[[], datetime] = lambda: datetime.now(UTC)


class Supervision:
    """Watches one run. `stop` is set by Ctrl-C or SIGTERM."""

    def __init__(self, session: Session, options: Options, observer: Observer, stop: threading.Event) -> None:
        self.context, self._session, self._now = session.context, session, options.now
        self.observer, self._stop = observer, stop
        self._folder = options.reports / str(self.context.run)
        self.children = Children(str(self.context.run), options.environ, self._folder / "logs", self._on_death)
        self.stage = ""
        self._reader: ProgressReader | None = None
        self._steering: Steering | None = None
        self._progress: Progress | None = None
        self._checkpoint_at = 0.0
        self._checkpoint: dict[str, Any] = {}
        self._limit = RejectLimit(self.context.spec.limits.max_rejects)
        self._count_at = 0.0
        self._recording = threading.Lock()  # what is done beside the watching has entries of its own

    def close(self) -> None:
        """End the workers on this machine, and let the lease go."""
        self.children.stop()
        if self._reader is not None:
            self._reader.close()
        if self._steering is not None:
            self._steering.close()
        self._session.lease.release()

    def follow_only(self) -> None:
        """Let the reindex go, so that a newer run of it may begin, and keep the following of this run."""
        context, state = self.context, self._session.state
        follower = follower_session(context.cluster, context, state, self.observer.say, self._stop)
        self._session.lease.release()
        self._session = follower

    @property
    def last(self) -> Progress:
        """The newest picture, once there was one."""
        assert self._progress is not None
        return self._progress

    @property
    def control(self) -> ControlState:
        """What the run was told so far."""
        return ControlState() if self._steering is None else self._steering.control

    def enter(self, stage: str) -> None:
        self.stage = stage
        self.observer.stage(stage)
        state = self._session.state
        if state.stage != stage or stage not in state.stages:
            self.record("stage", {"stage": stage})

    def record(self, kind: str, data: dict[str, Any]) -> None:
        """An entry in the journal, taken into the state. Thread-safe."""
        with self._recording:
            self._session.record(kind, data)

    def record_end(self, kind: str, data: dict[str, Any]) -> None:
        """What was seen last, so that the status of a run that has stopped is not seconds older than its end; and
        that end. Brokers that are away must not hide what it was: then it is only said."""
        self.children.stop()
        try:
            if self._progress is not None:
                self._write_checkpoint(self._progress, force=True)
            self.record(kind, data | {"stage": self.stage})
        except BlockedError as error:
            self.observer.say(f"not recorded: {error}")

    def report(self) -> None:
        """For whoever waits for the end of the run, and for whoever asks later."""
        announce(self.context, self._session.state, self.record, self.observer.say)
        save_report(self.context.plan, self._session.state, self._folder, self.observer.say)

    def until(self, done: Callable[[Progress], bool]) -> Progress:
        """Watch the workers until `done`; lease, journal and observer are kept up to date."""
        while True:
            progress = self.tick()
            if done(progress):
                self._write_checkpoint(progress, force=True)
                return progress

    def tick(self) -> Progress:
        self._go_on()
        self._session.lease.poll()
        steering = self._steer()
        self.children.tend()
        if self._reader is None:
            self._reader = ProgressReader(self.context)
        progress = self._progress = steering.shown(self._reader.poll())
        if self._limit.due(progress.reject_records) and time.monotonic() >= self._count_at:
            self._count_rejects(progress.reject_records)
        self.observer.progress(self.stage, progress)
        self._write_checkpoint(progress)
        self._stop.wait(_TICK_S)
        return progress

    def _count_rejects(self, records: int) -> None:
        """Raises BlockedError when more rejects are open than allowed. Servers that are away end nothing: it is counted
        again a little later."""
        context, run = self.context, self.context.run
        try:
            found = self.beside(
                lambda: look_at_rejects(
                    context.cluster, run, context.opensearch, context.plan.index, context.partitions
                ),
                watch=self._tend,
            )
        except Unreachable as error:
            self._count_at = time.monotonic() + _COUNT_AGAIN_S
            self.observer.say(f"open rejects can't be counted now: {error}")
            return
        number = len(found.open)
        if self._limit.counted(records, number):
            raise BlockedError(
                f"{number:,} rejected documents are open",
                where=run.topic("rejects"),
                why=f"limits.max_rejects allows {self._limit.limit:,}",
                remedy=f"see them with `reshelve rejects list {run}`; correct the cause and redrive them, waive them,"
                " or raise the limit; then run again",
            )

    def _tend(self) -> None:
        """To watch while workers are there, and their progress is not needed."""
        self.children.tend()
        self.keep_lease()

    def beside(
        self, work: Callable[[], T], *, watch: Callable[[], object] | None = None, patience_s: float = _END_S
    ) -> T:
        """Do something that blocks, while the workers are watched all the same. When the watching ends it, the work
        gets `patience_s` seconds to end: it asks by `say` whether to go on."""
        return beside(work, watch or self.tick, patience_s=patience_s)

    def keep_lease(self) -> None:
        """To watch when there are no workers yet."""
        self._go_on()
        self._session.lease.poll()
        self._steer()
        self._stop.wait(_TICK_S)

    def await_resume(self) -> None:
        """Until the run is not paused; for when there are no workers yet."""
        while self._steer().pause is not None:
            self.keep_lease()

    def _steer(self) -> Steering:
        """Raises AbortedError when the run is to end."""
        if self._steering is None:
            self._steering = Steering(self.context, self._session.state, self.record, self.observer.say, self._now)
        self._steering.poll()
        return self._steering

    def say(self, text: str) -> None:
        """For what may wait long, such as for copies before the swap: a stop that is asked for meanwhile ends it.
        Without a text only that. Thread-safe."""
        if text:
            self.observer.say(text)
        self._go_on()

    def say_unless_paused(self, text: str) -> None:
        """The same for what must not be begun while the run is paused. Raises GateClosed then. Thread-safe."""
        self.say(text)
        pause = self.control.pause
        if pause is not None:
            closed = GateClosed("the run is paused", where=str(self.context.run), why=pause.text)
            closed.passing = True
            raise closed

    def wait(self, seconds: float) -> None:
        """Let time pass, and watch all the same."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.tick()

    def _go_on(self) -> None:
        """Raises Interrupted when a stop was asked for, AbortedError when the end of the run was."""
        aborting = None if self._steering is None else self._steering.aborting
        if aborting is not None:
            raise aborting
        if self._stop.is_set():
            raise Interrupted(
                f"stopped in stage {self.stage}",
                where=str(self.context.run),
                remedy="run the same command again: it resumes",
            )

    def _write_checkpoint(self, progress: Progress, *, force: bool = False) -> None:
        now = time.monotonic()
        every = _FOLLOWED_CHECKPOINT_S if self.stage == FOLLOW else 0.0 if force else _CHECKPOINT_S
        if now - self._checkpoint_at < every:
            return
        checkpoint = progress.as_dict()
        if checkpoint != self._checkpoint:
            self.record("checkpoint", checkpoint)
        self._checkpoint_at, self._checkpoint = now, checkpoint

    def _on_death(self, what: str) -> None:
        self.observer.say(what)
        self.record("error", {"what": what, "stage": self.stage})
