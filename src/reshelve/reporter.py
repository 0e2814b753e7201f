"""What a worker says of itself while it works: counters, and why it waits or stopped."""

from __future__ import annotations

import json
import logging
import sys
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from threading import Event, Lock
from typing import Final

from confluent_kafka import KafkaException

from reshelve.errors import ReshelveError
from reshelve.kafka import KafkaCluster
from reshelve.model import RunId
from reshelve.redaction import redact
from reshelve.schemas.codec import COUNTERS

_INTERVAL_S: Final = 1.0
_log = logging.getLogger(__name__)


class Backoff:
    """Waits that double from `first` to `longest` seconds until `reset`."""

    def __init__(self, first: float = 0.1, longest: float = 5.0) -> None:
        self._first, self._longest = first, longest
        self._next = first

    def next_s(self) -> float:
        wait = self._next
        self._next = min(self._next * 2, self._longest)
        return wait

    def reset(self) -> None:
        self._next = self._first


class Durations:
    """How long requests took: how many of them up to each bound, in seconds. Not thread-safe."""

    BOUNDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

    def __init__(self) -> None:
        self.counts = [0] * (len(self.BOUNDS) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(self.BOUNDS, seconds)] += 1
        self.sum += seconds


class Reporter:
    """Sends a worker's counters to `progress`, at most once a second. Thread-safe.

    Losing a report loses nothing: nobody decides anything by it."""

    def __init__(
        self,
        cluster: KafkaCluster,
        run: RunId,
        role: str,
        worker: str,
        *,
        stop: Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.role, self.worker, self.stop = role, worker, stop
        self._topic = run.topic("progress")
        self._producer = cluster.producer({"queue.buffering.max.messages": 1000, "message.timeout.ms": 10000})
        self._counts: Counter[str] = Counter()
        self._waiting = self._blocked = ""
        self.paused = False
        self.limit: float | None = None
        self.durations = Durations()
        self._clock, self._sent = clock, 0.0
        self._lock = Lock()

    def count(self, name: str, amount: int = 1) -> None:
        with self._lock:
            self._counts[name] += amount
        self.send()

    def gauge(self, name: str, value: int) -> None:
        """A number that goes up and down: the newest counts."""
        with self._lock:
            self._counts[name] = value
        self.send()

    def answered(self, seconds: float, *, busy: bool) -> None:
        """A request was answered, or not; `busy`: as too many."""
        with self._lock:
            self.durations.observe(seconds)
            self._counts["requests"] += 1
            self._counts["request_ms"] += round(seconds * 1000)
            self._counts["busy"] += busy
        self.send()

    def waiting(self, reason: str) -> None:
        """Say why nothing goes on; an empty reason says that it goes on again."""
        reason = redact(reason)
        with self._lock:
            changed, self._waiting = reason != self._waiting, reason
        if changed:
            self.say(reason or "going on")
        self.send(force=changed)

    def say(self, text: str) -> None:
        """A line for the worker's log."""
        print(f"{self.role} {self.worker}: {redact(text)}", file=sys.stderr, flush=True)  # noqa: T201

    @property
    def reason(self) -> str:
        """Why it waits now; empty when it does not."""
        return self._waiting

    @property
    def counts(self) -> dict[str, int]:
        """What was counted so far."""
        with self._lock:
            return dict(self._counts)

    def pause(self, reason: str, seconds: float) -> bool:
        """Wait with a reason; True when the worker was told to stop meanwhile."""
        self.waiting(reason)
        return self.stop.wait(seconds)

    def blocked(self, error: ReshelveError) -> None:
        """Say what stopped the worker, and see that it arrives."""
        self._blocked = json.dumps(error.as_dict())
        self.send(force=True)
        self._producer.flush(5)

    def send(self, *, force: bool = False) -> None:
        with self._lock:
            now = self._clock()
            if not force and now - self._sent < _INTERVAL_S:
                return
            self._sent = now
            record = {
                "role": self.role,
                "worker": self.worker,
                "at": int(time.time() * 1000),
                "counts": dict(self._counts),
                "waiting": self._waiting,
                "blocked": self._blocked,
            }
        try:
            self._producer.produce(self._topic, COUNTERS.encode(record), key=f"{self.role}/{self.worker}")
            self._producer.poll(0)
        except (BufferError, KafkaException) as error:
            _log.debug("report not sent: %s", error)

    def close(self) -> None:
        self.send(force=True)
        self._producer.flush(5)
