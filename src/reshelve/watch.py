"""The index of a reindex watched: looked at again and again, and repaired where that is asked for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric

from reshelve.crew import CrewOptions
from reshelve.errors import Interrupted, ReshelveError, UsageError
from reshelve.journal import read_journal
from reshelve.kafka import KafkaCluster
from reshelve.scraped import ServedCollector, gauge
from reshelve.session import attach_beside
from reshelve.state import RunState, fold
from reshelve.upkeep import Upkeep, require_keys
from reshelve.validator.compare import DRIFT_CLASSES

_LEAST_WAIT_S: Final = 1.0  # between two looks, when one takes longer than the time between them

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Look:
    """One look at the index.

    found  drifted keys by class; left: those that a repair has left, or all where none was asked for
    """

    run: str
    check: str
    at: float
    seconds: float
    found: Mapping[str, int] = field(default_factory=dict)
    left: Mapping[str, int] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        """Whether the index is now as it should be."""
        return not self.left

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        facts = {"run": self.run, "check": self.check, "at": self.at, "seconds": self.seconds}
        return facts | {"found": dict(self.found), "left": dict(self.left), "clean": self.clean}


class Observer(Protocol):
    """Is told of every look."""

    def looked(self, look: Look) -> None: ...
    def failed(self, error: ReshelveError) -> None: ...


def watched_run(states: Mapping[str, RunState], name: str) -> RunState:
    """The run whose index is looked at: the one of that name, or the reindex's newest whose index searches may use.

    Raises UsageError where there is none."""
    if name in states:
        return states[name]
    usable = [
        state
        for state in states.values()
        if state.run.reindex == name and "completed" in state.facts and not (state.cleaned or state.rolled_back)
    ]
    if not usable:
        raise UsageError(
            f"there is nothing to watch of {name!r}",
            why="no run of it has completed, and no index was adopted for it",
            remedy="`reshelve runs` lists the runs; `reshelve repair` with its spec adopts the index that searches use",
        )
    return usable[-1]


@dataclass(frozen=True)
class Watch:
    """name: a run, or a reindex, of which each look takes the newest run; levels: none are those of the spec."""

    cluster: KafkaCluster
    name: str
    levels: Collection[str]
    rate: float | None
    repair: bool
    options: CrewOptions
    stop: threading.Event
    say: Say

    def look(self) -> Look:
        """Validate once, repair if told to. Raises ReshelveError, Interrupted when told to stop."""
        started = time.time()
        run = str(watched_run(fold(read_journal(self.cluster)), self.name).run)
        session = attach_beside(self.cluster, run, "repair" if self.repair else "watch", self.say)
        try:
            upkeep = Upkeep(session, self.options, self.stop, self.say)
            # The journal is kept for ever, and read whole: it is told of drift only.
            found = upkeep.validate(self.levels, rate=self.rate, record=False)
            drift: Mapping[str, int] = {}
            left: Mapping[str, int] = {}
            if not found.clean:
                session.record("validated", found.as_dict())
                with upkeep.drifted(found.check) as keys:
                    require_keys(keys, found, self.say)
                    drift = left = keys.counts
                    if self.repair:
                        left = upkeep.repair(keys).left
            return Look(run, found.check, started, round(time.time() - started, 3), drift, left)
        finally:
            session.lease.release()

    def go_on(self, every: float, observer: Observer) -> None:
        """Look every so many seconds until told to stop. What fails is told to the observer, and tried again. Raises
        UsageError: that does not pass by itself."""
        while not self.stop.is_set():
            started = time.monotonic()
            try:
                observer.looked(self.look())
            except Interrupted:
                return
            except UsageError:
                raise
            except ReshelveError as error:
                observer.failed(error)
            self.stop.wait(max(_LEAST_WAIT_S, started + every - time.monotonic()))


class WatchMetrics(ServedCollector):
    """The last look, for Prometheus."""

    def __init__(self, host: str, port: int) -> None:
        self._last: Look | None = None
        self._failing = False
        super().__init__(host, port)

    def looked(self, look: Look) -> None:
        self._last, self._failing = look, False

    def failed(self, error: ReshelveError) -> None:
        self._failing = True

    def collect(self) -> Iterator[Metric]:
        """What a scrape gets; called in the server's thread."""
        yield gauge("reshelve_check_failing", "1: the last look at the index failed, nothing is known.", self._failing)
        look = self._last
        if look is None:
            return
        yield InfoMetricFamily("reshelve_check", "The last look.", value={"run": look.run, "check": look.check})
        yield gauge("reshelve_check_timestamp_seconds", "When it began, since 1970 UTC.", look.at)
        yield gauge("reshelve_check_duration_seconds", "How long it took, with the repair.", look.seconds)
        for name, what, counts in (
            ("reshelve_drifted_keys", "Drifted keys that it found.", look.found),
            ("reshelve_drifted_keys_left", "Drifted keys that were not repaired.", look.left),
        ):
            family = GaugeMetricFamily(name, what, labels=["class"])
            for drift in DRIFT_CLASSES:
                family.add_metric([drift], counts.get(drift, 0))
            yield family
