"""`reshelve demo`, as a newcomer runs it: what it promises, and that it leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
from confluent_kafka.admin import AdminClient
from opensearchpy import OpenSearch

from reshelve.local.stack import Endpoints

pytestmark = pytest.mark.services

CITIES = 2000
ENDPOINTS = ("SOURCE_URL", "OPENSEARCH_URL", "KAFKA_BOOTSTRAP")


def command(folder: Path, *options: str) -> list[str]:
    demo = ["demo", "--folder", str(folder), "--limit-cities", str(CITIES)]
    return [sys.executable, "-m", "reshelve", *demo, *options]


def reshelve(environ: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "reshelve", *arguments]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def environ(endpoints: Endpoints) -> dict[str, str]:
    return {**os.environ, **endpoints.environ()}


@pytest.fixture
def without_servers() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in ENDPOINTS}


@pytest.fixture
def tidy(environ: dict[str, str], opensearch: OpenSearch, endpoints: Endpoints) -> Iterator[None]:
    """After a test that keeps things, or fails: nothing of `cities` stays for the next one."""
    yield
    for name in left(endpoints, opensearch)["runs"]:
        reshelve(environ, "clean", name, "--yes")
    for index in left(endpoints, opensearch)["indexes"]:
        opensearch.indices.delete(index=index)
    with psycopg.connect(endpoints.source_url, autocommit=True) as connection:
        connection.execute("drop schema if exists demo cascade")


def left(endpoints: Endpoints, opensearch: OpenSearch) -> dict[str, list[str]]:
    """What there is of the demo on the servers."""
    with psycopg.connect(endpoints.source_url) as connection:
        schemas = connection.execute("select nspname from pg_namespace where nspname = 'demo'").fetchall()
    admin = AdminClient({"bootstrap.servers": endpoints.kafka_bootstrap, "log_level": 0})
    topics = [name for name in admin.list_topics(timeout=30).topics if name.startswith("reshelve.cities.")]
    return {
        "schemas": [name for (name,) in schemas],
        "indexes": sorted(opensearch.indices.get(index="cities*", expand_wildcards="all")),
        "topics": topics,
        "runs": sorted({".".join(name.split(".")[1:3]) for name in topics}, reverse=True),
    }


def slots(endpoints: Endpoints) -> set[str]:
    """The replication slots of runs of `cities`: whose is whose, on a server of many, only the time tells."""
    with psycopg.connect(endpoints.source_url) as connection:
        rows = connection.execute("select slot_name from pg_replication_slots where slot_name ~ '^reshelve_cities_'")
        return {name for (name,) in rows}


def processes_of(folder: Path) -> list[list[str]]:
    return [
        p.info["cmdline"] for p in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(p.info["cmdline"] or [])
    ]


def wait_for(process: subprocess.Popen[str], words: str) -> list[str]:
    """The lines that a demo has said, up to one with these words."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if words in line:
            return lines
    raise AssertionError(f"it ended without {words!r}:\n{''.join(lines)}")


def test_it_keeps_its_promises_and_leaves_nothing(
    tmp_path: Path, environ: dict[str, str], endpoints: Endpoints, opensearch: OpenSearch, tidy: None
) -> None:
    before = slots(endpoints)

    done = subprocess.run(
        command(tmp_path, "--json"), env=environ, capture_output=True, text=True, timeout=280, check=False
    )

    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["broken_promises"] == []
    assert facts["loaded"]["cities"] == facts["v1"]["documents"] == CITIES
    written, compared = facts["written"], facts["compared"]
    assert written["writes"] >= written["transactions"] > 0
    assert compared["documents"] == CITIES + written["founded"] + written["returned"] - written["vanished"]
    assert (compared["missing"], compared["extra"], compared["different"]) == (0, 0, 0)
    assert facts["searches"]["done"] > 0
    assert facts["searches"]["failures"] == 0
    assert set(facts["searches"]["answered"]) == {facts["v1"]["index"], facts["v2"]["index"]}
    assert facts["v2"]["partitions_validated"] == 4
    assert facts["before"]["total"] == 0
    assert facts["after"]["hits"][0]["name"] == "Munich"
    assert "Reindex complete" in Path(facts["v2"]["report"]).read_text()
    assert json.loads((tmp_path / "demo.json").read_text()) == facts
    assert slots(endpoints) <= before
    assert left(endpoints, opensearch) == {"schemas": [], "indexes": [], "topics": [], "runs": []}


def test_what_is_kept_can_be_rolled_back(
    tmp_path: Path, environ: dict[str, str], opensearch: OpenSearch, tidy: None
) -> None:
    done = subprocess.run(
        command(tmp_path, "--keep"), env=environ, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "0 failures" in done.stdout
    facts = json.loads((tmp_path / "demo.json").read_text())
    assert f"rollback {facts['v2']['run']}" in done.stderr

    back = reshelve(environ, "rollback", facts["v2"]["run"])

    assert back.returncode == 0, back.stderr
    assert list(opensearch.indices.get_alias(name="cities")) == [facts["v1"]["index"]]
    assert opensearch.count(index="cities")["count"] == CITIES


def test_it_takes_over_nothing_of_others(
    tmp_path: Path, environ: dict[str, str], endpoints: Endpoints, opensearch: OpenSearch, tidy: None
) -> None:
    opensearch.indices.create(index="cities-of-others", body={"aliases": {"cities": {}}})

    done = subprocess.run(command(tmp_path), env=environ, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 2
    assert "alias 'cities' is in use" in done.stderr
    assert left(endpoints, opensearch)["indexes"] == ["cities-of-others"]


def test_ctrl_c_removes_what_it_made(
    tmp_path: Path, environ: dict[str, str], endpoints: Endpoints, opensearch: OpenSearch, tidy: None
) -> None:
    before = slots(endpoints)

    with subprocess.Popen(command(tmp_path), env=environ, stderr=subprocess.PIPE, text=True) as process:
        wait_for(process, "Rebuilding as version 2")
        wait_for(process, "stage: copy")
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=120)[1]

    assert process.returncode == 130, said
    assert "the demo was stopped" in said
    assert slots(endpoints) <= before
    assert left(endpoints, opensearch) == {"schemas": [], "indexes": [], "topics": [], "runs": []}


def test_servers_of_its_own_end_with_it(tmp_path: Path, without_servers: dict[str, str]) -> None:
    with subprocess.Popen(command(tmp_path), env=without_servers, stderr=subprocess.PIPE, text=True) as process:
        wait_for(process, "Building version 1")
        assert processes_of(tmp_path)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=120)[1]

    assert process.returncode == 130, said
    deadline = time.monotonic() + 10
    while processes_of(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_of(tmp_path) == []
    assert not (tmp_path / "servers").exists()


def test_some_endpoints_are_not_enough(tmp_path: Path, without_servers: dict[str, str]) -> None:
    environ = without_servers | {"OPENSEARCH_URL": "http://127.0.0.1:9"}

    done = subprocess.run(command(tmp_path), env=environ, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 2
    assert "SOURCE_URL and KAFKA_BOOTSTRAP are not set" in done.stderr
