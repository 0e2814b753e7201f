"""Rejects that a run gets over: redriven after their cause was corrected, waived by name, superseded by the source."""

from __future__ import annotations

import json
from typing import Any

import pytest
from load import following, wait_for
from opensearchpy import OpenSearch
from pipeline import Pipeline

_MAPPING = {"properties": {"n": {"type": "integer"}, "id": {"type": "long"}}}


def _with_rejects(p: Pipeline, **sections: Any) -> None:
    """Documents 3 and 4 are refused by the mapping; the run ends Blocked."""
    p.execute(
        "create table docs (id bigint primary key, n text not null);"
        "insert into docs select n, n::text from generate_series(1, 40) n;"
        "update docs set n = 'abc ' || id where id in (3, 4)"
    )
    p.write(definition={"mappings": _MAPPING}, **sections)
    done = p.run().expect(3)
    assert "2 documents were rejected" in done.stderr and "rejects redrive" in done.stderr, done.output


def _accept_anything(p: Pipeline, opensearch: OpenSearch) -> None:
    mapping = {"properties": {"n": {"type": "integer", "ignore_malformed": True}}}
    opensearch.indices.put_mapping(index=p.last_run.index, body=mapping)


def _gate(p: Pipeline, name: str) -> dict[str, Any]:
    report = json.loads((p.reports / str(p.last_run) / "report.json").read_text())
    return next(gate for gate in report["gates"] if gate["name"] == name)


@pytest.mark.timeout(600)
def test_a_run_goes_on_after_its_rejects_were_redriven(pipeline: Pipeline, opensearch: OpenSearch) -> None:
    p = pipeline
    _with_rejects(p)
    run = p.last_run
    again = p.reshelve("rejects", "redrive", run).expect(3)
    assert "0 accepted, 2 rejected again" in again.stdout, again.output
    _accept_anything(p, opensearch)
    (group,) = p.reshelve("rejects", "list", run, "--json").expect(0).json["groups"]
    assert (group["count"], group["statuses"]) == (2, {"open": 2})
    done = p.reshelve("rejects", "redrive", run, "--reason", group["name"], "--json").expect(0)
    assert (done.json["accepted"], done.json["rejected_again"]) == (2, 0)
    listed = p.reshelve("rejects", "list", run, "--json").expect(0).json
    assert (listed["count"], listed["redriven"]) == (0, 2)
    p.run().expect(0)
    assert p.last_run == run
    p.assert_equal(opensearch, changed=True)
    assert _gate(p, "rejects empty")["value"] == "0"


_FAULTY = "def change(document):\n    return {**document, 'name': 1 / (document['id'] % 10)}\n"
_SOUND = "def change(document):\n    return {**document, 'name': 'x'}\n"


@pytest.mark.timeout(600)
def test_a_corrected_transform_is_loaded_by_the_redrive(pipeline: Pipeline, opensearch: OpenSearch) -> None:
    p = pipeline
    p.execute(
        "create table docs (id bigint primary key, name text);"
        "insert into docs select n, 'document ' || n from generate_series(1, 30) n where n % 10 in (0, 1)"
    )
    hook = p.folder / "hooks.py"
    hook.write_text(_FAULTY)
    p.write(transform="hooks:change", validation={"samples_per_partition": 0})
    p.run().expect(3)
    shown = p.reshelve("rejects", "show", p.last_run, "10").expect(0).stdout
    assert "transform TransformFailed: ZeroDivisionError" in shown and '"name": "document 10"' in shown
    hook.write_text(_SOUND)
    done = p.reshelve("rejects", "redrive", p.last_run, "--json").expect(0)
    assert done.json["accepted"] == 3
    p.run().expect(0)
    assert {key: one.document["name"] for key, one in p.indexed(opensearch).items() if int(key) % 10 == 0} == {
        "10": "x",
        "20": "x",
        "30": "x",
    }


