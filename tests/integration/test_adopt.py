"""An index that a plain client has filled, adopted: its drift is found and repaired, and nothing else is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson
import pytest
from opensearchpy import OpenSearch
from pipeline import DEFINITION, Pipeline

import reshelve.adopt
from reshelve.adopt import run_to_repair
from reshelve.errors import BlockedError, Unreachable, UsageError
from reshelve.kafka import KafkaCluster
from reshelve.spec import load

Docs = Callable[[int], Pipeline]

_ROWS = 60
_AHEAD = 1 << 52


@pytest.fixture
def plain(docs: Docs, opensearch: OpenSearch) -> Pipeline:
    """Filled with the source's documents, behind the alias of a spec. No run knows of it."""
    p = docs(_ROWS)
    p.write()
    _create(opensearch, p, DEFINITION["mappings"], {p.alias: {}})
    lines = [line for key, document in p.source().items() for line in ({"index": {"_id": key}}, document)]
    body = b"\n".join(map(orjson.dumps, lines)) + b"\n"
    assert not opensearch.bulk(body=body, index=_index(p), params={"refresh": "true"})["errors"]
    return p


def _index(p: Pipeline) -> str:
    return f"{p.name}-old"


def _create(client: OpenSearch, p: Pipeline, mappings: Mapping[str, Any], aliases: Mapping[str, Any]) -> None:
    client.indices.delete(index=_index(p), params={"ignore_unavailable": "true"})
    body = {"settings": DEFINITION["settings"], "mappings": mappings, "aliases": aliases}
    client.indices.create(index=_index(p), body=body)


def _write(client: OpenSearch, p: Pipeline, key: str, document: Mapping[str, Any], version: int | None = None) -> None:
    params = {} if version is None else {"version": str(version), "version_type": "external_gte"}
    client.index(index=_index(p), id=key, body=document, params=params)


def _writes(client: OpenSearch, p: Pipeline) -> int:
    """Documents indexed and deleted since the index was made; those that were refused for their version are none."""
    totals = client.indices.stats(index=_index(p), metric="indexing")["_all"]["primaries"]["indexing"]
    return int(totals["index_total"]) + int(totals["delete_total"])


def _aliases(client: OpenSearch, p: Pipeline) -> set[str]:
    return set(client.indices.get_alias(index=_index(p))[_index(p)]["aliases"])


@pytest.mark.timeout(300)
def test_exactly_what_drifted_is_written(plain: Pipeline, opensearch: OpenSearch) -> None:
    p, source = plain, plain.source()
    opensearch.delete(index=_index(p), id="1")
    _write(opensearch, p, "5", {"id": 5, "name": "by somebody else"})
    _write(opensearch, p, "9", source["9"], _AHEAD)  # as it should be, but no later change could be written
    _write(opensearch, p, "10", {"id": 10, "name": "by somebody else"}, _AHEAD + 1)
    _write(opensearch, p, "7001", {"id": 7001, "name": "a ghost"})
    _write(opensearch, p, "no number", {"id": 0, "name": "a ghost that can be no key"})
    p.execute("update docs set name = 'renamed' where id = 20")

    before = _writes(opensearch, p)
    listed = p.reshelve("repair", p.spec, "--dry-run", "--json").expect(3).json
    assert {one["key"] for one in listed["examples"]} == {"1", "5", "9", "10", "20", "7001", "no number"}
    # No record of a topic has the versions that are there, so what differs is foreign.
    assert listed["keys"] == {"extra": 2, "foreign": 4, "missing": 1}
    assert listed["ahead"] == 2
    assert _writes(opensearch, p) == before
    assert _aliases(opensearch, p) == {p.alias}

    repaired = p.reshelve("repair", p.spec, "--check", listed["check"], "--yes", "--json").expect(0).json
    assert repaired["run"] == listed["run"]
    assert repaired["writes"] == {"document": 5, "removed": 1, "tombstone": 1}
    assert (repaired["made_way"], repaired["left"]) == (2, {})
    assert _writes(opensearch, p) - before == 7 + 2
    assert {key: one.document for key, one in p.indexed(opensearch).items()} == p.source()

    before = _writes(opensearch, p)
    assert p.reshelve("repair", p.spec, "--yes", "--json").expect(0).json["keys"] == {}
    assert _writes(opensearch, p) == before

    (state,) = p.states()
    assert (str(state.run), state.adopted, state.state) == (listed["run"], True, "completed")
    assert "it has adopted the index" in p.reshelve("rollback", state.run).expect(2).stderr
    cleaned = p.reshelve("clean", state.run, "--yes", "--json").expect(0).json
    assert (cleaned["index"], cleaned["alias"]) == (None, f"{_index(p)}.write")
    assert p.topics() == []
    assert _aliases(opensearch, p) == {p.alias}
    assert {key: one.document for key, one in p.indexed(opensearch).items()} == p.source()


