"""The work of a replay: indexers in threads of this process, each with partitions of its own, and how far they are."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final

from confluent_kafka import KafkaException

from reshelve.consumers.bulk import BulkWriter
from reshelve.consumers.indexer import Indexer
from reshelve.consumers.opensearch import connect
from reshelve.consumers.replay import Stretch, Wants
from reshelve.context import RunContext
from reshelve.errors import AccessRefused, BlockedError
from reshelve.kafka import refusal
from reshelve.rates import Rate, RateMeter
from reshelve.reporter import Reporter
from reshelve.throttle import Throttle
from reshelve.worker import default_name, require_generation, spare_the_collector

_TICK_S: Final = 0.2
_LOOK_S: Final = 1.0
_LOOK_TIMEOUT_S: Final = 5.0  # brokers that are away must not keep a Ctrl-C waiting


@dataclass(frozen=True, slots=True)
class WorkOptions:
    """indexers              threads
    documents_per_second  of all together; None: what the run's limits say"""

    indexers: int = 1
    documents_per_second: float | None = None


@dataclass(frozen=True, slots=True)
class ReplayProgress:
    """A picture of a replay at one moment.

    done, total  offsets that are durably passed, of those from beginnings to ends; the markers of transactions and
                 what compaction has removed count, too
    counts       of this process: documents and tombstones indexed, superseded, rejected
    """

    stage: str
    done: int
    total: int
    counts: Mapping[str, int] = field(default_factory=dict)
    rate: Rate = field(default_factory=lambda: Rate(None, None))
    waiting: tuple[str, ...] = ()

    def eta_s(self) -> tuple[float, float] | None:
        """Seconds that are left, as a range; None while there is no rate to go by."""
        rates = [rate for rate in (self.rate.minute, self.rate.ten_minutes) if rate]
        if not rates:
            return None
        left = max(0, self.total - self.done)
        return left / max(rates), left / min(rates) * 1.2

    def as_dict(self) -> dict[str, Any]:
        return {
            "stage": self.stage,
            "done": self.done,
            "total": self.total,
            "indexed": self.counts.get("indexed", 0),
            "superseded": self.counts.get("superseded", 0),
            "rejected": self.counts.get("rejected", 0),
            "per_second": self.rate.minute,
            "eta_seconds": self.eta_s(),
            "waiting": list(self.waiting),
        }


def shares(starts: Mapping[int, int], workers: int) -> list[dict[int, int]]:
    """The partitions dealt out to so many workers; those that would have none are left out. Pure."""
    dealt: list[dict[int, int]] = [{} for _ in range(workers)]
    for number, partition in enumerate(sorted(starts)):
        dealt[number % workers][partition] = starts[partition]
    return [share for share in dealt if share]