@pytest.mark.timeout(600)
def test_a_waiver_lets_a_run_complete_and_is_told_of(pipeline: Pipeline, opensearch: OpenSearch) -> None:
    p = pipeline
    _with_rejects(p, changes="none")
    run = p.last_run
    p.reshelve("rejects", "waive", run, "--by", "Ada", "--why", "test data").expect(2)  # which ones?
    p.reshelve("rejects", "waive", run, "--keys", "5", "--by", "Ada", "--why", "test data").expect(2)
    p.reshelve("rejects", "waive", run, "--all", "--by", " ", "--why", "test data").expect(2)
    p.reshelve("rejects", "waive", run, "--keys", "3", "--by", "Ada", "--why", "test data").expect(0)
    assert "1 document was rejected" in p.run().expect(3).stderr
    p.reshelve("rejects", "waive", run, "--all", "--by", "Grace", "--why", "sold out").expect(0)
    p.run().expect(0)
    assert p.last_run == run
    assert p.indexed(opensearch).keys() == p.source().keys() - {"3", "4"}
    value = _gate(p, "rejects empty")["value"]
    assert value == "0; 1 waived by Ada: test data; 1 waived by Grace: sold out"
    report = (p.reports / str(run) / "report.md").read_text()
    assert "| 1 | Ada |" in report and "| test data | 3 |" in report and "| sold out | 4 |" in report
    status = p.reshelve("status", run, "--json").expect(0).json
    assert [(one["by"], one["count"]) for one in status["waivers"]] == [("Ada", 1), ("Grace", 1)]
    listed = p.reshelve("rejects", "list", run, "--all", "--json").expect(0).json
    assert (listed["count"], listed["waived"]) == (0, 2)
    # Another document is missing: nobody has waived that.
    opensearch.delete(index=run.index, id="7", refresh=True)
    found = p.reshelve("validate", run, "--level", "counts", "--level", "checksums", "--json").expect(3)
    assert [verdict["drifted"] for verdict in found.lines[0]["partitions"] if verdict["drifted"]] == [
        [["7", "missing"]]
    ]


@pytest.mark.timeout(600)
def test_what_the_source_corrects_itself_is_open_no_more(pipeline: Pipeline, opensearch: OpenSearch) -> None:
    """One row gets a value that fits, the other is deleted; the rest goes as for any change."""
    p = pipeline
    _with_rejects(p)
    run = p.last_run
    p.execute("update docs set n = '33' where id = 3; delete from docs where id = 4")
    p.run().expect(0)
    assert p.last_run == run
    p.assert_equal(opensearch, changed=True)
    listed = p.reshelve("rejects", "list", run, "--all", "--json").expect(0).json
    assert {one["key"]: one["status"] for one in listed["rejects"]} == {"3": "superseded", "4": "superseded"}
    assert listed["count"] == 0


@pytest.mark.timeout(600)
def test_a_redriven_document_is_the_newest_one(pipeline: Pipeline, opensearch: OpenSearch) -> None:
    p = pipeline
    _with_rejects(p)
    run = p.last_run
    p.execute("update docs set n = '333' where id = 3")
    done = p.reshelve("rejects", "redrive", run, "--keys", "3", "--json").expect(0)
    assert done.json["accepted"] == 1
    before = p.indexed(opensearch, run.index)["3"]
    assert before.document == {"id": 3, "n": "333"}
    old = p.records(run)
    assert max(record.version for record in old if record.key == "3") == before.version
    _accept_anything(p, opensearch)
    p.reshelve("rejects", "redrive", run).expect(0)
    p.run().expect(0)
    assert p.indexed(opensearch)["3"] == before
    p.assert_equal(opensearch, changed=True)