@pytest.mark.timeout(120)
def test_what_can_t_be_adopted_is_refused_before_anything_is_recorded(
    plain: Pipeline, opensearch: OpenSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    p, mappings = plain, DEFINITION["mappings"]
    for name, value in p.environ.items():
        monkeypatch.setenv(name, value)

    def refused(why: str, **sections: Any) -> None:
        p.write(**sections)
        with pytest.raises(BlockedError) as error:
            run_to_repair(load(p.spec), (), lambda text: None)
        assert why in str(error.value)
        assert p.states() == []

    with pytest.raises(UsageError, match="level checksums says nothing of an index that was adopted"):
        run_to_repair(load(p.spec), ("checksums",), lambda text: None)
    _write(opensearch, p, "1", {"id": 1}, _AHEAD)
    monkeypatch.setattr(reshelve.adopt, "MOST_AHEAD", 0)
    refused(f"1 of {_ROWS} documents (keys 1, …) have a version above")
    opensearch.index(index=_index(p), id="2", body={"id": 2}, params={"routing": "somewhere", "refresh": "true"})
    refused("1 documents have a routing of their own")
    opensearch.indices.put_alias(index=_index(p), name=p.alias, body={"filter": {"term": {"id": 1}}})
    refused(f"alias {p.alias} has a filter")
    refused("whatever the index has beside it would be deleted", scope={"where": "id < 10"})
    _create(opensearch, p, {**mappings, "_source": {"enabled": False}}, {p.alias: {}})
    refused("its mapping keeps no _source")
    _create(opensearch, p, {**mappings, "_routing": {"required": True}}, {p.alias: {}})
    refused("its mapping requires a routing")
    opensearch.indices.create(index=f"{_index(p)}-2", body={"aliases": {p.alias: {}}})
    refused(f"points to several indexes: {_index(p)}, {_index(p)}-2")
    opensearch.indices.delete_alias(index=f"{_index(p)}*", name=p.alias)
    refused(f"there is no alias {p.alias}")


@pytest.mark.timeout(120)
def test_an_adoption_that_was_left_is_gone_on_with(plain: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    p = plain
    for name, value in p.environ.items():
        monkeypatch.setenv(name, value)

    def away(*_: object) -> None:
        raise Unreachable("cannot set the offsets of the group")

    with monkeypatch.context() as broken, pytest.raises(Unreachable):
        broken.setattr(KafkaCluster, "start_group", away)
        run_to_repair(load(p.spec), (), lambda text: None)
    (left,) = p.states()
    assert (left.adopted, left.state, left.stage) == (True, "planned", "adopt")
    assert run_to_repair(load(p.spec), (), lambda text: None) == left.run
    assert run_to_repair(load(p.spec), (), lambda text: None) == left.run  # and it is found from then on
    p.write(query="select id, name from public.docs")  # another plan: it says otherwise what a document is
    assert run_to_repair(load(p.spec), (), lambda text: None) != left.run
