"""Kafka in KRaft mode, broker and controller in one process."""

from __future__ import annotations

import base64
import logging
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from reshelve.errors import ReshelveError
from reshelve.local.artifacts import classpath
from reshelve.local.java import java_command
from reshelve.local.process import server_environment
from reshelve.local.server import Cancelled, Report, Server, free_port, silent

COORDINATES: Final = ("org.apache.kafka:kafka_2.13:4.4.0", "org.slf4j:slf4j-simple:1.7.36")
_SETTINGS: Final[Mapping[str, str]] = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    # One replica of everything, and few partitions of the internal topics: they are opened at start.
    "default.replication.factor": "1",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # A broker that was killed is let in again only when its old session has timed out.
    "broker.session.timeout.ms": "5000",
    "broker.heartbeat.interval.ms": "1000",
    "group.initial.rebalance.delay.ms": "0",
    "auto.create.topics.enable": "false",
    "num.network.threads": "2",
    "num.io.threads": "4",
    "log.cleaner.dedupe.buffer.size": str(16 << 20),  # the default takes a quarter of the heap
    "log.segment.delete.delay.ms": "1000",
}
_quiet: Final = logging.getLogger("reshelve.local.kafka.probe")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


class KafkaServer(Server):
    """A Kafka broker.

    heap               the JVM's -Xmx
    security_protocol  of the listener for clients, which is named after it: PLAINTEXT, SASL_PLAINTEXT, SSL, ...
    settings           broker settings that add to ours or replace them (SASL mechanisms, an authorizer)
    client_config      librdkafka properties that a client needs for these settings
    """

    name = "kafka"
    start_timeout: ClassVar[float] = 90.0

    def __init__(
        self,
        directory: Path,
        *,
        log: Path | None = None,
        report: Report = silent,
        heap: str = "512m",
        security_protocol: str = "PLAINTEXT",
        settings: Mapping[str, str] | None = None,
        client_config: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(directory, log=log, report=report)
        self._heap = heap
        self._security_protocol = security_protocol
        self._settings = dict(settings or {})
        self._client_config = dict(client_config or {})
        self._jars: tuple[Path, ...] = ()
        self._admin: AdminClient | None = None

    @property
    def controller_port(self) -> int:
        """The port of the KRaft controller; no business of clients."""
        return int(self._fact("controller_port", free_port))

    @property
    def ports(self) -> tuple[int, ...]:
        return (self.port, self.controller_port)

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    @property
    def _config(self) -> Path:
        return self.directory / "server.properties"

    def _prepare(self, cancelled: Cancelled) -> None:
        self._jars = classpath(COORDINATES, self._report, cancelled)
        protocol = self._security_protocol
        settings = {
            **_SETTINGS,
            "listeners": f"{protocol}://{self.address},CONTROLLER://127.0.0.1:{self.controller_port}",
            "advertised.listeners": f"{protocol}://{self.address}",
            "listener.security.protocol.map": f"{protocol}:{protocol},CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": protocol,
            "controller.quorum.voters": f"1@127.0.0.1:{self.controller_port}",
            "log.dirs": str(self._data),
            **self._settings,
        }
        self._config.touch(mode=0o600)  # settings may hold passwords
        self._config.write_text("".join(f"{name}={_escape(value)}\n" for name, value in settings.items()))
        if not (self._data / "meta.properties").exists():
            self._format()

    def _format(self) -> None:
        cluster = str(self._fact("cluster", _cluster_id))
        command = [*self._java("256m", "kafka.tools.StorageTool"), "format", "--ignore-formatted"]
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            done = subprocess.run(
                [*command, "-t", cluster, "-c", str(self._config)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=server_environment(),
                start_new_session=True,
                check=False,
            )
        if done.returncode:
            raise self._failure(f"its data directory could not be formatted (status {done.returncode})")

    def _command(self) -> Sequence[str]:
        return [*self._java(self._heap, "kafka.Kafka"), str(self._config)]

    def _java(self, heap: str, main: str) -> list[str]:
        options = (  # warn: at info these two write thousands of lines of settings
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSS",
            "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.common.config=warn",
            "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaConfig=warn",
        )
        return java_command(heap, self._jars, options, main, self.directory / "tmp")

    def _ask(self) -> str:
        if self._admin is None:
            config: dict[str, str | int | float | bool] = {
                "bootstrap.servers": self.address,
                "reconnect.backoff.max.ms": 200,
                "log.connection.close": False,
                "log_level": 0,
                **self._client_config,
            }
            self._admin = AdminClient(config, logger=_quiet)
        try:
            brokers = self._admin.list_topics(timeout=2).brokers
        except KafkaException as error:
            return str(error.args[0].str())
        return "" if brokers else "no broker has registered yet"

    def stop(self) -> None:
        self._admin = None
        super().stop()

    def kill(self) -> None:
        self._admin = None
        super().kill()


def _cluster_id() -> str:
    """A random id in the form Kafka wants; it must not begin with a dash, which would be an option."""
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text


def _escape(value: str) -> str:
    if "\n" in value:
        raise ReshelveError("cannot write a Kafka setting", why="its value has a line break")
    return value.replace("\\", "\\\\")
