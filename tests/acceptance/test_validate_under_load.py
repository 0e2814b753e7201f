"""Validation while pgbench writes: it raises no false alarm, and finds exactly what was planted in the index."""

from __future__ import annotations

import time
from typing import Any

import pytest
from load import SEEDS, Load, following, write_spec
from opensearchpy import OpenSearch
from pipeline import Pipeline

_ROWS = 2_000
_FIRST = 1_000_000  # of rows that the load never touches, nor their countries
_PLAIN = {"id": 0, "n": 0, "name": "somebody else", "country": None, "parts": None}


@pytest.mark.timeout(400)
def test_drift_is_found_and_nothing_else_is_while_everything_goes_on(
    pipeline: Pipeline, opensearch: OpenSearch
) -> None:
    load = Load(pipeline, _ROWS, SEEDS[0], rate=200)
    load.prepare()
    pipeline.execute(
        f"insert into items select {_FIRST} + n, 0, 'still', {_FIRST} from generate_series(0, 99) n; analyze items"
    )
    write_spec(pipeline, documents_per_second=100_000)
    spec = pipeline.spec.read_text()
    pipeline.spec.write_text(spec + "validation: {samples_per_partition: 10000}\n")
    with load.running(), following(pipeline, "run") as run:
        unsettled = 0
        for levels in ((), ("checksums", "full")):
            asked = [word for level in levels for word in ("--level", level)]
            found = pipeline.reshelve("validate", run, "--json", *asked).expect(0).lines[0]
            assert found["drift"] == {}, found["summary"]
            unsettled += found["unsettled"]
        planted = _plant(opensearch, run.index)
        found = pipeline.reshelve("validate", run, "--json").expect(3).lines[0]
        assert _drifted(found) == planted, found["summary"]
        assert not found["faults"]
        load.finish()
        pipeline.reshelve("retire", run, "--yes").expect(0)
    assert unsettled, "the load was none"


def _plant(client: OpenSearch, index: str) -> dict[str, str]:
    """Writes past the topic; returns the keys with the class that each is of."""
    missing, stale, foreign, different = (str(_FIRST + n) for n in range(4))
    ghost = "no key of the source"
    before = {key: client.get(index=index, id=key) for key in (stale, foreign, different)}
    settings = client.indices.get_settings(index=index, params={"flat_settings": "true"})[index]["settings"]
    _set_gc_deletes(client, index, "0s")
    for key in (missing, stale):
        client.delete(index=index, id=key)
    time.sleep(1.1)  # deleted versions are forgotten on the engine's next look at its clock
    client.indices.refresh(index=index)
    _write(client, index, stale, before[stale]["_source"], before[stale]["_version"] - 1)
    _set_gc_deletes(client, index, settings.get("index.gc_deletes"))
    _write(client, index, foreign, before[foreign]["_source"], before[foreign]["_version"] + 1)
    _write(client, index, different, _PLAIN, before[different]["_version"])
    _write(client, index, ghost, _PLAIN, before[stale]["_version"])
    return {missing: "missing", stale: "stale", foreign: "foreign", different: "different", ghost: "extra"}


def _set_gc_deletes(client: OpenSearch, index: str, value: str | None) -> None:
    client.indices.put_settings(index=index, body={"index.gc_deletes": value})


def _write(client: OpenSearch, index: str, key: str, document: dict[str, Any], version: int) -> None:
    params = {"version": str(version), "version_type": "external_gte"}
    client.index(index=index, id=key, body=document, params=params)


def _drifted(found: dict[str, Any]) -> dict[str, str]:
    return {key: drift for verdict in found["partitions"] for key, drift in verdict["drifted"]}
