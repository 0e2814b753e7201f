"""Drift of each class, planted in an index that was whole: found, repaired with exactly as many writes, and nothing
else touched."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
from opensearchpy import OpenSearch
from pipeline import DEFINITION, Pipeline

from reshelve.recheck import REJECTED

Docs = Callable[[int], Pipeline]

_ROWS = 200
_WHOLE = ("--level", "counts", "--level", "checksums", "--level", "full")
_FOREIGN: Mapping[str, Any] = {"id": 0, "name": "by somebody else"}
_AHEAD = 1 << 52


@pytest.fixture
def built(docs: Docs) -> Pipeline:
    """An index that was built and swapped in, and that nobody follows."""
    p = docs(_ROWS)
    p.write(changes="none")
    p.run().expect(0)
    return p


def _write(client: OpenSearch, p: Pipeline, key: str, version: int | None = None) -> None:
    """As another client would: plainly, or with a version of its own."""
    params = {} if version is None else {"version": str(version), "version_type": "external_gte"}
    client.index(index=p.last_run.index, id=key, body=_FOREIGN, params=params)


def _repair(p: Pipeline, *options: str, code: int = 0) -> dict[str, Any]:
    return p.reshelve("repair", p.last_run, "--yes", "--json", *options).expect(code).json


def _writes(client: OpenSearch, p: Pipeline) -> int:
    """Documents indexed and deleted since the index was made; those that were refused for their version are none."""
    totals = client.indices.stats(index=p.last_run.index, metric="indexing")["_all"]["primaries"]["indexing"]
    return int(totals["index_total"]) + int(totals["delete_total"])


@contextmanager
def _writing(client: OpenSearch, p: Pipeline, number: int) -> Iterator[None]:
    before = _writes(client, p)
    yield
    assert _writes(client, p) - before == number


@pytest.mark.timeout(300)
def test_drift_of_each_class_takes_one_write_a_key(built: Pipeline, opensearch: OpenSearch) -> None:
    p = built
    version = p.indexed(opensearch)["5"].version
    p.execute("update docs set name = 'renamed' where id in (10, 11); delete from docs where id = 12")
    p.execute("insert into docs values (901, 'new')")
    for key in ("1", "2"):
        opensearch.delete(index=p.last_run.index, id=key)
    _write(opensearch, p, "5", version)  # different: the same version
    _write(opensearch, p, "6")  # foreign
    _write(opensearch, p, "7001")  # extra, which could be a key
    _write(opensearch, p, "no number")  # extra, which could not
    drifted = {"1", "2", "5", "6", "10", "11", "12", "901", "7001", "no number"}

    with _writing(opensearch, p, 0):
        listed = p.reshelve("repair", p.last_run, "--dry-run", "--json", *_WHOLE).expect(3).json
    assert {one["key"] for one in listed["examples"]} == drifted
    assert listed["keys"] == {"different": 1, "extra": 3, "foreign": 1, "missing": 3, "stale": 2}

    with _writing(opensearch, p, len(drifted)):
        repaired = _repair(p, "--check", listed["check"])
    assert repaired["keys"] == listed["keys"]
    assert repaired["writes"] == {"document": 7, "removed": 1, "tombstone": 2}
    assert repaired["left"] == {}
    p.assert_equal(opensearch, changed=True)

    assert p.states()[-1].facts["repaired"]["keys"] == listed["keys"]
    report = p.reports / str(p.last_run) / f"repair-{listed['check']}.json"
    assert json.loads(report.read_text())["writes"] == repaired["writes"]
    assert p.reshelve("validate", p.last_run, "--json").expect(0).json["clean"]
    with _writing(opensearch, p, 0):
        assert _repair(p, *_WHOLE)["keys"] == {}  # a check of its own: the first one is over


@pytest.mark.timeout(300)
def test_a_foreign_version_ahead_of_the_clock_makes_way(built: Pipeline, opensearch: OpenSearch) -> None:
    p = built
    for key, version in (("3", _AHEAD), ("4", _AHEAD + 7), ("800", _AHEAD)):
        _write(opensearch, p, key, version)
    opensearch.delete(index=p.last_run.index, id="8", params={"version": str(_AHEAD), "version_type": "external"})
    _write(opensearch, p, "9")  # an idle source's clock may not have passed it either
    before = _writes(opensearch, p)
    repaired = _repair(p)
    assert _writes(opensearch, p) - before == 5 + repaired["made_way"]
    assert repaired["made_way"] >= 3
    assert repaired["keys"] == {"extra": 1, "foreign": 3, "missing": 1}
    assert repaired["left"] == {}
    p.assert_equal(opensearch, changed=True)
    settings = opensearch.indices.get_settings(index=p.last_run.index, params={"flat_settings": "true"})
    assert "index.gc_deletes" not in settings[p.last_run.index]["settings"]


@pytest.mark.timeout(300)
def test_what_the_index_rejects_is_left_and_said(docs: Docs, opensearch: OpenSearch) -> None:
    p = docs(100)
    properties = {"id": {"type": "byte"}, "name": {"type": "text"}}
    p.write(changes="none", definition={**DEFINITION, "mappings": {"properties": properties}})
    p.run().expect(0)
    p.execute("insert into docs values (901, 'no byte')")
    opensearch.delete(index=p.last_run.index, id="3")
    result = p.reshelve("repair", p.last_run, "--yes", "--json", "--level", "full").expect(3)
    repaired = result.lines[0]
    assert (repaired["keys"], repaired["left"], repaired["writes"]) == ({"missing": 2}, {"missing": 1}, {"document": 1})
    assert repaired["reasons"] == [{"key": "901", "class": "missing", "why": REJECTED}]
    assert "reshelve rejects list" in result.stderr


@pytest.mark.timeout(300)
def test_beside_a_follower_under_writes(docs: Docs, opensearch: OpenSearch) -> None:
    p = docs(_ROWS)
    p.write(follow="always")
    with p.running("run", p.spec) as process:
        while not (p.states() and p.states()[-1].following):
            assert process.poll() is None
        for round_ in range(3):
            p.execute(
                f"update docs set name = 'round {round_}' where id % 3 = {round_}; delete from docs where id = 20"
            )
            opensearch.delete(index=p.last_run.index, id=str(30 + round_))
            _write(opensearch, p, str(40 + round_), _AHEAD)
            _write(opensearch, p, f"ghost {round_}")
        repaired = _repair(p)
        assert repaired["left"] == {}
        assert sum(repaired["keys"].values()) >= 6  # an update that is indexed late brings a deleted one back itself
        assert process.poll() is None
        p.reshelve("retire", p.last_run, "--yes").expect(0)
    p.assert_equal(opensearch, changed=True)


@pytest.mark.timeout(300)
def test_behind_a_follower_that_has_stopped(docs: Docs, opensearch: OpenSearch) -> None:
    p = docs(_ROWS)
    p.write(follow="always")
    with p.running("run", p.spec) as process:
        while not (p.states() and p.states()[-1].following):
            assert process.poll() is None
    p.execute("update docs set name = 'unseen' where id = 10; delete from docs where id = 11")
    with _writing(opensearch, p, 2):
        repaired = _repair(p, "--level", "full")
    assert (repaired["keys"], repaired["left"]) == ({"extra": 1, "stale": 1}, {})
    p.assert_equal(opensearch, changed=True)


@pytest.mark.timeout(300)
def test_watched_once_for_cron(built: Pipeline, opensearch: OpenSearch) -> None:
    p = built
    assert p.reshelve("watch", p.spec, "--once", "--json").expect(0).json["found"] == {}
    _write(opensearch, p, "3")
    assert p.reshelve("watch", p.last_run, "--once", "--json").expect(3).json["left"] == {"foreign": 1}
    look = p.reshelve("watch", p.name, "--once", "--repair", "--json").expect(0).json
    assert (look["found"], look["left"]) == ({"foreign": 1}, {})
    p.assert_equal(opensearch, changed=True)


@pytest.mark.timeout(300)
def test_watched_until_told_to_stop(built: Pipeline, opensearch: OpenSearch) -> None:
    p = built
    _write(opensearch, p, "3")
    process = p.start("watch", p.name, "--repair", "--every", "1s", "--json")
    assert process.stdout is not None
    found = [json.loads(process.stdout.readline())["found"] for _ in range(2)]
    process.send_signal(signal.SIGINT)
    p.finish(process).expect(0)
    assert found == [{"foreign": 1}, {}]
    p.assert_equal(opensearch, changed=True)
