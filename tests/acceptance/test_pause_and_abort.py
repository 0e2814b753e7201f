"""A run that is paused, throttled, resumed and aborted from beside it, and one that nobody drives."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from subprocess import Popen

import psycopg
from load import wait_for
from opensearchpy import OpenSearch
from pipeline import Pipeline

from reshelve.cli.telling import tell

Docs = Callable[[int], Pipeline]

_LIMIT = 100
_EFFECTIVE_S = 2.0


def told(p: Pipeline) -> list[tuple[str, str, str]]:
    """What the driver has journaled of the commands: kind, by, why."""
    return [(one["kind"], one["by"], one["why"]) for one in p.states()[-1].commands]


def await_told(p: Pipeline, process: Popen[str], number: int) -> None:
    """Until the driver has seen so many commands."""

    def seen() -> bool:
        assert process.poll() is None, p.finish(process).output
        return len(told(p)) >= number

    wait_for(f"{number} commands are journaled", seen)


def rows(p: Pipeline) -> int:
    return sum(receipt.rows for _, receipt in p.receipts())


def committed(p: Pipeline, group: str, topic: str) -> int:
    run = p.last_run
    return sum(offset or 0 for offset in p.cluster.committed(run.group(group), run.topic(topic), 2).values())


def changes(p: Pipeline) -> int:
    return sum(p.cluster.stable_ends(p.last_run.topic("changes"), 2).values())


def slots(p: Pipeline) -> list[str]:
    with psycopg.connect(p.database) as connection:
        found = connection.execute("select slot_name from pg_replication_slots where database = current_database()")
        return [str(name) for (name,) in found]


def test_a_run_is_paused_throttled_resumed_and_aborted(docs: Docs, opensearch: OpenSearch) -> None:
    p = docs(5_000)
    p.write(limits={"documents_per_second": _LIMIT})
    process = p.start("run", p.spec)
    try:
        p.await_receipts(process, 2)
        run = p.last_run
        p.reshelve("pause", run, "--by", "jane", "--why", "the cluster is moved").expect(0)
        await_told(p, process, 1)
        time.sleep(_EFFECTIVE_S)
        read, watermarks, indexed = rows(p), changes(p), committed(p, "indexer", "documents")
        p.execute("update docs set name = name || '!' where id <= 10")
        wait_for("the tailer goes on", lambda: changes(p) > watermarks + 10)
        assert (rows(p), committed(p, "indexer", "documents")) == (read, indexed)
        status = p.reshelve("status", run, "--json").expect(0).json
        assert (status["state"], status["next"]) == ("paused", f"reshelve resume {run}")
        assert status["paused"]["by"] == "jane" and "the cluster is moved" in status["reason"]
        assert status["limit"]["documents_per_second"] == _LIMIT
        assert status["checkpoint"]["paused"]["by"] == "jane"

        limited = p.reshelve("throttle", run, "--documents-per-second", "2000", "--by", "jane").expect(0)
        assert "2,000 documents/s (set by jane)" in limited.stdout
        assert rows(p) == read
        tell(p.cluster, str(run), "resume", "joe", "")
        wait_for("it goes on, faster", lambda: rows(p) >= read + 10 * _LIMIT)

        aborted = p.reshelve("abort", run, "--why", "wrong mapping", "--yes", "--json").expect(0).json
        assert (aborted["state"], aborted["rolled_back"]) == ("aborted", False)
        ended = p.finish(process).expect(4)
        assert "wrong mapping" in ended.stderr
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            p.finish(process)
    assert [(kind, by) for kind, by, _ in told(p)] == [
        ("pause", "jane"), ("throttle", "jane"), ("resume", "joe"), ("abort", told(p)[-1][1]),
    ]  # fmt: skip
    assert slots(p) == [] and not opensearch.indices.exists_alias(name=p.alias)
    assert opensearch.indices.exists(index=run.index)
