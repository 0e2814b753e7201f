"""Live changes: how soon a change is indexed, how many a second are applied, and what they cost the copy.

Tailer, key reader and indexer are one process each, as an operator starts them. The load is pgbench. A change is
indexed when OpenSearch has acknowledged the bulk request that brings it, which a proxy between indexer and OpenSearch
sees; it was made at the wall time that its row carries, taken just before its commit, by the clock of the same machine.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import psycopg
from opensearchpy.helpers import scan

from bench.dataset import KEY, TABLE
from bench.load import Done, Load
from bench.measure import MIB, peak_rss
from bench.pipeline import PARTITIONS, BenchRun
from bench.tap import Indexed, Tap
from reshelve.applied import Applied, oldest
from reshelve.live import LiveChanges

ROLES = ("tailer", "keys", "indexer")
RATES = (100, 1_000, 5_000)
MEANWHILE = 1_000  # changes a second beside the copy
HOT_KEYS = 1_000
_UPDATED = b'"updated_at":"'


@dataclass(frozen=True, slots=True)
class Followed:
    """Changes that were followed to the index.

    offered   changes a second that pgbench was to make; None: as many as it could
    made      changes a second that it made
    applied   changes a second from the first to the applied clock that has passed the last
    indexed   documents that were written for them: repeated changes of a key are one
    p50, p99  seconds from commit to indexed
    cpu_us    of each role for a change, while they were applied
    load      average of the machine, of the minute before the end
    """

    title: str
    offered: int | None
    changes: int
    made: float
    applied: float
    indexed: int
    p50: float
    p99: float
    longest: float
    cpu_us: Mapping[str, float]
    load: float


@dataclass(frozen=True, slots=True)
class Copy:
    """The initial copy in documents a second: to the topic, and to the index."""

    to_topic: float
    to_index: float
    load: float


class LiveRun(BenchRun):
    """A run whose changes are followed."""

    def __init__(self, folder: Path, documents: int, environ: Mapping[str, str] | None = None) -> None:
        super().__init__(folder, documents, environ)
        self._live = LiveChanges(self.context, self._state, self._record, lambda _: None)
        self._live.begin()

    @contextmanager
    def followed(self) -> Iterator[dict[str, int]]:
        """Tailer, key reader and indexer at work; their process ids by role."""
        with self._workers(*ROLES) as pids:
            yield dict(zip(ROLES, pids, strict=True))

    def copy(self) -> Copy:
        """By one page reader; the rest of the pipeline is there already."""
        with self._workers("pages") as pids:
            return self._copy(pids)

    def copy_alone(self) -> Copy:
        """The same without anybody who follows changes."""
        with self._workers("pages", "indexer") as pids:
            return self._copy(pids)

    def _copy(self, pids: Sequence[int]) -> Copy:
        stopwatch = self._seed(pids)
        self._await_receipts()
        to_topic = stopwatch.stop(self.documents).rate
        self._await_drained()
        return Copy(to_topic, stopwatch.stop(self.documents).rate, os.getloadavg()[0])

    def await_applied(self) -> None:
        """Until the applied clock has passed everything that is committed now."""
        version, topic = self._live.version_now(), self.context.run.topic("documents")
        group = self.context.run.group("indexer")

        def applied() -> bool:
            places = self.context.cluster.committed_places(group, topic, PARTITIONS)
            clock = oldest(Applied.decode(place.metadata) for place in places.values())
            return clock is not None and clock.version >= version

        self._wait(applied)

    def verify(self) -> None:
        """Every document is that of the row as it is now, by the time of its update."""
        client, index = self.context.opensearch, self.index
        client.indices.refresh(index=index)
        query = {"_source": ["updated_at"]}
        found = {int(hit["_id"]): hit["_source"]["updated_at"] for hit in scan(client, query, index=index, size=5_000)}
        with psycopg.connect(os.environ["SOURCE_URL"], options="-c TimeZone=UTC") as connection:
            rows = connection.execute(f"select {KEY}, row_to_json(q)->>'updated_at' from {TABLE} q").fetchall()
        wrong = sum(found.pop(key, None) != updated for key, updated in rows)
        if wrong or found:
            raise SystemExit(f"{index}: {wrong} documents differ from their rows, {len(found)} have none")

    def _assigned(self, role: str) -> bool:
        if role != "tailer":
            return super()._assigned(role)
        slot = self._live.slot()
        return slot is not None and slot.active_pid is not None

    def _record(self, kind: str, facts: dict[str, Any]) -> None:
        self._state.take(self._journal.append(kind, facts))


class LiveBench:
    """The measurements, one after the other."""

    def __init__(self, documents: int, folder: Path, say: Callable[[str], None]) -> None:
        self._documents, self._folder, self._say = documents, folder, say
        self._load = Load(os.environ["SOURCE_URL"], folder)
        self.copies: dict[str, list[Copy]] = {"alone": [], "meanwhile": []}
        self.followed: list[Followed] = []
        self.idle: dict[str, float] = {}
        self.peaks: dict[str, float] = {}

    def copy(self) -> None:
        """The initial copy without changes, and with them."""
        for name in self.copies:
            with self._run() as run:
                if name == "alone":
                    copy = run.copy_alone()
                else:
                    with run.followed(), self._load.meanwhile(MEANWHILE, self._documents):
                        copy = run.copy()
            self.copies[name].append(copy)
            self._say(f"copy {name}: {copy.to_topic:,.0f}/s to the topic, {copy.to_index:,.0f}/s to the index")

    def follow(self, seconds: float, burst: int) -> None:
        """Changes at each rate for so many seconds; then so many as fast as they are made."""
        documents, load = self._documents, self._load
        with Tap.running(os.environ["OPENSEARCH_URL"], self._folder / "tap") as tap, \
                self._run({"OPENSEARCH_URL": tap.url}) as run, run.followed() as pids:  # fmt: skip
            run.copy()
            run.await_applied()
            load.at_rate(MEANWHILE, 5, documents)  # nobody counts: code is compiled as it runs
            run.await_applied()
            self._rest(pids)
            for rate in RATES:
                self._take(f"{rate:,}/s", rate, tap, run, pids, partial(load.at_rate, rate, seconds, documents))
            self._take("burst, distinct keys", None, tap, run, pids, partial(load.distinct, min(burst, documents)))
            self._take(f"burst, {HOT_KEYS:,} keys", None, tap, run, pids, partial(load.hot, burst, HOT_KEYS))
            run.verify()
            self.peaks = {role: peak_rss(pid) / MIB for role, pid in pids.items()}

    def _rest(self, pids: Mapping[str, int]) -> None:
        """What following costs while nothing changes."""
        before, started = _cpu(pids), time.monotonic()
        time.sleep(5)
        self.idle = {role: s / (time.monotonic() - started) for role, s in _since(before, pids).items()}

    def _take(
        self, title: str, offered: int | None, tap: Tap, run: LiveRun, pids: Mapping[str, int], make: Callable[[], Done]
    ) -> None:
        place, cpu, started = tap.place(), _cpu(pids), time.monotonic()
        done = make()
        run.await_applied()
        seconds, load = time.monotonic() - started, os.getloadavg()[0]
        cpu_us = {role: s / done.changes * 1e6 for role, s in _since(cpu, pids).items()}
        latencies = sorted(map(_latency, tap.since(place)))
        followed = Followed(
            title, offered, done.changes, done.rate, done.changes / seconds, len(latencies),
            _quantile(latencies, 0.5), _quantile(latencies, 0.99), latencies[-1], cpu_us, load,
        )  # fmt: skip
        self.followed.append(followed)
        self._say(row(followed))

    @contextmanager
    def _run(self, environ: Mapping[str, str] | None = None) -> Iterator[LiveRun]:
        run = LiveRun(self._folder, self._documents, environ)
        try:
            yield run
        finally:
            run.remove()

    def table(self) -> str:
        """What was measured."""
        lines = [
            f"{'':24}{'made/s':>8}{'applied/s':>11}{'p50 s':>8}{'p99 s':>8}{'max s':>8}{'documents':>11}"
            f"{'CPU µs a change: tailer, keys, indexer':>42}{'load':>6}"
        ]
        lines += map(row, self.followed)
        if self.followed:
            idle = ", ".join(f"{role} {100 * share:.1f} %" for role, share in self.idle.items())
            rss = ", ".join(f"{role} {peak:.0f} MiB" for role, peak in self.peaks.items())
            lines += ["", f"while nothing changes, of a core: {idle}", f"peak RSS: {rss}"]
        if self.copies["alone"]:
            lines += ["", f"the copy alone and with {MEANWHILE:,} changes/s meanwhile, documents/s:"]
            for title, of in _COPY_FIGURES:
                rates = [[of(copy) for copy in copies] for copies in self.copies.values()]
                ratios = [meanwhile / alone for alone, meanwhile in zip(*rates, strict=True)]
                each = "; ".join(f"{a:,.0f} and {m:,.0f}" for a, m in zip(*rates, strict=True))
                lines.append(f"  {title:14}{each}: ratio {median(ratios):.2f}")
        return "\n".join(lines)

    def write(self, file: Path) -> None:
        """The same facts for scripts."""
        facts = {
            "documents": self._documents,
            "copies": {name: [asdict(copy) for copy in copies] for name, copies in self.copies.items()},
            "followed": [asdict(followed) for followed in self.followed],
            "idle_cores": self.idle,
            "peak_rss_mib": self.peaks,
            "processors": os.cpu_count(),
        }
        file.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n")


_COPY_FIGURES: tuple[tuple[str, Callable[[Copy], float]], ...] = (
    ("to the topic", lambda copy: copy.to_topic),
    ("to the index", lambda copy: copy.to_index),
)


def row(followed: Followed) -> str:
    cpu = ", ".join(f"{followed.cpu_us[role]:.0f}" for role in ROLES)
    return (
        f"{followed.title:24}{followed.made:>8,.0f}{followed.applied:>11,.0f}{followed.p50:>8.3f}{followed.p99:>8.3f}"
        f"{followed.longest:>8.3f}{followed.indexed:>11,}{cpu:>42}{followed.load:>6.1f}"
    )


def _latency(indexed: Indexed) -> float:
    begin = indexed.document.index(_UPDATED) + len(_UPDATED)
    end = indexed.document.index(b'"', begin)
    return indexed.at - datetime.fromisoformat(indexed.document[begin:end].decode()).timestamp()


def _quantile(values: Sequence[float], share: float) -> float:
    """Nearest rank; `values` in order."""
    return values[min(len(values) - 1, int(share * len(values)))]


def _cpu(pids: Mapping[str, int]) -> dict[str, float]:
    times = {role: psutil.Process(pid).cpu_times() for role, pid in pids.items()}
    return {role: t.user + t.system for role, t in times.items()}


def _since(before: Mapping[str, float], pids: Mapping[str, int]) -> dict[str, float]:
    return {role: seconds - before[role] for role, seconds in _cpu(pids).items()}