class ReplayWork:
    """Indexes stretches of the run's `documents` into one index.

    uuid    of that index: one of the same name is not written to
    group   keeps how far it is
    tick    called several times a second
    """

    def __init__(
        self,
        context: RunContext,
        index: str,
        write_alias: str,
        uuid: str,
        group: str,
        options: WorkOptions,
        stop: threading.Event,
        tick: Callable[[ReplayProgress], None],
    ) -> None:
        self._context, self._index, self._alias, self._uuid, self._group = context, index, write_alias, uuid, group
        self._options, self._stop, self._tick = options, stop, tick
        self._topic = context.run.topic("documents")
        self._before: Counter[str] = Counter()
        self._reporters: list[Reporter] = []

    @property
    def counts(self) -> Mapping[str, int]:
        """What all indexers of this process have counted."""
        total = Counter(self._before)
        for reporter in self._reporters:
            total.update(reporter.counts)
        return total

    def apply(self, stage: str, starts: Mapping[int, int], ends: Mapping[int, int], wants: Wants | None) -> None:
        """Index from the starts, or from what was committed since, to the ends; returns earlier when told to stop.

        Raises the ReshelveError of an indexer that can't go on."""
        position = self._positions(starts)
        left = {p: offset for p, offset in position.items() if offset < ends[p]}
        if not left:
            return
        stretches = [
            Stretch(self._group, share, {p: ends[p] for p in share}, wants)
            for share in shares(left, self._options.indexers)
        ]
        indexers = [self._indexer(number, stretch, len(left)) for number, stretch in enumerate(stretches)]
        spare_the_collector()
        try:
            self._run(stage, indexers, starts, ends)
        except KafkaException as error:
            raise refusal(error, "the replay can't go on", self._context.cluster.bootstrap) from None
        finally:
            for reporter in self._reporters:
                reporter.close()
                self._before.update(reporter.counts)
            self._reporters.clear()

    def _run(self, stage: str, indexers: list[Indexer], starts: Mapping[int, int], ends: Mapping[int, int]) -> None:
        watch = _Watch(stage, starts, ends)
        pool = ThreadPoolExecutor(len(indexers), thread_name_prefix="replay")
        try:
            working = {pool.submit(indexer.work) for indexer in indexers}
            while working:
                done, working = wait(working, _TICK_S, FIRST_COMPLETED)
                for ended in done:
                    ended.result()
                if self._stop.is_set():
                    self._stop_all()
                if watch.is_due or not working:
                    self._look(watch)
                self._tick(watch.picture(self.counts, [one.reason for one in self._reporters if one.reason]))
        finally:
            self._stop_all()
            pool.shutdown(wait=True)

    def _stop_all(self) -> None:
        for reporter in self._reporters:
            reporter.stop.set()

    def _look(self, watch: _Watch) -> None:
        try:
            watch.see(self._positions(watch.starts, timeout=_LOOK_TIMEOUT_S))
        except AccessRefused:
            raise
        except BlockedError as error:
            watch.trouble = str(error)

    def _positions(self, starts: Mapping[int, int], *, timeout: float = 30.0) -> dict[int, int]:
        """How far each partition is durably indexed."""
        cluster, partitions = self._context.cluster, self._context.partitions
        committed = cluster.committed(self._group, self._topic, partitions, timeout=timeout)
        return {p: max(offset, committed[p] or 0) for p, offset in starts.items()}

    def _indexer(self, number: int, stretch: Stretch, of: int) -> Indexer:
        context, limits = self._context, self._context.spec.limits
        name = f"{default_name()}-{number}"
        # Each has a stop of its own: an indexer that ends sets it.
        reporter = Reporter(context.cluster, context.run, "replay", name, stop=threading.Event())
        self._reporters.append(reporter)
        client = connect(context.spec.target.opensearch, connections=limits.in_flight + 1)
        where = str(context.plan.spec["target"]["opensearch"]["url"])
        per_second = self._options.documents_per_second or limits.documents_per_second
        return Indexer(
            context.cluster,
            context.run,
            BulkWriter(client, self._alias, where, reporter, self._topic),
            name=name,
            partitions=of,
            in_flight=limits.in_flight,
            max_rejects=limits.max_rejects,
            max_document_bytes=context.spec.kafka.max_document_bytes,
            throttle=Throttle(per_second, limits.megabytes_per_second),
            check_generation=lambda: require_generation(client, self._index, self._uuid, where),
            reporter=reporter,
            stretch=stretch,
        )


class _Watch:
    """How far a stretch is."""

    def __init__(self, stage: str, starts: Mapping[int, int], ends: Mapping[int, int]) -> None:
        self.starts, self.trouble = starts, ""
        self._stage, self._ends = stage, ends
        self._total = sum(ends[p] - offset for p, offset in starts.items())
        self._done, self._meter, self._at = 0, RateMeter(), float("-inf")

    @property
    def is_due(self) -> bool:
        return monotonic() - self._at > _LOOK_S

    def see(self, positions: Mapping[int, int]) -> None:
        self._done = sum(min(offset, self._ends[p]) - self.starts[p] for p, offset in positions.items())
        self._meter.add(self._done)
        self.trouble, self._at = "", monotonic()

    def picture(self, counts: Mapping[str, int], reasons: list[str]) -> ReplayProgress:
        waiting = (*reasons, *([self.trouble] if self.trouble else []))
        return ReplayProgress(self._stage, self._done, self._total, counts, self._meter.rate(), waiting)
