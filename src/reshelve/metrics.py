"""A run's figures for Prometheus: the same `Progress` that the terminal and the journal show, as it was last seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric

from reshelve.plan import Plan
from reshelve.progress import Progress
from reshelve.scraped import ServedCollector, gauge


class Metrics(ServedCollector):
    """The figures of a run.

    Everything is a gauge: a run that goes on in another process goes on from its figures, not from zero."""

    def __init__(self, plan: Plan, host: str, port: int) -> None:
        self._plan, self._stage = plan, ""
        self._progress: Progress | None = None
        super().__init__(host, port)

    def stage(self, name: str) -> None:
        self._stage = name

    def progress(self, stage: str, progress: Progress) -> None:
        self._stage, self._progress = stage, progress

    def collect(self) -> Iterator[Metric]:
        """What a scrape gets; called in the server's thread."""
        plan, progress = self._plan, self._progress
        yield InfoMetricFamily(
            "reshelve_run",
            "The run, and the stage that it is in.",
            value={"run": plan.run, "index": plan.index, "alias": plan.alias, "stage": self._stage},
        )
        yield gauge("reshelve_documents_expected", "Documents of the source, estimated.", plan.estimated_documents)
        if progress is not None:
            yield from _copy(progress)
            yield from _held_back(progress)
            if progress.followed:
                yield from _changes(progress)
                limit = plan.spec["limits"]["max_wal_retained"]
                yield gauge("reshelve_wal_limit_bytes", "WAL past which the run gives its slot up.", limit)


def _copy(progress: Progress) -> Iterator[Metric]:
    tiling = progress.tiling
    yield gauge("reshelve_documents_read", "Documents of the copy, by its receipts.", tiling.documents)
    yield gauge("reshelve_documents_indexed", "Documents of the copy durably indexed, estimated.", progress.indexed)
    yield gauge("reshelve_segments", "Segments of the plan.", tiling.segments)
    yield gauge("reshelve_segments_covered", "Segments that receipts cover to their end.", tiling.segments_done)
    yield gauge("reshelve_rejects", "Documents rejected: distinct keys.", progress.rejects)
    yield gauge("reshelve_waiting", "Reasons for which somebody waits; the run's output names them.",
                 len(progress.waiting))  # fmt: skip
    lag = GaugeMetricFamily("reshelve_lag_offsets", "Offsets of a topic not passed yet.", labels=["topic"])
    lag.add_metric(["documents"], progress.lag)
    if progress.change_lag is not None:
        lag.add_metric(["changes"], progress.change_lag)
    yield lag
    workers = GaugeMetricFamily("reshelve_workers", "Workers that have reported lately.", labels=["role"])
    for role, number in sorted(Counter(str(report["role"]) for report in progress.workers).items()):
        workers.add_metric([role], number)
    yield workers


def _held_back(progress: Progress) -> Iterator[Metric]:
    yield gauge("reshelve_paused", "1 while the run takes no work: told so, window closed, or stop signal.",
                 float(progress.pause is not None))  # fmt: skip
    bounds = progress.bounds
    if bounds is not None and bounds.documents_per_second is not None:
        yield gauge("reshelve_limit_documents_per_second", "Documents a second that the run may do at most now.",
                     bounds.documents_per_second)  # fmt: skip
    if bounds is not None and bounds.megabytes_per_second is not None:
        yield gauge("reshelve_limit_bytes_per_second", "Bytes a second that the run may do at most now.",
                     bounds.megabytes_per_second * 1e6)  # fmt: skip

    signals = GaugeMetricFamily(
        "reshelve_throttle_signal", "What the adaptive throttle looks at, as it was last.", labels=["signal"]
    )
    for name, value in progress.signals.items():
        signals.add_metric([name], value)
    yield signals


def _changes(progress: Progress) -> Iterator[Metric]:
    if progress.seconds_behind is not None:
        yield gauge("reshelve_seconds_behind", "How old a change may be that is not indexed.", progress.seconds_behind)
    if "wal_retained" in progress.tailer:
        yield gauge("reshelve_wal_retained_bytes", "WAL that the source keeps for the slot.",
                     progress.tailer["wal_retained"])  # fmt: skip
    clock = GaugeMetricFamily(
        "reshelve_applied_clock", "Version up to whose clock every change is indexed.", labels=["partition"]
    )
    at = GaugeMetricFamily(
        "reshelve_applied_timestamp_seconds", "When the applied clock was taken, since 1970 UTC.", labels=["partition"]
    )
    for partition, applied in sorted(progress.applied.items()):
        if applied is not None:
            clock.add_metric([str(partition)], applied.version)  # below 2**53: exact as a double
            at.add_metric([str(partition)], applied.at / 1000)
    yield clock
    yield at
