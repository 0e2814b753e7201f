"""A run of a part of the source, in phases, in one of several environments."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from opensearchpy import OpenSearch
from pipeline import Pipeline

from reshelve.plan import Plan

Docs = Callable[[int], Pipeline]
_SCOPE = "select * from public.docs where id > 100 and id <= 900 and id % 10 <> 0"


@pytest.mark.timeout(300)
def test_phases_of_a_key_range_in_an_environment(docs: Docs, opensearch: OpenSearch) -> None:
    p = docs(1_000)
    p.write(
        owner="search team",
        why={"kind": "data_fix", "reference": "T-1"},
        kafka={"bootstrap": "${NOT_SET_ANYWHERE}"},
        scope={"where": "id % 10 <> 0", "keys": {"low": 100, "high": 900}},
        phases=[
            {"name": "newest", "keys": {"low": 600}},
            {"name": "oldest", "keys": {"high": 300}},
            {"name": "rest", "keys": {"low": 300, "high": 600}},
        ],
        environments={
            "staging": {"kafka": {"bootstrap": "${KAFKA_BOOTSTRAP}"}},
            "production": {"kafka": {"bootstrap": "${ALSO_NOT_SET}"}},
        },
    )
    p.run().expect(2)  # none is chosen
    p.run("--environment", "staging").expect(0)

    p.assert_equal(opensearch, _SCOPE)
    status = p.reshelve("status", p.name, "--json").expect(0).json
    assert status["environment"] == "staging"
    assert [one["name"] for one in status["phases"] if one["ended"]] == ["newest", "oldest", "rest"]
    _assert_in_order(p, p.states()[-1].plan)
    report = (p.reports / str(p.last_run) / "report.md").read_text()
    for text in ("partial: `id % 10 <> 0; keys after 100 up to 900`", "data fix (T-1)", "| newest |", "staging"):
        assert text in report


def _assert_in_order(p: Pipeline, plan: Plan) -> None:
    """No page of a phase was read before the last one of the phase before."""
    read: dict[str, list[float]] = {phase.name: [] for phase in plan.phases}
    for at, receipt in p.receipts():
        (phase,) = [one for one in plan.phases if one.first <= receipt.segment <= one.last]
        read[phase.name].append(at)
    assert max(read["newest"]) <= min(read["oldest"]) <= max(read["oldest"]) <= min(read["rest"])
