"""How fast something grows, as seen from outside."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass


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
        return Rate(self._over(60), self._over(600))

    def _over(self, seconds: float) -> float | None:
        if len(self._samples) < 2:
            return None
        now, total = self._samples[-1]
        first = next(s for s in self._samples if now - s[0] <= seconds)
        return (total - first[1]) / (now - first[0]) if now - first[0] >= 1 else None
