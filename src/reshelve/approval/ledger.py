"""Approvals are prepared, to be signed, and kept in the journal.

They stand under a key of the reindex's own (`model.approvals_of`), because one is given before its run exists. A run
that goes by one says so in its own entries (`approval_used`), which spends the nonce."""

from __future__ import annotations

import socket
from dataclasses import replace
from datetime import UTC, datetime

from reshelve.approval.circumstances import Circumstances, people, verdict_of
from reshelve.approval.decision import Decision, Given, decide
from reshelve.approval.payload import Action, Payload, expiry, new_nonce
from reshelve.context import RunContext
from reshelve.errors import ApprovalMissing, UsageError
from reshelve.journal import APPROVED, JournalWriter, create_journal
from reshelve.model import approvals_of
from reshelve.spec import Spec


def prepare(context: RunContext, action: Action, approver: str) -> Payload:
    """What `approver` is to sign now. `context`: of the plan, or for a cut-over of its run.

    Raises UsageError when the spec asks for no such approval, or there is nothing to approve, ApprovalMissing when
    `approver` may not approve."""
    spec, plan = context.spec, context.plan
    _require_asked_for(spec, action, approver)
    wanted = Circumstances.now(context).wanted(action)
    payload = Payload(
        action=action,
        approver=approver,
        reindex=plan.reindex,
        alias=wanted.alias,
        plan=plan.hash,
        kafka=wanted.kafka,
        opensearch=wanted.opensearch,
        previous_uuid=wanted.previous_uuid,
        nonce=new_nonce(),
        expires=expiry(datetime.now(UTC), spec.approval.valid_hours),
    )
    if action == "run":
        return payload
    if not wanted.validations:
        raise UsageError(
            f"run {plan.run} has no validation to approve",
            why="it was not validated yet, or the last validation found differences",
            remedy="`reshelve run` with its spec goes on with it until it waits for this approval",
        )
    validation, clock = list(wanted.validations.items())[-1]
    return replace(payload, run=plan.run, index_uuid=wanted.index_uuid, validation=validation, clock=clock)


def keep(context: RunContext, payload: bytes, signature: str | None, recorder: str) -> Decision:
    """Record an approval in the journal, if it would count now. `recorder`: the user who brings it, on this machine.

    Raises ApprovalMissing when it would not count."""
    spec, plan = context.spec, context.plan
    try:
        said = Payload.decode(payload)
    except ValueError as error:
        remedy = "write it with `reshelve approve --payload`, and sign exactly that file"
        raise UsageError("this is no approval", why=str(error), remedy=remedy) from None
    _require_asked_for(spec, said.action, said.approver)
    now = datetime.now(UTC)
    circumstances = Circumstances.now(context)
    given = Given(now.isoformat(timespec="seconds"), payload, verdict_of(spec, payload, signature))
    decision = decide(circumstances.wanted(said.action), [given], now, circumstances.uses)
    if decision.accepted is None:
        remedy = "write a new one with `reshelve approve --payload`, and have it signed by the owner or a delegate"
        raise ApprovalMissing("this approval does not count", where=plan.reindex, why=decision.why, remedy=remedy)
    create_journal(context.cluster, spec.kafka.replication_factor)
    JournalWriter(context.cluster, approvals_of(plan.reindex), shared=True).append(
        APPROVED,
        {
            "action": said.action,
            "by": said.approver,
            "key": decision.key or None,
            "plan_hash": said.plan,
            "run": said.run,
            "expires": said.expires,
            "payload": payload.decode(),
            "signature": signature,
            "recorded_by": f"{recorder}@{socket.gethostname()}",
            "plan": plan.as_dict() if said.action == "run" else None,
        },
    )
    return decision


def _require_asked_for(spec: Spec, action: Action, approver: str) -> None:
    if spec.approval.required == "none":
        remedy = "ask for it in the spec (`approval.required`), and plan again"
        raise UsageError("the plan needs no approval", why="its spec does not ask for one", remedy=remedy)
    if action == "cutover" and not spec.approval.cutover:
        remedy = "approve the plan, or ask for it in the spec (`approval.cutover: true`)"
        raise UsageError("the cut-over is not approved apart", why="the approval of the run covers it", remedy=remedy)
    if approver not in people(spec):
        raise ApprovalMissing(
            f"{approver} can't approve {spec.reindex}",
            why="only its owner and delegates can: " + ", ".join(sorted(people(spec))),
            remedy="have one of them approve, or name who approves by --by",
        )
