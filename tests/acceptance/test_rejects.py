"""Documents that can't be indexed: told with their reason, while the rest is indexed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
from opensearchpy import OpenSearch
from pipeline import Pipeline

Docs = Callable[[int], Pipeline]

_LONG_KEY = "k" * 513
# Runs a command and says what memory its largest process had, in KiB: our own would count what else we ran.
_MEASURED = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
print("peak", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.timeout(300)
def test_documents_that_are_refused_are_listed_and_the_rest_is_indexed(
    pipeline: Pipeline, opensearch: OpenSearch
) -> None:
    """A value the mapping refuses, an `_id` that is too long or empty, and a document of 30 MB."""
    p = pipeline
    p.execute("create table docs (id text primary key, n text not null)")
    p.execute("insert into docs select 'good ' || n, n::text from generate_series(1, 200) n")
    p.execute(
        "insert into docs values ('not a number', 'abc'), ('', '1'), (repeat('k', 513), '1'), (repeat('k', 512), '1')"
    )
    p.execute("insert into docs values ('huge', repeat('x', 30000000))")
    p.write(definition={"mappings": {"properties": {"n": {"type": "integer"}}}})
    peak = _run_measured(p)
    assert peak < 300 << 10, f"a process had {peak} KiB"
    run = p.last_run
    found = p.reshelve("rejects", "list", run, "--json").expect(0).json
    reasons = {reject["key"]: reject["reason"] for reject in found["rejects"]}
    assert found["count"] == 4 and reasons.keys() == {"not a number", "", _LONG_KEY, "huge"}
    assert "failed to parse" in reasons["not a number"] and "abc" in reasons["not a number"]
    assert "512" in reasons[_LONG_KEY]
    assert "must not be empty" in reasons[""]
    assert "kafka.max_document_bytes" in reasons["huge"] and "8388608" in reasons["huge"]
    listed = p.reshelve("rejects", "list", run).expect(0).stdout
    assert "4 rejected documents" in listed and "failed to parse" in listed
    status = p.reshelve("status", run, "--json").expect(0).json
    assert (status["state"], status["stage"]) == ("blocked", "validate")
    assert status["checkpoint"]["rejects"] == 4
    assert not opensearch.indices.exists(index=p.alias)
    indexed = p.indexed(opensearch, run.index)
    bad = {*reasons}
    assert {key: one.document for key, one in indexed.items()} == {
        key: document for key, document in p.source(key="id").items() if key not in bad
    }
    p.reshelve("cutover", run).expect(3)
    assert not opensearch.indices.exists(index=p.alias)


def _run_measured(p: Pipeline) -> int:
    """A run that ends blocked because of four rejects; KiB of memory that its largest process had."""
    command = [sys.executable, "-c", _MEASURED, sys.executable, "-m", "reshelve", "run", str(p.spec)]
    process = subprocess.Popen(
        command, cwd=p.folder, env=p.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    done = p.finish(process).expect(3)
    assert "4 documents were rejected; the rest is indexed" in done.stderr
    assert f"reshelve rejects list {p.last_run}" in done.stderr
    return int(done.stderr.rsplit("peak", 1)[1])


_FAULTY = """
def change(document):
    match document["id"] % 10:
        case 3:
            raise KeyError("no such thing")
        case 4:
            return [document]
        case 5:
            return None
    return {**document, "name": document["name"].upper()}
"""
_SOUND = """
def change(document):
    return None if document["id"] % 10 == 5 else {**document, "name": document["name"].upper()}
"""


@pytest.mark.timeout(300)
def test_a_transform_that_fails_rejects_its_document_and_no_more(docs: Docs, opensearch: OpenSearch) -> None:
    p = docs(100)
    hook = p.folder / "hooks.py"
    hook.write_text(_FAULTY)
    p.write(transform="hooks:change")
    done = p.run().expect(3)
    assert "20 documents were rejected; the rest is indexed" in done.stderr
    assert "ended:" not in done.stderr, "a worker died"
    found = p.reshelve("rejects", "list", p.last_run, "--json").expect(0).json
    assert found["count"] == 20
    reasons = {int(reject["key"]) % 10: (reject["stage"], reject["reason"]) for reject in found["rejects"]}
    assert reasons == {
        3: ("transform", "KeyError: 'no such thing'"),
        4: ("transform", "the transform returned list, not dict or None"),
    }
    hook.write_text(_SOUND)
    done = p.run("--new", "--json").expect(0)
    assert done.json["copied"]["left_out"] == 10 and done.json["copied"]["documents"] == 90
    p.assert_equal(opensearch, "select id, upper(name) as name from public.docs where id % 10 <> 5")


@pytest.mark.timeout(300)
def test_a_document_of_30_mb_is_indexed_where_the_spec_allows_it(pipeline: Pipeline, opensearch: OpenSearch) -> None:
    """It is larger than the page reader's queue and than a bulk request would be otherwise."""
    p = pipeline
    p.execute("create table docs (id bigint primary key, t text not null)")
    p.execute("insert into docs values (1, 'before'), (2, repeat('x', 30000000)), (3, 'after')")
    mapping = {"properties": {"t": {"type": "keyword", "index": False, "doc_values": False}}}
    p.write(definition={"mappings": mapping}, kafka={"max_document_bytes": 40 << 20})
    p.run().expect(0)
    p.assert_equal(opensearch)
