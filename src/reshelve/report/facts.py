"""The facts of a run's report, all of them from its journal: what an auditor, or the next person on call, asks for."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from reshelve import __version__
from reshelve.plan import Plan
from reshelve.spec.scope import scope_of
from reshelve.state import RunState


def report_facts(plan: Plan, state: RunState) -> dict[str, Any]:
    """The report as data. Everything in it comes from the journal."""
    seen = state.facts
    return {
        "version": 2,
        "reshelve": __version__,
        "run": str(state.run),
        "reindex": plan.reindex,
        "outcome": _outcome(state),
        "error": state.error,
        "aborted": seen.get("aborted") if state.state == "aborted" else None,
        "told": seen.get("notified", {}).get("told", []),
        "not_told": [text for _, kind, text in state.log if kind == "notify_failed"],
        "environment": plan.environment or None,
        "owner": state.owner or None,
        "delegates": plan.spec.get("delegates") or [],
        "why": seen.get("planned", {}).get("why"),
        "why_kind": (plan.spec.get("why") or {}).get("kind"),
        "planned_at": state.planned_at,
        "started_at": state.started_at,
        "ended_at": state.ended_at or None,
        "duration_seconds": state.duration_s,
        "plan_hash": plan.hash,
        "spec": plan.spec,
        "approval": plan.spec["approval"]["required"],
        "approvals": [_approval(one) for one in state.approvals],
        "rehearsed": seen.get("rehearsed"),
        "backed_up": seen.get("backed_up"),
        "forecast": _forecast(plan, state),
        "scope": {
            "kind": "partial" if scope_of(plan.spec).partial else "full",
            "text": str(scope_of(plan.spec)),
            "where": plan.spec["scope"]["where"],
            "keys": plan.spec["scope"]["keys"],
            "query": plan.spec["source"]["postgres"]["query"],
        },
        "source": plan.spec["source"]["postgres"]["url"],
        "alias": plan.alias,
        "index": plan.index,
        "index_uuid": state.index_uuid or None,
        "previous_index": plan.previous_index,
        "changes": {
            "mode": plan.changes.mode,
            "slot": plan.changes.slot or None,
            "publication": plan.changes.publication or None,
            "follow": plan.spec.get("follow"),
            "ignored": list(plan.changes.ignored),
            "began": seen.get("slot"),
            "settled_keys": seen.get("settled", {}).get("keys"),
            "slot_dropped": "slot_dropped" in seen,
        },
        "notes": list(plan.notes),
        "copied": seen.get("copied"),
        "validation": seen.get("validated"),
        "queries": seen.get("queries"),
        "rejects": {
            "open": seen.get("checkpoint", {}).get("rejects", 0),
            "redriven": state.redriven,
            "waivers": state.waivers,
        },
        "gates": seen.get("gates", {}).get("gates"),
        "cutover": seen.get("cutover"),
        "rolled_back": state.rolled_back,
        "kept_until": state.kept_until.isoformat(timespec="seconds") if state.kept_until else None,
        "stages": state.stages,
        "phases": state.phase_facts(),
        "errors": state.errors,
        "commands": state.commands,
        "checkpoint": seen.get("checkpoint"),
        "samples": state.samples.as_dict(),
        "log": [{"at": at, "kind": kind, "text": text} for at, kind, text in state.log],
        "journal": {"topic": "reshelve.journal", "run": str(state.run), "entries": state.events},
    }


def _outcome(state: RunState) -> str:
    if state.rolled_back:
        return "Rolled back"
    if state.state == "completed":
        return "Completed: Index adopted" if state.adopted else "Completed: Reindex complete"
    return {"blocked": "Blocked", "failed": "Failed", "aborted": "Aborted"}.get(state.state, state.state.capitalize())


def _approval(used: dict[str, Any]) -> dict[str, Any]:
    """Without the bytes that were signed: these are in the journal."""
    return {name: used.get(name) for name in ("action", "by", "key", "approved_at", "expires", "nonce")} | {
        "signed": used.get("signature") is not None
    }


def _forecast(plan: Plan, state: RunState) -> dict[str, Any]:
    """What was foretold of copying and indexing, and what came of it; None: it is not over."""
    began = state.stages.get("copy")
    ended = state.stages.get("validate")
    seconds = None
    if began and ended:
        seconds = (datetime.fromisoformat(ended) - datetime.fromisoformat(began)).total_seconds()
    copied = state.facts.get("copied", {})
    return {
        "seconds_low": plan.forecast.seconds_low,
        "seconds_high": plan.forecast.seconds_high,
        "basis": plan.forecast.basis,
        "seconds": seconds,
        "estimated_documents": plan.estimated_documents,
        "documents": copied.get("documents"),
        "estimated_bytes": plan.estimated_bytes,
        "bytes": copied.get("bytes"),
    }
