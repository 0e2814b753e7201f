"""The end of a run as a CloudEvent 1.0, in the structured JSON format. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from reshelve.state import RunState

CONTENT_TYPE: Final = "application/cloudevents+json; charset=UTF-8"
_TYPE: Final = "io.reshelve.reindex."
_MESSAGES: Final = {
    "completed": "Reindex complete",
    "blocked": "Reindex blocked",
    "aborted": "Reindex aborted",
    "failed": "Reindex failed",
}


@dataclass(frozen=True, slots=True)
class CloudEvent:
    """id: the same for the same end of a run, so that who gets it twice can tell; key: that events of one reindex are
    kept in order by."""

    id: str
    type: str
    key: str
    facts: dict[str, Any]

    def encode(self) -> bytes:
        """All of it, as JSON."""
        return json.dumps(self.facts, ensure_ascii=False).encode()


def outcome(state: RunState) -> str | None:
    """How the run has ended now: completed, blocked, aborted or failed; None where it has not, or did so before."""
    if state.state in ("blocked", "failed", "aborted"):
        return state.state
    if state.state in ("completed", "following") and state.since == state.ended_at and not state.adopted:
        return "completed"
    return None


def cloud_event(state: RunState, how: str) -> CloudEvent:
    """What is told of a run that has just ended."""
    plan = state.facts.get("planned", {}).get("plan", {})
    aborted = state.facts.get("aborted", {}) if how == "aborted" else {}
    identifier = f"{state.run}/{how}/{state.since}"
    facts = {
        "specversion": "1.0",
        "id": identifier,
        "source": f"/reshelve/{state.run.reindex}",
        "type": _TYPE + how,
        "subject": str(state.run),
        "time": state.since,
        "datacontenttype": "application/json",
        "data": {
            "message": _MESSAGES[how],
            "outcome": how,
            "reindex": state.run.reindex,
            "run": str(state.run),
            "environment": state.environment or None,
            "owner": state.owner or None,
            "why": (plan.get("spec") or {}).get("why"),
            "alias": plan.get("alias"),
            "index": plan.get("index"),
            "previous_index": plan.get("previous_index"),
            "swapped": bool(state.swapped_at),
            "rolled_back": state.rolled_back,
            "plan_hash": plan.get("hash"),
            "documents": state.facts.get("copied", {}).get("documents"),
            "validation": state.facts.get("validated", {}).get("summary"),
            "started_at": state.started_at or None,
            "ended_at": state.since,
            "duration_seconds": state.duration_s,
            "stage": state.stage,
            "error": state.error,
            "aborted_by": aborted.get("by"),
            "aborted_why": aborted.get("why"),
        },
    }
    return CloudEvent(identifier, _TYPE + how, state.run.reindex, facts)
