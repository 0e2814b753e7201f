"""The adaptive throttle of a run under way: signals and the run's own progress in, the rate that it may have out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from reshelve.commands import Command
from reshelve.context import RunContext
from reshelve.controller import Allowance, decide, worst
from reshelve.progress import Progress
from reshelve.rates import RateMeter, Tally
from reshelve.signals import Sample, SignalWatch
from reshelve.spec.throttle import AdaptiveThrottle

_SEEN_S: Final = 5.0
Say = Callable[[str], None]


@dataclass(slots=True)
class OwnSignals:
    """What the run's indexers see themselves, from one look at their counters to the next."""

    tally: Tally = field(default_factory=Tally)
    meter: RateMeter = field(default_factory=RateMeter)
    _before: Mapping[str, int] = field(default_factory=dict)
    _at: float = field(default_factory=time.monotonic)

    def take(self, progress: Progress) -> None:
        """To be called with every picture."""
        self.tally.take(report for report in progress.workers if report["role"] == "indexer")
        self.meter.add(self.tally.totals["indexed"] + self.tally.totals["superseded"])

    def look(self, now: float) -> dict[str, float]:
        """Rejections a second and seconds a request since the last look."""
        totals, before, seconds = dict(self.tally.totals), self._before, now - self._at
        self._before, self._at = totals, now
        if seconds <= 0:
            return {}
        grown = {name: totals.get(name, 0) - before.get(name, 0) for name in ("busy", "requests", "request_ms")}
        values = {"rejections": grown["busy"] / seconds}
        if grown["requests"]:
            values["bulk_seconds"] = grown["request_ms"] / 1000 / grown["requests"]
        return values


class Adaptive:
    """The throttle of one run. Not thread-safe.

    before  the rate that was allowed last, by whoever drove the run before"""

    def __init__(self, context: RunContext, settings: AdaptiveThrottle, before: Command | None, say: Say) -> None:
        self._settings, self._say = settings, say
        rate = before.values.get("documents_per_second") if before and settings.bands else None
        self.allowed = Allowance(rate, before.why if before and rate is not None else "")
        self.values: Mapping[str, float] = {}
        self._own = OwnSignals()
        self._watch = SignalWatch(context, settings)
        self._looked_at: Sample | None = None
        self._troubled = False
        self._watch.start()

    def close(self) -> None:
        self._watch.close()

    @property
    def stop(self) -> str:
        """Why the run has to stop; empty: it need not."""
        return self._watch.newest.stop

    def step(self, progress: Progress, limit: float | None, paused: bool) -> None:
        """Judge the newest look, once. A run that is paused keeps its rate: its signals say nothing of it."""
        self._own.take(progress)
        sample = self._watch.newest
        if sample is self._looked_at:
            return
        self._looked_at = sample
        if bool(sample.troubles) is not self._troubled:
            self._troubled = bool(sample.troubles)
            for trouble in sample.troubles:
                self._say(f"a signal of the adaptive throttle can't be looked at: {trouble}")
        own = self._own.look(sample.at)
        self.values = merged(self._settings, sample.values, own)
        if paused:
            self._own.meter = RateMeter()
            return
        asked = worst(self._settings.bands, self.values)
        before = self.allowed
        seen = self._own.meter.over(_SEEN_S)
        if seen is not None and seen < 1 and own.get("rejections"):
            seen = None  # it does much, and all of it is turned away
        self.allowed = decide(time.monotonic(), before, asked, seen, limit, self._settings)


def merged(settings: AdaptiveThrottle, servers: Mapping[str, float], own: Mapping[str, float]) -> Mapping[str, float]:
    """The worse of what servers and the run's indexers say, of the signals that are looked at."""
    both = {name: max(servers.get(name, 0.0), own.get(name, 0.0)) for name in {*servers, *own}}
    return {name: both[name] for name in settings.bands if name in both}
