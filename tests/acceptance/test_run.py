"""A reindex from its first run to the removal of what it left behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from opensearchpy import OpenSearch
from pipeline import DEFINITION, Pipeline

from reshelve.journal import chain_faults, read_journal

Docs = Callable[[int], Pipeline]


def alias_of(client: OpenSearch, alias: str) -> list[str]:
    return sorted(client.indices.get_alias(name=alias))


def exists(client: OpenSearch, name: str) -> bool:
    return bool(client.indices.exists(index=name))


@pytest.mark.timeout(400)
def test_a_reindex_from_its_first_run_to_its_end(docs: Docs, opensearch: OpenSearch) -> None:
    p = docs(500)
    p.write(owner="search team", why="it is the first")
    first = _stop_on_the_way_then_cut_over(p, opensearch)
    p.execute("update docs set name = name || ' changed' where id % 2 = 0; delete from docs where id = 7")
    p.execute("insert into docs select n, 'new' from generate_series(1001, 1010) n")
    second = _rebuild(p, opensearch, first)
    _roll_back_and_clean(p, opensearch, first, second)


def _stop_on_the_way_then_cut_over(p: Pipeline, client: OpenSearch) -> str:
    """The stops before the swap leave no alias; the first cut-over creates it. Returns the index."""
    p.run("--until", "copied").expect(0)
    assert not exists(client, p.alias)
    status = p.reshelve("status", p.name, "--json").expect(0).json
    assert (status["state"], status["stage"], status["documents"]) == ("interrupted", "copy", 500)
    assert "stopped when copied, as asked" in status["reason"]
    p.run("--until", "validated").expect(0)
    assert not exists(client, p.alias)
    run = p.last_run
    assert len(p.states()) == 1
    p.reshelve("cutover", run).expect(0)
    p.assert_equal(client)
    assert alias_of(client, p.alias) == [run.index]
    return run.index


def _rebuild(p: Pipeline, client: OpenSearch, first: str) -> str:
    """The second run, told in JSON, swaps the alias to another mapping and the newest documents."""
    definition: dict[str, Any] = {
        "settings": {"number_of_shards": 2, "number_of_replicas": 0, "refresh_interval": "7s"},
        "mappings": {"properties": {**DEFINITION["mappings"]["properties"], "name": {"type": "keyword"}}},
    }
    p.write(
        definition=definition,
        owner="search team",
        limits={"documents_per_second": 100_000},
        rollback={"grace_hours": 1},
    )
    done = p.run("--json").expect(0)
    index = p.last_run.index
    assert alias_of(client, p.alias) == [index] != [first]
    p.assert_equal(client)
    settings = client.indices.get_settings(index=index, params={"flat_settings": "true"})[index]["settings"]
    assert settings["index.refresh_interval"] == "7s" and "index.gc_deletes" not in settings
    assert [line["stage"] for line in done.lines if line.get("event") == "stage"] == [
        "create", "copy", "settle", "index", "validate", "catchup", "cutover", "close",
    ]  # fmt: skip
    ended = done.json
    assert ended["event"] == "ended" and ended["outcome"] == "Completed: Reindex complete"
    assert ended["copied"]["documents"] == ended["validation"]["target_documents"] == 509
    assert all(gate["open"] for gate in ended["gates"])
    assert (ended["previous_index"], ended["owner"], ended["errors"]) == (first, "search team", [])
    report = json.loads((p.reports / str(p.last_run) / "report.json").read_text())
    assert {**report, "v": 1, "event": "ended"} == ended
    assert "Completed: Reindex complete" in (p.reports / str(p.last_run) / "report.md").read_text()
    assert chain_faults(read_journal(p.cluster, run=p.last_run)) == []
    return index


def _roll_back_and_clean(p: Pipeline, client: OpenSearch, first: str, second: str) -> None:
    run = p.last_run
    listed = {one["run"]: one for one in p.reshelve("runs", "--json").expect(0).json["runs"]}
    assert [listed[str(state.run)]["state"] for state in p.states()] == ["completed", "completed"]
    assert f"{run}" in p.reshelve("runs").expect(0).stdout
    assert "kept for a rollback" in p.reshelve("clean", run, "--yes").expect(3).stderr
    p.reshelve("rollback", run).expect(0)
    assert alias_of(client, p.alias) == [first]
    assert p.reshelve("status", run, "--json").expect(0).json["state"] == "rolled back"
    refused = p.reshelve("clean", run).expect(4)  # nobody answers the question
    assert "nothing is removed" in refused.stderr
    assert exists(client, second)
    p.reshelve("clean", run, "--yes").expect(0)
    assert not exists(client, second) and exists(client, first)
    assert [topic for topic in p.topics() if str(run) in topic] == []
    assert p.reshelve("status", run, "--json").expect(0).json["cleaned"] is True
    assert "cleaned up" in p.reshelve("rollback", run).expect(2).stderr
    assert "no run" in p.reshelve("status", "nothing-of-the-kind", "--json").expect(2).json["error"]["what"]


@pytest.mark.parametrize("rows", [0, 1])
def test_a_table_with_next_to_nothing(docs: Docs, opensearch: OpenSearch, rows: int) -> None:
    p = docs(rows)
    p.write(partitions=1)
    p.run().expect(0)
    p.assert_equal(opensearch)
