"""Runs that are stopped, changed, or started twice; and how fast a limited one is."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest
from opensearchpy import OpenSearch
from pipeline import Pipeline

Docs = Callable[[int], Pipeline]

_LIMIT = 200


def require_within_limit(p: Pipeline, readers: int) -> None:
    """From the first page's receipt to the last one's: no more than the limit, a second's worth that may have
    been saved up, and the half second's worth of a page that each reader has under way."""
    receipts = sorted(p.receipts(), key=lambda pair: pair[0])
    seconds = receipts[-1][0] - receipts[0][0]
    rows = sum(receipt.rows for _, receipt in receipts[1:])
    assert rows <= _LIMIT * (seconds + 1 + 0.5 * readers), f"{rows} rows in {seconds} s"


@pytest.mark.timeout(400)
def test_a_run_that_is_interrupted_goes_on_and_a_changed_one_does_not(docs: Docs, opensearch: OpenSearch) -> None:
    p = docs(1500)
    p.write(limits={"documents_per_second": _LIMIT})
    process = p.start("run", p.spec)
    p.await_receipts(process, 4)
    process.send_signal(signal.SIGINT)
    stopped = p.finish(process).expect(130)
    assert "stopped in stage" in stopped.stderr and "run the same command again" in stopped.stderr
    require_within_limit(p, 1)
    status = p.reshelve("status", p.name, "--json").expect(0).json
    assert status["state"] == "interrupted" and 0 < status["documents"] < 1500

    first = p.last_run
    p.write(query="select id, lower(name) as name from public.docs")
    refused = p.run().expect(3).stderr
    assert f"run {first} is unfinished" in refused and "changed since it was planned: spec" in refused
    assert "--new" in refused

    p.write()  # without the limit: how fast it goes does not change what comes out
    resumed = p.run("--until", "validated").expect(0)
    assert f"going on with run {first}" in resumed.stderr
    records = p.records()
    assert {record.key: record.document for record in records} == p.source() and len(records) == 1500
    indexed = p.indexed(opensearch, first.index)
    assert {key: one.document for key, one in indexed.items()} == p.source()

    changed = "select id, lower(name) as name from public.docs"
    p.write(query=changed)
    p.run("--new").expect(0)
    assert [state.state for state in p.states()] == ["aborted", "completed"]
    p.assert_equal(opensearch, changed)


@pytest.mark.timeout(300)
def test_of_two_runs_at_once_the_second_is_refused(docs: Docs, opensearch: OpenSearch) -> None:
    """And the first, with two page readers, stays under its limit all the same."""
    p = docs(1200)
    p.write(limits={"documents_per_second": _LIMIT}, partitions=4)
    p.execute("insert into docs select n, 'more' from generate_series(2001, 11000) n; analyze docs")  # segments
    p.execute("delete from docs where id > 2000")
    process = p.start("run", p.spec, "--page-readers", "2")
    p.await_receipts(process)
    refused = p.run("--json").expect(3).json["error"]
    assert refused["code"] == "lease" and f"process {process.pid} on" in refused["what"]
    assert p.reshelve("cutover", p.name).expect(3).stderr.count(f"process {process.pid}") == 1
    driven = p.reshelve("status", p.name, "--json").expect(0).json
    assert (driven["state"], driven["driven_by"]["pid"]) == ("running", process.pid)
    p.finish(process).expect(0)
    assert len(p.states()) == 1
    p.assert_equal(opensearch)
    assert len({receipt.segment for _, receipt in p.receipts()}) > 1
    require_within_limit(p, 2)
