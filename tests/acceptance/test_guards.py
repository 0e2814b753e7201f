"""Somebody else changes the target meanwhile: noticed, and nothing is swapped."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from opensearchpy import OpenSearch
from pipeline import Pipeline

Docs = Callable[[int], Pipeline]


@pytest.mark.timeout(300)
def test_an_alias_that_was_moved_meanwhile_is_left_where_it_is(docs: Docs, opensearch: OpenSearch) -> None:
    p = docs(100)
    p.write()
    p.run("--until", "validated").expect(0)
    other = f"{p.name}-other"
    opensearch.indices.create(index=other, body={"aliases": {p.alias: {}}})
    refused = p.reshelve("cutover", p.name, "--json").expect(3).json["error"]
    assert refused["code"] == "gate" and refused["where"] == "alias where it was"
    assert f"{p.alias} points to {other}" in refused["why"]
    assert list(opensearch.indices.get_alias(name=p.alias)) == [other]
    refused = p.run("--json").expect(3).json["error"]
    assert "previous_index" in refused["why"] and "--new" in refused["remedy"]
    status = p.reshelve("status", p.name, "--json").expect(0).json
    assert (status["state"], status["stage"]) == ("blocked", "cutover")


@pytest.mark.timeout(300)
def test_an_index_that_is_dropped_meanwhile_ends_the_run(docs: Docs, opensearch: OpenSearch) -> None:
    """No write brings it back, neither of this run nor of the next one."""
    p = docs(2000)
    p.write(limits={"documents_per_second": 150})
    process = p.start("run", p.spec, "--json")
    p.await_receipts(process, 2)
    index = p.last_run.index
    opensearch.indices.delete(index=index)
    refused = p.finish(process).expect(3)
    words = refused.stderr
    assert "gone" in words and "start a new run" in words
    assert not opensearch.indices.exists(index=index) and not opensearch.indices.exists(index=p.alias)
    again = p.run("--json").expect(3).json["error"]
    assert f"index {index} is not the one that the run made" in again["what"]
    assert not opensearch.indices.exists(index=index)
    assert p.reshelve("status", p.name, "--json").expect(0).json["state"] == "blocked"


@pytest.mark.timeout(300)
def test_a_table_that_is_truncated_meanwhile_ends_the_run(docs: Docs, opensearch: OpenSearch) -> None:
    p = docs(2000)
    p.write(limits={"documents_per_second": 150})
    process = p.start("run", p.spec, "--json")
    p.await_receipts(process, 2)
    p.execute("truncate docs")
    error = p.finish(process).expect(3).json["error"]
    assert error["code"] == "source" and error["role"] in ("pages", "tailer")
    assert "truncate" in error["why"].lower()  # by the catalog or by the log: whoever comes first
    changed = p.run("--json").expect(3).json["error"]
    assert "tables" in changed["why"] and "--new" in changed["remedy"]
