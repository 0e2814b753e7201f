"""Limits that hold across any number of workers, without a coordinator.

Every partition is worked by one worker at a time, so a worker that holds k of n partitions may use k/n
of the rate: the shares add up to the limit however the consumer group spreads them.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class TokenBucket:
    """A token bucket that is paid afterwards: work of any size may begin while the balance is not
    negative, so one page or document larger than a second's worth still passes and is waited off.

    rate     tokens a second; None: no limit
    burst_s  how many seconds' worth may be saved up. It begins empty, so that a worker which is killed
             and started over and over gains nothing.
    """

    def __init__(
        self, rate: float | None, *, burst_s: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if rate is not None and rate <= 0:
            raise ValueError(f"rate {rate} is not positive")
        self._rate, self._burst_s, self._clock = rate, burst_s, clock
        self._balance = 0.0
        self._at = clock()

    def take(self, tokens: float) -> None:
        """Pay for work that was done."""
        if self._rate is not None:
            self._refill()
            self._balance -= tokens

    def wait_s(self) -> float:
        """Seconds until work may begin; 0 when it may."""
        if self._rate is None:
            return 0.0
        self._refill()
        return max(0.0, -self._balance / self._rate)

    def set_rate(self, rate: float | None) -> None:
        """Change the rate from now on. What is owed stays owed, but takes no longer to pay than it would have: a limit
        that falls to a hundredth must not stop the work for minutes."""
        self._refill()
        if rate is not None and self._rate is not None and rate < self._rate and self._balance < 0:
            self._balance *= rate / self._rate
        self._rate = rate

    def _refill(self) -> None:
        now = self._clock()
        if self._rate is not None:
            self._balance = min(self._balance + (now - self._at) * self._rate, self._rate * self._burst_s)
        self._at = now


class Throttle:
    """The run's limits as one worker's share of them.

    documents_per_second, megabytes_per_second  limits of the whole run (a megabyte is 10**6 bytes); None: no limit
    """

    def __init__(
        self,
        documents_per_second: float | None,
        megabytes_per_second: float | None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._documents_per_second, self._megabytes_per_second = documents_per_second, megabytes_per_second
        self._documents = TokenBucket(documents_per_second, clock=clock)
        self._bytes = TokenBucket(None if megabytes_per_second is None else megabytes_per_second * 1e6, clock=clock)
        self.share = 1.0

    def set_share(self, held: int, of: int) -> None:
        """This worker holds `held` of the `of` partitions that carry work."""
        if held <= 0 or of <= 0:
            return  # it holds nothing, so nothing is drawn either
        self.share = min(1.0, held / of)
        self._divide()

    def set_limits(self, documents_per_second: float | None, megabytes_per_second: float | None) -> None:
        """From now on these are the run's limits."""
        self._documents_per_second, self._megabytes_per_second = documents_per_second, megabytes_per_second
        self._divide()

    def _divide(self) -> None:
        documents, megabytes = self._documents_per_second, self._megabytes_per_second
        self._documents.set_rate(None if documents is None else documents * self.share)
        self._bytes.set_rate(None if megabytes is None else megabytes * 1e6 * self.share)

    @property
    def documents_per_second(self) -> float | None:
        """This worker's share."""
        return None if self._documents_per_second is None else self._documents_per_second * self.share

    def take(self, documents: int, size: int) -> None:
        self._documents.take(documents)
        self._bytes.take(size)

    def wait_s(self) -> float:
        return max(self._documents.wait_s(), self._bytes.wait_s())