@pytest.mark.timeout(600)
def test_searches_are_compared_before_the_swap(pipeline: Pipeline, opensearch: OpenSearch) -> None:
    p = pipeline
    p.execute(
        "create table docs (id bigint primary key, name text not null);"
        "insert into docs select n, case when n % 2 = 0 then 'even' else 'odd' end from generate_series(1, 30) n"
    )
    sort = [{"id": "asc"}]
    searches = [
        {"name": "even", "body": {"query": {"match": {"name": "even"}}, "sort": sort}},
        {"name": "odd", "body": {"query": {"match": {"name": "odd"}}, "sort": sort}},
        {"name": "wrong", "body": {"query": {"no such query": {}}}},
        {"name": "sorted by name", "body": {"query": {"match_all": {}}, "sort": [{"name.raw": "asc"}, *sort]}},
    ]
    (p.folder / "searches.jsonl").write_text("\n".join(map(json.dumps, searches)))
    raw = {"properties": {"id": {"type": "long"}, "name": {"type": "text", "fields": {"raw": {"type": "keyword"}}}}}
    queries = {"file": "searches.jsonl", "min_overlap": 0.9}
    p.write(definition={"mappings": raw}, validation={"queries": queries})
    p.run().expect(0)
    first = p.last_run
    assert "searches find what they found" not in (p.reports / str(first) / "report.md").read_text()
    p.execute("update docs set name = 'odd' where id = 2")
    bare = {"properties": {"id": {"type": "long"}, "name": {"type": "text"}}}
    p.write(definition={"mappings": bare}, validation={"queries": queries})
    done = p.run().expect(3)
    assert "searches find what they found" in done.stderr
    report = json.loads((p.reports / str(p.last_run) / "report.json").read_text())["queries"]
    assert (report["number"], report["compared"], report["failed"]) == (4, 3, 1)
    assert report["overlap"] == pytest.approx((0.9 + 0.9 + 0) / 3, abs=1e-3)
    worst = {one["name"]: one for one in report["worst"]}
    assert worst.keys() == {"even", "odd", "wrong", "sorted by name"}
    assert worst["wrong"]["error"].startswith("fails on the previous index: parsing_exception")
    assert worst["sorted by name"]["error"].startswith("fails on the new index:")
    assert (worst["even"]["vanished"], worst["even"]["came"]) == (["2"], ["22"])
    assert (worst["odd"]["vanished"], worst["odd"]["came"]) == (["19"], ["2"])
    found = p.reshelve("validate", p.last_run, "--level", "queries", "--json").expect(3)
    assert found.lines[0]["queries"]["worst"] == report["worst"]
    p.write(definition={"mappings": bare}, validation={"queries": queries | {"min_overlap": 0.5}})
    p.run().expect(0)
    markdown = (p.reports / str(p.last_run) / "report.md").read_text()
    assert "searches find what they found" in markdown and "fails on the new index" in markdown


@pytest.mark.timeout(600)
def test_a_reject_of_a_followed_run_is_redriven_beside_its_follower(pipeline: Pipeline, opensearch: OpenSearch) -> None:
    p = pipeline
    p.execute(
        "create table docs (id bigint primary key, n text not null);"
        "insert into docs select n, n::text from generate_series(1, 20) n"
    )
    p.write(definition={"mappings": _MAPPING}, follow="always")
    with following(p, "follower") as run:
        p.execute("update docs set n = 'abc' where id = 3; update docs set n = 'def' where id = 4")
        wait_for("two rejects", lambda: p.reshelve("rejects", "list", run, "--json").expect(0).json["count"] == 2)
        assert p.indexed(opensearch)["3"].document["n"] == "3", "the older document stays"
        p.reshelve("rejects", "waive", run, "--keys", "4", "--by", "Ada", "--why", "test data").expect(0)
        mapping = {"properties": {"n": {"type": "integer", "ignore_malformed": True}}}
        opensearch.indices.put_mapping(index=run.index, body=mapping)
        done = p.reshelve("rejects", "redrive", run, "--json").expect(0)
        assert (done.json["accepted"], done.json["keys"]) == (1, ["3"])
        assert p.indexed(opensearch)["3"].document["n"] == "abc"
        found = p.reshelve("validate", run, "--json").expect(0)
        assert sum(verdict["waived"] for verdict in found.json["partitions"]) == 1
        p.execute("update docs set n = '4' where id = 4")
        listed = p.reshelve("rejects", "list", run, "--all", "--json").expect(0).json
        assert {one["key"]: one["status"] for one in listed["rejects"]} == {"3": "redriven", "4": "waived"}
        p.reshelve("retire", run, "--yes").expect(0)
