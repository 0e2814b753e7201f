"""How fast something grows, as seen from outside."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Rate:
    """Documents a second over the last minute and the last ten; None until there is something to go by."""

    minute: float | None
    ten_minutes: float | None


class RateMeter:
    """Fed with a total now and then, it says how fast that grows."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def add(self, total: int) -> None:
        now = time.monotonic()
        self._samples.append((now, total))
        while now - self._samples[0][0] > 600:
            self._samples.popleft()

    def rate(self) -> Rate:
        return Rate(self.over(60), self.over(600))

    def over(self, seconds: float) -> float | None:
        """Growth a second over the last so many; None while less than a second is known."""
        if len(self._samples) < 2:
            return None
        now, total = self._samples[-1]
        first = next(s for s in self._samples if now - s[0] <= seconds)
        return (total - first[1]) / (now - first[0]) if now - first[0] >= 1 else None


class Tally:
    """What all workers have counted since this began, however often each of them started anew."""

    def __init__(self) -> None:
        self.totals: Counter[str] = Counter()
        self._last: dict[tuple[str, str], Mapping[str, int]] = {}

    def take(self, reports: Iterable[Mapping[str, Any]]) -> None:
        """The newest report of each worker. The first one of a worker only says where it stands."""
        for report in reports:
            who, counts = (str(report["role"]), str(report["worker"])), report["counts"]
            before = self._last.get(who)
            if before is not None:
                for name, value in counts.items():
                    known = before.get(name, 0)
                    self.totals[name] += value - known if value >= known else value
            self._last[who] = counts
