"""What a step took: time, processor time and memory of the processes that did it."""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Measured:
    """A step. cpu_s is user and system time of our processes while it ran; None where the server did the work.
    peak_rss holds each process's largest resident memory, in bytes, from its start on."""

    documents: int
    seconds: float
    cpu_s: float | None
    peak_rss: tuple[int, ...] = ()

    @property
    def rate(self) -> float:
        """Documents a second."""
        return self.documents / self.seconds

    @property
    def cpu_us(self) -> float | None:
        """Microseconds for each document."""
        return None if self.cpu_s is None else self.cpu_s / self.documents * 1e6


class Stopwatch:
    """Time and processor time of the processes `pids` from now on; of this process when there are none."""

    def __init__(self, pids: Sequence[int] = ()) -> None:
        self._processes = [psutil.Process(pid) for pid in pids] or [psutil.Process()]
        self._cpu = self._cpu_now()
        self._started = time.monotonic()

    def stop(self, documents: int) -> Measured:
        seconds = time.monotonic() - self._started
        return Measured(
            documents, seconds, self._cpu_now() - self._cpu, tuple(peak_rss(p.pid) for p in self._processes)
        )

    def _cpu_now(self) -> float:
        times = [process.cpu_times() for process in self._processes]
        return sum(t.user + t.system for t in times)


def peak_rss(pid: int) -> int:
    """The largest resident memory that the process has had, in bytes (VmHWM where there is /proc)."""
    status = Path(f"/proc/{pid}/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if pid == psutil.Process().pid:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return int(psutil.Process(pid).memory_info().rss)


@dataclass(frozen=True, slots=True)
class Figure:
    """A step over all rounds: medians. `share` is relative to the step's reference (its ceiling, mostly)."""

    share: float
    docs_per_second: float
    cpu_us_per_document: float | None
    peak_rss_mib: float | None

    @classmethod
    def of(cls, steps: Sequence[Measured], references: Sequence[float]) -> Figure:
        cpu = [step.cpu_us for step in steps if step.cpu_us is not None]
        rss = [max(step.peak_rss) / MIB for step in steps if step.peak_rss]
        return cls(
            round(median(step.rate / reference for step, reference in zip(steps, references, strict=True)), 3),
            round(median(step.rate for step in steps)),
            round(median(cpu), 1) if cpu else None,
            round(median(rss)) if rss else None,
        )
