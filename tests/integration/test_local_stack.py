"""`reshelve local`, through its command line, on a stack of its own."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import psycopg
import pytest
import urllib3

from reshelve.errors import ReshelveError
from reshelve.local.kafka import KafkaServer
from reshelve.local.postgres import PostgresServer, postgres_bin
from reshelve.local.stack import LocalStack

pytestmark = pytest.mark.services


def run(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "reshelve", "local", *arguments, "--home", str(home)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)


def facts(home: Path) -> dict[str, dict[str, str]]:
    answer = json.loads(run("status", "--json", home=home).stdout)
    return {server["name"]: server for server in answer["servers"]}


def processes_under(home: Path) -> list[str]:
    """Command lines of all processes that name the stack's directory."""
    return [
        " ".join(process.info["cmdline"])
        for process in psutil.process_iter(["cmdline"])
        if process.pid != os.getpid() and any(str(home) in word for word in process.info["cmdline"] or ())
    ]


def shared_memory(server: PostgresServer) -> set[Path]:
    """The server's segments in the kernel; they outlive it when it is killed."""
    maps = Path(f"/proc/{server.status().pid}/maps").read_text()
    return {Path(name) for name in re.findall(r"/dev/shm/PostgreSQL\.\d+", maps)}


def test_life_of_a_stack(tmp_path: Path) -> None:
    """up, status, env, a crash, up again, down: in one test, because each step needs the one before."""
    home = tmp_path / "stack"
    assert run("env", home=home).returncode == 1
    first = run("up", "--heap", "512m", home=home)
    try:
        assert first.returncode == 0, first.stderr
        assert first.stdout == ""  # messages are on stderr
        before = facts(home)
        assert {server["state"] for server in before.values()} == {"running"}

        started = time.monotonic()
        assert run("up", home=home).returncode == 0
        assert time.monotonic() - started < 5
        assert {n: s["pid"] for n, s in facts(home).items()} == {n: s["pid"] for n, s in before.items()}

        exports = dict(shlex.split(line)[1].split("=", 1) for line in run("env", home=home).stdout.splitlines())
        assert set(exports) == {"SOURCE_URL", "OPENSEARCH_URL", "KAFKA_BOOTSTRAP"}
        with psycopg.connect(exports["SOURCE_URL"]) as connection:
            assert connection.execute("SHOW wal_level").fetchone() == ("logical",)
            assert connection.execute("SHOW password_encryption").fetchone() == ("scram-sha-256",)
        url = f"{exports['OPENSEARCH_URL']}/made/_doc/1?refresh=true"
        assert urllib3.request("PUT", url, json={"text": "it makes an index"}).status == 201
        assert before["kafka"]["address"] == exports["KAFKA_BOOTSTRAP"]

        psutil.Process(int(before["kafka"]["pid"])).kill()
        time.sleep(0.5)
        status = run("status", home=home)
        assert status.returncode == 1
        assert "kafka      dead" in status.stdout
        assert "Kafka Server started" in status.stdout  # the end of its log
        healed = run("up", home=home)
        assert healed.returncode == 0, healed.stderr
        after = facts(home)
        assert after["kafka"]["pid"] != before["kafka"]["pid"]
        assert after["kafka"]["address"] == before["kafka"]["address"]
        assert {after[n]["pid"] for n in ("postgres", "opensearch")} == {
            before[n]["pid"] for n in ("postgres", "opensearch")
        }
    finally:
        place = Path(json.loads((home / "postgres" / "server.json").read_text())["place"])
        down = run("down", home=home)
    assert down.returncode == 0, down.stderr
    assert not home.exists()
    assert not place.exists()
    assert processes_under(home) == []


def test_servers_keep_data_and_address_over_a_crash(tmp_path: Path) -> None:
    primary = PostgresServer(tmp_path / "primary")
    standby = PostgresServer(tmp_path / "standby", standby_of=primary)
    try:
        primary.start()
        primary.wait_healthy()
        with psycopg.connect(primary.url) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
        url = primary.url
        primary.kill()
        assert primary.status().state == "dead"
        primary.start()
        primary.wait_healthy()
        assert primary.url == url
        segments = shared_memory(primary)
        assert segments
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT one FROM kept").fetchone() == (1,)

        standby.start()
        standby.wait_healthy()
        with psycopg.connect(standby.url) as connection:
            assert connection.execute("SELECT pg_is_in_recovery()").fetchone() == (True,)
        primary.kill()  # as it is, it must be possible to remove it without a trace
    finally:
        for server in (standby, primary):
            server.stop()
            server.remove()
    assert primary.status().state == "stopped"
    assert processes_under(tmp_path) == []
    assert not any(segment.exists() for segment in segments)
    assert (postgres_bin() / "pgbench").exists()


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    kafka = KafkaServer(tmp_path / "kafka", settings={"num.io.threads": "none"})
    with pytest.raises(ReshelveError, match=r"(?s)cannot start kafka.*num\.io\.threads"):
        kafka.start()
    postgres = PostgresServer(tmp_path / "postgres", settings={"max_connections": "none"})
    with pytest.raises(ReshelveError, match='invalid value for parameter "max_connections"') as caught:
        postgres.start()
        postgres.wait_healthy()
    assert postgres.password not in str(caught.value)
    postgres.remove()


def test_up_stops_what_it_started_when_a_server_fails(tmp_path: Path) -> None:
    stack = LocalStack(tmp_path / "stack")
    stack.opensearch.start = _fail  # type: ignore[assignment,method-assign]
    with pytest.raises(ReshelveError, match="not today"):
        stack.up()
    assert [server.alive() for server in stack.servers] == [False, False, False]
    stack.down()
    assert not stack.home.exists()


def _fail(cancelled: Callable[[], bool]) -> None:
    time.sleep(2)  # the others have begun by now
    raise ReshelveError("not today")
