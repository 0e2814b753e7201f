"""A worker's figures for Prometheus: what it has counted since it started."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Final, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from reshelve.reporter import Durations
from reshelve.scraped import ServedCollector

_LABELS: Final = ("run", "role", "worker")
_COUNTERS: Final = {
    "documents": ("documents_read", "Documents read from the source."),
    "bytes": ("bytes_read", "Bytes of JSON of the documents read."),
    "tombstones": ("tombstones", "Keys read whose document is gone."),
    "keys": ("keys_read", "Keys read again because of a change."),
    "transactions": ("transactions", "Transactions of the source that were passed."),
    "changes": ("changes", "Changes of rows that were passed."),
    "key_tasks": ("key_tasks", "Key tasks written."),
    "indexed": ("documents_indexed", "Documents and tombstones that the index took."),
    "superseded": ("documents_superseded", "Documents that the index had in a newer version."),
    "rejected": ("documents_rejected", "Documents that became rejects."),
    "requests": ("bulk_requests", "Bulk requests sent."),
    "busy": ("bulk_requests_busy", "Bulk requests answered with 429, as a whole or in part."),
    "retries": ("retries", "Bulk requests sent again."),
    "checks": ("checks", "Check tasks done."),
}

ROLES: Final = {
    "pages": ("documents", "bytes", "rejected"),
    "tailer": ("transactions", "changes", "key_tasks"),
    "keys": ("keys", "documents", "tombstones", "rejected"),
    "indexer": ("indexed", "superseded", "rejected", "requests", "busy", "retries"),
    "validator": ("checks",),
}


class Figures(Protocol):
    """What a worker tells of itself, as the Reporter does."""

    paused: bool
    limit: float | None
    durations: Durations

    @property
    def counts(self) -> Mapping[str, int]: ...
    @property
    def reason(self) -> str: ...


class WorkerMetrics(ServedCollector):
    """The figures of one worker: those that its role has, from 0 on."""

    def __init__(self, run: str, role: str, worker: str, figures: Figures, host: str, port: int) -> None:
        self._labels, self._figures, self._counted = (run, role, worker), figures, ROLES[role]
        super().__init__(host, port)

    def collect(self) -> Iterator[Metric]:
        """What a scrape gets; called in the server's thread."""
        figures, counts = self._figures, self._figures.counts
        for name in self._counted:
            metric, what = _COUNTERS[name]
            family = CounterMetricFamily(f"reshelve_worker_{metric}", what, labels=_LABELS)
            family.add_metric(self._labels, counts.get(name, 0))
            yield family
        yield self._gauge("paused", "1 while it takes no work because the run is paused.", float(figures.paused))
        yield self._gauge("waiting", "1 while it waits for a server; its log says why.", float(bool(figures.reason)))
        if figures.limit is not None:
            what = "Its share of the run's limit, in documents a second."
            yield self._gauge("limit_documents_per_second", what, figures.limit)
        if "requests" in self._counted:
            yield self._durations()

    def _gauge(self, name: str, what: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"reshelve_worker_{name}", what, labels=_LABELS)
        family.add_metric(self._labels, value)
        return family

    def _durations(self) -> Metric:
        seen = self._figures.durations
        bounds = [*map(str, seen.BOUNDS), "+Inf"]
        family = HistogramMetricFamily(
            "reshelve_worker_bulk_duration_seconds", "How long bulk requests took.", labels=_LABELS
        )
        family.add_metric(self._labels, list(zip(bounds, accumulate(seen.counts), strict=True)), seen.sum)
        return family
