"""How it stands with the approval that a run needs: before it makes anything, when it goes on, and before the swap."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from reshelve.approval.circumstances import Circumstances
from reshelve.approval.decision import Decision, Wanted, decide
from reshelve.approval.payload import Action
from reshelve.context import RunContext
from reshelve.errors import ApprovalMissing, UsageError
from reshelve.journal import APPROVAL_USED, Event
from reshelve.plan import Plan
from reshelve.plan_difference import facts_differences, plan_differences
from reshelve.spec import Spec

Record = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Standing:
    """What was found.

    needed       what it takes, for people
    differences  between the plan of the newest approval that only names another one, and this one
    remedy       the next commands
    use          the data of the entry `approval_used`; None: the run has it already, or nothing is accepted
    """

    decision: Decision
    needed: str
    differences: tuple[str, ...] = ()
    remedy: str = ""
    use: Mapping[str, Any] | None = None

    @property
    def accepted(self) -> bool:
        return self.decision.accepted is not None

    def summary(self) -> str:
        """What was found, in a line."""
        if self.decision.accepted is not None:
            return self.decision.summary()
        changed = f"; what changed since that was approved: {', '.join(self.differences)}" if self.differences else ""
        return self.decision.why + changed


def look(context: RunContext, action: Action) -> Standing | None:
    """How it stands with the approval that `action` of the context's run needs now; None: it needs none.

    The swap needs that of the run once more, where it is not approved apart. Raises ReshelveError when it can't be
    told."""
    spec, plan = context.spec, context.plan
    if spec.approval.required == "none":
        return None
    if action == "cutover" and not spec.approval.cutover:
        action = "run"
    found = Circumstances.now(context)
    wanted = found.wanted(action)
    decision = decide(wanted, found.given(), datetime.now(UTC), found.uses)
    needed, remedy = _needed(wanted), _remedy(spec, plan, action)
    if decision.accepted is None or decision.given is None:
        return Standing(decision, needed, _differences(found, decision), remedy)
    spent = decision.accepted.nonce in found.uses
    use = None if spent else _use(spec, decision, found.approvals[decision.given])
    return Standing(decision, needed, (), remedy, use)


def require_approved(context: RunContext, record: Record, say: Callable[[str], None]) -> None:
    """Before a run makes anything, or goes on: the plan is approved, and the spec is still what it was.

    Raises ApprovalMissing with what is missing, what changed, and the next commands."""
    found = look(context, "run")
    if found is None:
        return
    changed = facts_differences(context.plan.spec, context.spec.public())
    if changed:
        raise ApprovalMissing(
            f"the spec is not the one that was planned for run {context.run}",
            where=context.plan.reindex,
            why="; ".join(str(one) for one in changed),
            remedy="undo the change, or give the run up with --new and have its plan approved",
        )
    if not found.accepted:
        raise ApprovalMissing(
            f"the plan is not approved ({context.plan.hash[:12]}…)",
            where=str(context.run),
            why=f"{found.summary()} (needed: {found.needed})",
            remedy=found.remedy,
        )
    say(f"approved {found.summary()}")
    spend(found, record)


def spend(found: Standing | None, record: Record) -> None:
    """Say in the run's journal that it goes by this approval, if it has not yet: that spends the nonce."""
    if found is not None and found.use is not None:
        record(APPROVAL_USED, dict(found.use))


def _use(spec: Spec, decision: Decision, event: Event) -> dict[str, Any]:
    payload = decision.accepted
    assert payload is not None
    return {
        "nonce": payload.nonce,
        "action": payload.action,
        "by": payload.approver,
        "key": decision.key or None,
        "approved_at": event.at,
        "expires": payload.expires,
        "signers": spec.approval.allowed_signers,
        "payload": event.data["payload"],
        "signature": event.data["signature"],
    }


def _differences(found: Circumstances, decision: Decision) -> tuple[str, ...]:
    if decision.other_plan is None:
        return ()
    approved = found.approvals[decision.other_plan].data["plan"]
    if approved is None:
        return ()
    try:
        plan = Plan.from_json(json.dumps(approved))
    except UsageError:
        return ("its plan is of another release",)
    return tuple(str(one) for one in plan_differences(plan, found.context.plan))


def _needed(wanted: Wanted) -> str:
    who = " or ".join(sorted(wanted.people))
    how = "signed by" if wanted.level == "signed" else "in the name of"
    what = "the swap of a clean validation of this run" if wanted.action == "cutover" else "this plan"
    return f"{what}, {how} {who}"


def _remedy(spec: Spec, plan: Plan, action: Action) -> str:
    how = "--sign KEY" if spec.approval.required == "signed" else f"--by {spec.owner}"
    if action == "cutover":
        return f"have it approved: reshelve approve {plan.run} --cutover {how}; then: reshelve cutover {plan.run}"
    return f"have it approved: reshelve approve {plan.run} {how}; then run again"
