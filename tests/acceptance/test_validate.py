"""A run is validated as often as one likes; each time it says what is so now."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from opensearchpy import OpenSearch
from pipeline import Pipeline

Docs = Callable[[int], Pipeline]


@pytest.mark.timeout(300)
def test_validated_again_and_again(docs: Docs, opensearch: OpenSearch) -> None:
    p = docs(300)
    p.write(changes="none")  # followed, it would be validated anew before the cut-over
    p.run("--until", "validated").expect(0)
    run = p.last_run

    opensearch.delete(index=run.index, id="7", params={"refresh": "true"})
    opensearch.index(index=run.index, id="by another", body={"id": 0, "name": "foreign"}, params={"refresh": "true"})
    found = p.reshelve("validate", run, "--json").expect(3).lines[0]
    assert found["drift"] == {"missing": 1, "extra": 1}
    keys = {tuple(pair) for verdict in found["partitions"] for pair in verdict["drifted"]}
    assert keys == {("7", "missing"), ("by another", "extra")}

    # A clean validation that is no longer true doesn't open the gate: it is recomputed.
    closed = p.reshelve("cutover", run).expect(3)
    assert "recomputed" in closed.stderr
    assert not opensearch.indices.exists_alias(name=p.alias)


@pytest.mark.timeout(300)
def test_a_run_that_stands_still_is_followed_meanwhile_and_one_that_has_ended_is_not(docs: Docs) -> None:
    p = docs(100)
    p.write()
    p.run("--until", "validated").expect(0)
    run = p.last_run
    p.execute("update docs set name = 'changed' where id < 10; delete from docs where id = 50")
    p.reshelve("validate", run).expect(0)

    p.run().expect(0)
    p.reshelve("validate", run).expect(0)
    p.execute("update docs set name = 'changed again' where id = 7; delete from docs where id = 51")
    found = p.reshelve("validate", run, "--json", "--level", "samples").expect(3).lines[0]
    assert found["levels"] == ["samples"]
    assert {tuple(pair) for verdict in found["partitions"] for pair in verdict["drifted"]} == {
        ("7", "stale"),
        ("51", "extra"),
    }
