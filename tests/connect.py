"""A real Debezium connector for PostgreSQL in a Kafka Connect worker of its own, without Docker."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import psycopg
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from reshelve.local.artifacts import classpath
from reshelve.local.java import java_command
from reshelve.local.process import ServerProcess, server_environment

COORDINATES: Final = (
    "io.debezium:debezium-connector-postgres:3.3.1.Final",
    "org.apache.kafka:connect-runtime:4.1.0",
    "org.apache.kafka:connect-json:4.1.0",
    "org.slf4j:slf4j-simple:1.7.36",
)
_START_S: Final = 90.0


class Connector:
    """Captures tables of one database into topics `<name>.<schema>.<table>`; slot and publication are named after it.

    settings  of the connector, adding to ours or replacing them
    schemas   whether JSON records carry their schema
    messages  whether there is a topic for logical messages, by which an idle log is moved on"""

    def __init__(
        self,
        folder: Path,
        database: str,
        bootstrap: str,
        name: str,
        tables: Sequence[str],
        *,
        schemas: bool = True,
        messages: bool = True,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self._folder, self._database, self._bootstrap = name, folder, database, bootstrap
        self._tables, self._schemas, self._messages = tables, schemas, messages
        self._settings = dict(settings or {})
        self._process = ServerProcess(folder / "process.json")
        self._admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def topics(self) -> tuple[str, ...]:
        """Of the tables."""
        return tuple(f"{self.name}.{table}" for table in self._tables)

    @property
    def log(self) -> Path:
        return self._folder / "connect.log"

    def make_topics(self, partitions: int = 2) -> None:
        """All that the connector writes to: the brokers of the tests make none by themselves."""
        topics = [NewTopic(topic, partitions, 1) for topic in self.topics]
        topics.append(NewTopic(f"__debezium-heartbeat.{self.name}", 1, 1))
        if self._messages:
            topics.append(NewTopic(f"{self.name}.message", 1, 1))
        for made in self._admin.create_topics(topics).values():
            made.result()

    def start(self) -> None:
        """Start it, and wait until it reads from its slot."""
        jars = classpath(COORDINATES, _silent, _never)
        worker, connector = self._folder / "worker.properties", self._folder / "connector.properties"
        worker.write_text(_lines(self._worker_settings()))
        connector.touch(mode=0o600)
        connector.write_text(_lines(self._connector_settings()))
        options = ("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
        main = "org.apache.kafka.connect.cli.ConnectStandalone"
        command = java_command("256m", jars, options, main, self._folder / "tmp")
        command.remove("-XX:+UseG1GC")
        self._process.spawn([*command, str(worker), str(connector)], self.log, server_environment())
        self._await_slot()

    def stop(self) -> None:
        """End the process; what it has written stays."""
        self._process.stop(15, 10.0)

    def remove(self) -> None:
        """End it, and remove slot, publication and topics."""
        self._process.kill()
        with psycopg.connect(self._database, autocommit=True) as connection:
            for _ in range(100):
                active = connection.execute(
                    "select active from pg_replication_slots where slot_name = %s", [self.name]
                ).fetchone()
                if active is None or not active[0]:
                    break
                time.sleep(0.1)
            connection.execute(
                "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = %s", [self.name]
            )
        made = [topic for topic in self._admin.list_topics(timeout=30).topics if self.name in topic]
        if made:
            for removed in self._admin.delete_topics(made, operation_timeout=30).values():
                removed.result()

    def _await_slot(self) -> None:
        deadline = time.monotonic() + _START_S
        with psycopg.connect(self._database, autocommit=True) as connection:
            while not connection.execute(
                "select 1 from pg_replication_slots where slot_name = %s and active", [self.name]
            ).fetchone():
                if not self._process.alive() or time.monotonic() > deadline:
                    tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])
                    raise TimeoutError(f"the connector does not read from its slot:\n{tail}")
                time.sleep(0.1)

    def _worker_settings(self) -> dict[str, str]:
        converter, schemas = "org.apache.kafka.connect.json.JsonConverter", str(self._schemas).lower()
        return {
            "bootstrap.servers": self._bootstrap,
            "key.converter": converter,
            "value.converter": converter,
            "key.converter.schemas.enable": schemas,
            "value.converter.schemas.enable": schemas,
            "offset.storage.file.filename": str(self._folder / "offsets"),
            "offset.flush.interval.ms": "300",  # the slot is confirmed when offsets are flushed
            "plugin.discovery": "hybrid_warn",
            "listeners": "http://127.0.0.1:0",
        }

    def _connector_settings(self) -> dict[str, str]:
        url = urlsplit(self._database)
        settings = {
            "name": self.name,
            "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
            "tasks.max": "1",
            "topic.prefix": self.name,
            "database.hostname": str(url.hostname),
            "database.port": str(url.port),
            "database.user": str(url.username),
            "database.password": str(url.password),
            "database.dbname": url.path[1:],
            "plugin.name": "pgoutput",
            "slot.name": self.name,
            "publication.name": self.name,
            "publication.autocreate.mode": "filtered",
            "table.include.list": ",".join(self._tables),
            "snapshot.mode": "no_data",
            "heartbeat.interval.ms": "300",
            "poll.interval.ms": "50",
        }
        return settings | self._settings


@contextmanager
def running(connector: Connector) -> Iterator[Connector]:
    """With its topics made, until the end of the block."""
    try:
        connector.make_topics()
        connector.start()
        yield connector
    finally:
        connector.remove()


def _lines(settings: Mapping[str, str]) -> str:
    return "".join(f"{name}={value}\n" for name, value in settings.items())


def _silent(_message: str) -> None:
    """A report that nobody reads."""


def _never() -> bool:
    return False
