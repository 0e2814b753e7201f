"""A run of a part of the source, in phases, in one of several environments, by a role with the least privileges."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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
        changes={"replication": {"publication": "docs_changes"}},
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
    with _least_privileged(p):
        p.run("--environment", "staging").expect(0)

    p.assert_equal(opensearch, _SCOPE)
    status = p.reshelve("status", p.name, "--json").expect(0).json
    assert status["environment"] == "staging"
    assert [one["name"] for one in status["phases"] if one["ended"]] == ["newest", "oldest", "rest"]
    _assert_in_order(p, p.states()[-1].plan)
    report = json.loads((p.reports / str(p.last_run) / "report.json").read_text())
    assert (report["scope"]["kind"], report["scope"]["text"]) == ("partial", "id % 10 <> 0; keys after 100 up to 900")
    assert (report["why"], report["environment"], len(report["phases"])) == ("data fix (T-1)", "staging", 3)


@contextmanager
def _least_privileged(p: Pipeline) -> Iterator[None]:
    """Reshelve reads the source as a role that has what `--print-grants` prints, and nothing else."""
    role, owner = f"r{p.name}".replace("-", "_"), p.environ["SOURCE_URL"]
    asked = ("check", p.spec, "--environment", "staging", "--print-grants", "--role", role, "--json")
    grants = p.reshelve(*asked).expect(0).json["grants"]["postgres.sql"]
    p.execute(grants.replace(" login;", " login password 'r0le-password';", 1))
    p.environ["SOURCE_URL"] = re.sub("//[^@]*@", f"//{role}:r0le-password@", owner)
    try:
        yield
    finally:
        p.environ["SOURCE_URL"] = owner
        p.execute(f"drop owned by {role}; drop role {role}")


def _assert_in_order(p: Pipeline, plan: Plan) -> None:
    """No page of a phase was read before the last one of the phase before."""
    read: dict[str, list[float]] = {phase.name: [] for phase in plan.phases}
    for at, receipt in p.receipts():
        (phase,) = [one for one in plan.phases if one.first <= receipt.segment <= one.last]
        read[phase.name].append(at)
    assert max(read["newest"]) <= min(read["oldest"]) <= max(read["oldest"]) <= min(read["rest"])
