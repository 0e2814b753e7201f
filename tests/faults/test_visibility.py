"""The log runs ahead of what is visible, and that runs ahead of what is durable: the index waits for both."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest
from faulty import Victim, wait_for
from opensearchpy import OpenSearch
from own_source import Sources, ask, await_indexed, require_equal, started

from reshelve.local.postgres import PostgresServer

pytestmark = pytest.mark.timeout(600)


def test_a_commit_that_is_logged_but_not_visible_is_waited_for(
    sources: Sources, opensearch: OpenSearch, tmp_path: Path
) -> None:
    """A synchronous standby does not answer: whoever commits waits, and nobody sees the change, which is decoded."""
    with started(tmp_path / "primary") as primary, started(tmp_path / "standby", standby_of=primary) as standby:
        p = sources.docs(primary, 50)
        p.write(follow="always")
        run = p.start("run", p.spec, "--json")
        p.await_stage("follow")
        index = p.last_run.index
        ask(primary.url, "alter system set synchronous_standby_names = '*'")
        ask(primary.url, "select pg_reload_conf()")
        wait_for("the standby is synchronous", lambda: ask(primary.url, _SYNC) == "sync")
        with frozen(ask(standby.url, "select pid from pg_stat_wal_receiver")):
            commit = threading.Thread(target=p.execute, args=["update docs set name = 'awaited' where id = 7"])
            commit.start()
            p.await_said("not visible yet")
            behind = seconds_behind(p)
            wait_for("seconds behind grows", lambda: seconds_behind(p) > behind + 1)
            assert commit.is_alive() and run.poll() is None
            assert p.indexed(opensearch, index)["7"].document["name"] == p.source()["7"]["name"] == "document 7"
        commit.join(60)
        await_indexed(p, opensearch, index, "7", "awaited")
        require_equal(p, opensearch)
        wait_for("it has caught up", lambda: seconds_behind(p) < 5)
        p.reshelve("retire", str(p.last_run), "--yes").expect(0)
        p.finish(run).expect(0)


_SYNC = "select max(sync_state) from pg_stat_replication where application_name = 'walreceiver'"


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """A process that does nothing meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def seconds_behind(p: Victim) -> float:
    """As the run said last."""
    found = 0.0
    for line in (p.folder / "0.out").read_text().splitlines():
        with suppress(ValueError):  # the last one, half written
            found = json.loads(line).get("seconds_behind") or found
    return found


def test_what_a_crash_takes_back_is_not_in_the_index(sources: Sources, opensearch: OpenSearch, tmp_path: Path) -> None:
    """With synchronous_commit = off rows are visible before they are durable."""
    with started(tmp_path / "primary", settings={"wal_writer_delay": "10s"}) as primary:
        p = sources.docs(primary, 50)
        p.write(follow="always")
        run = p.start("run", p.spec, "--json")
        p.await_stage("follow")
        lost = 0
        while lost < 3:
            lost += crash_under_writes(p, primary)
            assert run.poll() is None, p.said()
        p.execute("update docs set name = 'the last' where id = 50")
        await_indexed(p, opensearch, p.last_run.index, "50", "the last")
        require_equal(p, opensearch)
        p.reshelve("retire", str(p.last_run), "--yes").expect(0)
        p.finish(run).expect(0)


def crash_under_writes(p: Victim, primary: PostgresServer) -> int:
    """How many of the transactions that had committed were lost."""
    committed = before = int(ask(p.database, "select count(*) from docs"))
    end = threading.Event()

    def write() -> None:
        nonlocal committed
        with suppress(psycopg.OperationalError), psycopg.connect(p.database, autocommit=True) as connection:
            connection.execute("set synchronous_commit = off")
            while not end.is_set():
                connection.execute("update docs set name = md5(random()::text) where id = 1 + (random() * 40)::int")
                connection.execute("insert into docs select max(id) + 1, 'new' from docs")
                committed += 1

    writer = threading.Thread(target=write)
    writer.start()
    time.sleep(0.6)
    primary.kill()
    end.set()
    writer.join()
    primary.start()
    primary.wait_healthy()
    left = int(ask(p.database, "select count(*) from docs"))
    assert before < committed
    return committed - left
