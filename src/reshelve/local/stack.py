"""The three servers together: up, status, down."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from reshelve.errors import ReshelveError
from reshelve.local.kafka import KafkaServer
from reshelve.local.lock import exclusive
from reshelve.local.opensearch import OpenSearchServer
from reshelve.local.postgres import PostgresServer
from reshelve.local.server import Report, Server, ServerStatus, remove_tree, silent


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where the servers are. `source_url` holds a password: never print it but where it is asked for."""

    source_url: str
    opensearch_url: str
    kafka_bootstrap: str

    def environ(self) -> dict[str, str]:
        """As the environment variables that specs and tests read."""
        return {
            "SOURCE_URL": self.source_url,
            "OPENSEARCH_URL": self.opensearch_url,
            "KAFKA_BOOTSTRAP": self.kafka_bootstrap,
        }


def default_home() -> Path:
    """$RESHELVE_LOCAL_HOME, or `reshelve/local` in the user's data directory."""
    if given := os.environ.get("RESHELVE_LOCAL_HOME"):
        return Path(given)
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "reshelve" / "local"


class LocalStack:
    """PostgreSQL, Kafka and OpenSearch under one directory.

    home    data, configuration and logs; `down` removes what the stack has put there
    heap    the most heap that OpenSearch takes (-Xmx: 512m, 1g); used when it is started
    report  receives progress, one line at a time, from any thread
    """

    def __init__(self, home: Path, heap: str = "1g", report: Report = silent) -> None:
        self.home = home.absolute()
        self._report = report
        logs = self.home / "logs"
        self.postgres = PostgresServer(self.home / "postgres", log=logs / "postgres.log", report=report)
        self.kafka = KafkaServer(self.home / "kafka", log=logs / "kafka.log", report=report)
        self.opensearch = OpenSearchServer(
            self.home / "opensearch", log=logs / "opensearch.log", report=report, heap=heap
        )

    @property
    def servers(self) -> tuple[Server, ...]:
        return (self.postgres, self.kafka, self.opensearch)

    @property
    def endpoints(self) -> Endpoints:
        """Where the servers are, or will be."""
        return Endpoints(self.postgres.url, self.opensearch.url, self.kafka.address)

    @property
    def started(self) -> bool:
        """Whether the stack has been brought up (and not down since, or with its data kept)."""
        return all(server.directory.exists() for server in self.servers)

    def up(self) -> Endpoints:
        """Start the servers that do not run and wait until all are healthy.

        Raises ReshelveError with the end of the log of a server that could not be started; those
        that this call had started are stopped again then, those that ran before are left alone."""
        with self._lock():
            missing = [server for server in self.servers if not server.alive()]
            try:
                self._bring_up(missing)
            except BaseException:  # Ctrl-C too must not leave half a stack behind
                self._report("stopping what was started")
                for server in missing:
                    server.stop()
                raise
            return self.endpoints

    def _bring_up(self, missing: Sequence[Server]) -> None:
        cancelled = threading.Event()

        def bring_up(server: Server) -> None:
            server.start(cancelled.is_set)
            server.wait_healthy(cancelled=cancelled.is_set)
            if server in missing:
                self._report(f"{server.name}: ready at {server.address}")

        with ThreadPoolExecutor(len(self.servers)) as pool:
            try:
                for done in as_completed([pool.submit(bring_up, server) for server in self.servers]):
                    done.result()
            except BaseException:
                cancelled.set()  # the others end soon, and the pool waits for them
                raise

    def status(self) -> tuple[ServerStatus, ...]:
        """How each server is now."""
        with ThreadPoolExecutor(len(self.servers)) as pool:
            return tuple(pool.map(lambda server: server.status(), self.servers))

    def down(self, keep_data: bool = False) -> None:
        """Stop the servers; remove their data, logs and configuration unless `keep_data`."""
        if not self.home.exists():
            return
        with self._lock():
            with ThreadPoolExecutor(len(self.servers)) as pool:
                list(pool.map(lambda server: server.stop(), self.servers))
            if keep_data:
                return
            for server in self.servers:
                server.remove()
            remove_tree(self.home / "logs")
            (self.home / "lock").unlink(missing_ok=True)
        with suppress(OSError):  # it holds something that is not ours, or another `up` has begun
            self.home.rmdir()

    @contextmanager
    def _lock(self) -> Iterator[None]:
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            lock = exclusive(self.home / "lock", lambda: self._report("waiting for another up or down of this stack"))
        except OSError as error:
            raise ReshelveError(
                "cannot use the directory of the local stack",
                where=str(self.home),
                why=str(error),
                remedy="choose another one with --home",
            ) from error
        with lock:
            yield
