"""Where tests get real PostgreSQL, Kafka and OpenSearch from.

Given endpoints (SOURCE_URL, OPENSEARCH_URL, KAFKA_BOOTSTRAP) → Docker, where a daemon answers →
the local stack, in a directory of its own."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import pytest

from reshelve.local.server import free_port
from reshelve.local.stack import Endpoints, LocalStack

VARIABLES = ("SOURCE_URL", "OPENSEARCH_URL", "KAFKA_BOOTSTRAP")
_POSTGRES_IMAGE = "postgres:18"
_KAFKA_IMAGE = "apache/kafka:4.4.0"
_OPENSEARCH_IMAGE = "opensearchproject/opensearch:3.8.0"


@dataclass(frozen=True)
class Services:
    """The servers of this test session.

    stack   for tests that restart servers; None when they were not started by us
    origin  "environment", "docker" or "local stack"
    """

    endpoints: Endpoints
    stack: LocalStack | None
    origin: str


@contextmanager
def find_services() -> Iterator[Services]:
    """The services from the first place that has them; taken down again at the end."""
    if (given := from_environment(os.environ)) is not None:
        yield Services(given, None, "environment")
    elif docker_answers():
        with _from_docker() as endpoints:
            yield Services(endpoints, None, "docker")
    else:
        with _from_local_stack() as stack:
            yield Services(stack.endpoints, stack, "local stack")


def from_environment(environment: Mapping[str, str]) -> Endpoints | None:
    """The endpoints that were given: all three or none."""
    given = [name for name in VARIABLES if environment.get(name)]
    if not given:
        return None
    if len(given) < len(VARIABLES):
        raise pytest.UsageError(f"{', '.join(given)} is set: give all of {', '.join(VARIABLES)} or none")
    return Endpoints(*(environment[name] for name in VARIABLES))


def docker_answers() -> bool:
    """Whether a Docker daemon answers: a client without one must not fool us."""
    import docker
    import requests
    from docker.errors import DockerException

    try:
        client = docker.from_env(timeout=3)
        try:
            return bool(client.ping())
        finally:
            client.close()
    except (DockerException, requests.RequestException, OSError):
        return False


@contextmanager
def _from_local_stack() -> Iterator[LocalStack]:
    home = Path(tempfile.mkdtemp(prefix="reshelve-test-"))
    stack = LocalStack(home, report=_to_terminal)

    def interrupt(signal_number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt  # as Ctrl-C: pytest tears its fixtures down, which ends the servers

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        stack.up()
        yield stack
    finally:
        stack.down()
        shutil.rmtree(home, ignore_errors=True)
        signal.signal(signal.SIGTERM, previous)


def _to_terminal(message: str) -> None:
    print(message, file=sys.__stderr__, flush=True)


@contextmanager
def _from_docker() -> Iterator[Endpoints]:
    from testcontainers.core.container import DockerContainer

    port = free_port()  # Kafka must advertise the port that clients use, so it is fixed beforehand
    kafka = DockerContainer(_KAFKA_IMAGE).with_bind_ports(port, port)
    for name, value in _kafka_variables(port).items():
        kafka = kafka.with_env(name, value)
    password = secrets.token_hex(16)  # not a word that is said otherwise: it is masked in all that is printed
    postgres = (
        DockerContainer(_POSTGRES_IMAGE)
        .with_env("POSTGRES_PASSWORD", password)
        .with_command("postgres -c wal_level=logical -c max_replication_slots=32 -c max_wal_senders=32")
        .with_exposed_ports(5432)
    )
    opensearch = (
        DockerContainer(_OPENSEARCH_IMAGE)
        .with_env("discovery.type", "single-node")
        .with_env("DISABLE_SECURITY_PLUGIN", "true")
        .with_env("DISABLE_INSTALL_DEMO_CONFIG", "true")
        .with_env("OPENSEARCH_JAVA_OPTS", "-Xms1g -Xmx1g")
        .with_env("path.repo", "/tmp/snapshots")
        .with_exposed_ports(9200)
    )
    with ExitStack() as containers:
        for container in (kafka, postgres, opensearch):
            containers.enter_context(container)
        endpoints = Endpoints(
            f"postgresql://postgres:{password}@{_address(postgres, 5432)}/postgres",
            f"http://{_address(opensearch, 9200)}",
            f"{kafka.get_container_host_ip()}:{port}",
        )
        wait_until_answering(endpoints)
        yield endpoints


def _address(container: Any, port: int) -> str:
    return f"{container.get_container_host_ip()}:{container.get_exposed_port(port)}"


def _kafka_variables(port: int) -> dict[str, str]:
    return {
        "KAFKA_NODE_ID": "1",
        "KAFKA_PROCESS_ROLES": "broker,controller",
        "KAFKA_LISTENERS": f"PLAINTEXT://:{port},CONTROLLER://:9093",
        "KAFKA_ADVERTISED_LISTENERS": f"PLAINTEXT://127.0.0.1:{port}",
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
        "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
        "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
        "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
    }


def wait_until_answering(endpoints: Endpoints, timeout: float = 180) -> None:
    """Wait until all three answer; raises TimeoutError with the last error."""
    import time

    import psycopg
    import urllib3
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    deadline = time.monotonic() + timeout
    while True:
        try:
            psycopg.connect(endpoints.source_url, connect_timeout=3).close()
            url = f"{endpoints.opensearch_url}/_cluster/health?wait_for_status=yellow&timeout=3s"
            if urllib3.request("GET", url, retries=False).status != 200:
                raise OSError("OpenSearch is not yellow yet")
            AdminClient({"bootstrap.servers": endpoints.kafka_bootstrap, "log_level": 0}).list_topics(timeout=3)
            return
        except (psycopg.Error, urllib3.exceptions.HTTPError, KafkaException, OSError) as error:
            if time.monotonic() > deadline:
                raise TimeoutError(str(error)) from error
            time.sleep(0.5)
