"""What a run's servers say about their load, looked at by a thread of the driver's: a slow answer delays nobody."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psycopg
import urllib3
from opensearchpy import OpenSearch
from opensearchpy.exceptions import OpenSearchException

from reshelve.consumers.opensearch import connect
from reshelve.context import RunContext
from reshelve.errors import ReshelveError
from reshelve.producers.source import source_session
from reshelve.spec.throttle import AdaptiveThrottle, public_url

LOOK_EVERY_S: Final = 2.0
_TIMEOUT_S: Final = 5.0
_HEAP_LOOKS: Final = 5
_OF_NODES: Final = frozenset({"rejections", "heap", "write_queue", "cpu"})
_OF_SOURCE: Final = frozenset({"source_sessions", "replication_lag"})
_NODES: Final = "nodes.*.thread_pool.write,nodes.*.jvm.mem.heap_used_percent,nodes.*.os.cpu.percent"
_SOURCE: Final = """
    select (select count(*) from pg_stat_activity
             where state = 'active' and backend_type = 'client backend' and application_name not like 'reshelve %'),
           (select coalesce(max(extract(epoch from replay_lag)), 0)::float8 from pg_stat_replication
             where application_name not like 'reshelve %')
"""


@dataclass(frozen=True, slots=True)
class Sample:
    """One look.

    at        monotonic seconds
    values    of each signal that could be looked at
    stop      why the run has to stop; empty: it need not
    troubles  what could not be looked at, and why
    """

    at: float
    values: Mapping[str, float] = field(default_factory=dict)
    stop: str = ""
    troubles: tuple[str, ...] = ()


class Nodes:
    """The target's nodes, from one look to the next. Pure."""

    def __init__(self) -> None:
        self._rejected: dict[str, int] = {}
        self._heap: dict[str, deque[float]] = {}
        self._at = 0.0

    def take(self, stats: Mapping[str, Any], now: float) -> dict[str, float]:
        """The signals in an answer to `_nodes/stats`."""
        nodes: Mapping[str, Any] = stats.get("nodes", {})
        found: dict[str, list[float]] = {"heap": [], "write_queue": [], "cpu": []}
        rejections, known = 0, False
        for name, node in nodes.items():
            heap = node.get("jvm", {}).get("mem", {}).get("heap_used_percent")
            if heap is not None:
                looks = self._heap.setdefault(name, deque(maxlen=_HEAP_LOOKS))
                looks.append(float(heap))
                found["heap"].append(min(looks))
            if (cpu := node.get("os", {}).get("cpu", {}).get("percent")) is not None and cpu >= 0:
                found["cpu"].append(float(cpu))
            pool = node.get("thread_pool", {}).get("write")
            if pool is not None:
                found["write_queue"].append(float(pool["queue"]))
                before, self._rejected[name] = self._rejected.get(name), int(pool["rejected"])
                if before is not None:  # a node that has started anew counts from 0
                    rejections, known = rejections + max(0, self._rejected[name] - before), True
        values = {name: max(numbers) for name, numbers in found.items() if numbers}
        if known and now > self._at:
            values["rejections"] = rejections / (now - self._at)
        self._at = now
        return values


class SignalWatch:
    """Looks every two seconds, from `start` to `close`."""

    def __init__(self, context: RunContext, settings: AdaptiveThrottle) -> None:
        self._context, self._settings = context, settings
        self._wanted = frozenset(settings.bands)
        self._nodes = Nodes()
        self._client: OpenSearch | None = None
        self._http = urllib3.PoolManager(retries=False, timeout=_TIMEOUT_S)
        self._unanswered = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="signals")
        self.newest = Sample(time.monotonic(), stop=self._stop_signal())

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(2 * _TIMEOUT_S)

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_EVERY_S):
            self.newest = self.look()

    def look(self) -> Sample:
        """One look at everything that is asked for."""
        values: dict[str, float] = {}
        troubles: list[str] = []
        if self._wanted & _OF_NODES:
            values |= self._tried(self._look_at_nodes, troubles)
        if self._wanted & _OF_SOURCE:
            values |= self._tried(self._look_at_source, troubles)
        wanted = {name: value for name, value in values.items() if name in self._wanted}
        return Sample(time.monotonic(), wanted, self._stop_signal(), tuple(troubles))

    def _tried(self, look: Callable[[], dict[str, float]], troubles: list[str]) -> dict[str, float]:
        try:
            return look()
        except (OpenSearchException, psycopg.Error, ReshelveError) as error:
            troubles.append(" ".join(str(error).split())[:200])
            return {}

    def _look_at_nodes(self) -> dict[str, float]:
        if self._client is None:
            self._client = connect(self._context.spec.target.opensearch, connections=1, timeout=_TIMEOUT_S)
        stats = self._client.nodes.stats(metric="thread_pool,jvm,os", params={"filter_path": _NODES})
        return self._nodes.take(stats, time.monotonic())

    def _look_at_source(self) -> dict[str, float]:
        with source_session(self._context.spec.source.postgres.url, "reshelve signals") as connection:
            row = connection.execute(_SOURCE).fetchone()
        assert row is not None
        return {"source_sessions": float(row[0]), "replication_lag": float(row[1])}

    def _stop_signal(self) -> str:
        settings = self._settings
        if settings.stop_file is not None and (Path(self._context.spec.folder) / settings.stop_file).exists():
            return f"file {settings.stop_file} is there"
        return "" if settings.stop_url is None else self._asked(settings.stop_url)

    def _asked(self, url: str) -> str:
        """One answer that is lost stops nothing; the second in a row does: who can't say that all is well, says no."""
        shown = public_url(url)
        try:
            status = self._http.request("GET", url, redirect=False).status
        except urllib3.exceptions.HTTPError:
            self._unanswered += 1
            return f"{shown} does not answer" if self._unanswered > 1 else ""
        self._unanswered = 0
        return "" if 200 <= status < 300 else f"{shown} answers {status}"
