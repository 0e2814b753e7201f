"""A run that waits for its owner, twice; nobody else's word counts."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from opensearchpy import OpenSearch
from pipeline import Pipeline
from signing import OWNER, make_keys

from reshelve.approval.ledger import keep, prepare
from reshelve.approval.payload import NAMESPACE, Action
from reshelve.context import RunContext
from reshelve.errors import ApprovalMissing
from reshelve.journal import read_journal
from reshelve.journal_audit import audit, read_records
from reshelve.model import approvals_of
from reshelve.plan import Plan
from reshelve.signatures import sign


def test_plan_and_swap_are_signed_by_the_owner_and_nothing_may_change_between(
    docs: Callable[[int], Pipeline], opensearch: OpenSearch, tmp_path: Path
) -> None:
    p = docs(50)
    (tmp_path / "keys").mkdir()
    keys = make_keys(tmp_path / "keys")
    approval = {"required": "signed", "allowed_signers": str(keys.signers.allowed), "cutover": True}

    def approve(plan: Plan, action: Action, key: str = "alice") -> None:
        context = RunContext(plan, plan.resolve(p.environ))
        payload = prepare(context, action, OWNER).encode()
        keep(context, payload, sign(payload, keys.key(key), NAMESPACE), "tester")

    signals = f"reshelve.{p.name}.signals"
    asked: dict[str, Any] = {"owner": OWNER, "why": "a test", "approval": approval, "changes": "none"}
    asked["notify"] = {"topic": signals}
    p.write(**asked, limits={"max_rejects": 10})
    p.reshelve("plan", p.spec, "--out", "old.json").expect(0)
    approve(Plan.from_json((p.folder / "old.json").read_bytes()), "run")

    # The plan changes after it was approved: what changed is told, and nothing is made.
    p.write(**asked, limits={"max_rejects": 20})
    refused = p.run().expect(3)
    assert "spec.limits.max_rejects: 10 → 20" in refused.stderr
    run = str(p.last_run)
    assert f"reshelve approve {run} --sign KEY" in refused.stderr
    assert p.topics() == [signals] and not opensearch.indices.exists(index=p.last_run.index)

    # Another's key does not count in the owner's name. It is signed elsewhere, and the run goes on up to the swap.
    plan = p.states()[-1].plan
    with pytest.raises(ApprovalMissing, match="does not count") as caught:
        approve(plan, "run", key="mallory")
    assert "signature is not good" in caught.value.why
    p.reshelve("approve", run, "--payload", "to-sign").expect(0)
    command = ["ssh-keygen", "-Y", "sign", "-n", NAMESPACE, "-f", str(keys.key("alice")), "to-sign"]
    subprocess.run(command, cwd=p.folder, check=True, capture_output=True)
    p.reshelve("approve", run, "--signature", "to-sign.sig").expect(0)
    waiting = p.run().expect(3)
    assert f"reshelve approve {run} --cutover --sign KEY" in waiting.stderr
    assert not opensearch.indices.exists_alias(name=p.alias) and not p.states()[-1].swapped

    # What was validated is approved, and the alias is moved. Both approvals are spent by this run; neither is a run.
    approve(plan, "cutover")
    p.reshelve("cutover", run).expect(0)
    p.assert_equal(opensearch)
    used = [event.data["action"] for event in read_journal(p.cluster, run=p.last_run) if event.kind == "approval_used"]
    assert used == ["run", "cutover"]
    assert [str(state.run) for state in p.states()] == [run]
    assert len(list(read_journal(p.cluster, run=approvals_of(p.name)))) == 3

    # Who waits for it was told each time how it ended; the journal proves itself, and the report is there as a page.
    told = [json.loads(message.value() or b"") for message in p.cluster.read(signals, [0])]
    assert [event["data"]["message"] for event in told] == ["Reindex blocked", "Reindex blocked", "Reindex complete"]
    assert {event["subject"] for event in told} == {run} and len({event["id"] for event in told}) == 3
    assert audit(*read_records(p.cluster), reindex=p.name).faults == ()
    page = (p.reports / run / "report.html").read_text()
    assert OWNER in page and "<svg" in page and "approval_used" in page
