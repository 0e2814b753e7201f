"""The plots of a report: what the checkpoints say over time. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import accumulate, pairwise
from typing import Any, Final

from reshelve.report.parts import Line, Plot
from reshelve.samples import Sample

_GAP: Final = 8.0  # times the usual distance of two samples: nobody was at work between them
_LEAST_GAP_S: Final = 60.0


def plots(samples: Mapping[str, Any], stages: Mapping[str, str]) -> Iterator[Plot]:
    """Throughput, lag, seconds behind, bulk latency and throttle, as far as they are known."""
    found = [Sample(**dict(zip(samples["columns"], row, strict=True))) for row in samples["rows"]]
    if len(found) < 2:
        return
    first, last = found[0].at, found[-1].at
    entered = [(datetime.fromisoformat(at).timestamp() - first, stage) for stage, at in stages.items()]
    marks = tuple((at, stage) for at, stage in entered if 0 <= at <= last - first)
    breaks = _breaks(found)

    def line(name: str, value: Callable[[Sample], float | None]) -> Line:
        points: list[tuple[float, float | None]] = []
        for number, sample in enumerate(found):
            if number in breaks:
                points.append((sample.at - first, None))
            points.append((sample.at - first, value(sample)))
        return Line(name, tuple(points))

    rates = (
        Line("read", _rate(found, breaks, lambda sample: sample.documents)),
        Line("indexed", _rate(found, breaks, lambda sample: sample.indexed)),
    )
    yield Plot("Throughput", "documents/s", rates, marks)
    yield Plot("Lag", "offsets", (line("written, not yet indexed", lambda sample: sample.lag),), marks)
    if any(sample.seconds_behind is not None for sample in found):
        behind = line("oldest change that is not indexed", lambda sample: sample.seconds_behind)
        yield Plot("Seconds behind", "s", (behind,), marks)
    latency = Line("a bulk request takes", tuple(_latency(found)))
    if any(value is not None for _, value in latency.points):
        yield Plot("Bulk latency", "ms", (latency,), marks)
    if any(sample.paused or sample.documents_per_second is not None for sample in found):
        yield Plot("Throttle", "documents/s", (line("limit; 0 is a pause", _limit),), marks)


def _limit(sample: Sample) -> float | None:
    return 0.0 if sample.paused else sample.documents_per_second


def _latency(found: Sequence[Sample]) -> Iterator[tuple[float, float | None]]:
    """Of the requests that ended since the sample before, on average; not known where an indexer began anew."""
    for before, after in pairwise(found):
        requests, spent = after.requests - before.requests, after.request_ms - before.request_ms
        yield after.at - found[0].at, spent / requests if requests > 0 and spent >= 0 else None


def _breaks(found: Sequence[Sample]) -> set[int]:
    """Before which samples nobody was at work."""
    gaps = [after.at - before.at for before, after in pairwise(found)]
    usual = sorted(gaps)[len(gaps) // 2]
    return {number + 1 for number, gap in enumerate(gaps) if gap > max(_LEAST_GAP_S, _GAP * usual)}


def _rate(
    found: Sequence[Sample], breaks: set[int], count: Callable[[Sample], int]
) -> tuple[tuple[float, float | None], ...]:
    """How fast a count grew up to each sample. It goes back where a process has just taken the run over, and does not
    know yet how far that is."""
    highest = list(accumulate(map(count, found), max))
    points: list[tuple[float, float | None]] = []
    for number, (before, after) in enumerate(pairwise(found), 1):
        seconds = after.at - before.at
        known = number not in breaks and seconds > 0
        rate = (highest[number] - highest[number - 1]) / seconds if known else None
        points.append((after.at - found[0].at, rate))
    return tuple(points)
