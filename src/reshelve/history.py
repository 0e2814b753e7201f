"""What runs before have taken: a pure look at their states."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from reshelve.forecast import Measured
from reshelve.state import RunState

_FIRST, _LAST = "copy", "validate"


def last_measured(states: Iterable[RunState]) -> Measured | None:
    """The newest run that was copied in one go and completed; None: there is none. One that was interrupted has stood
    still for nobody knows how long."""
    found = [state for state in states if "completed" in state.facts and not state.adopted and _in_one_go(state)]
    if not found:
        return None
    state = found[-1]
    copied = state.facts["copied"]
    seconds = datetime.fromisoformat(state.stages[_LAST]) - datetime.fromisoformat(state.stages[_FIRST])
    return Measured(str(state.run), int(copied["documents"]), int(copied["bytes"]), seconds.total_seconds())


def _in_one_go(state: RunState) -> bool:
    known = "copied" in state.facts and {_FIRST, _LAST} <= state.stages.keys()
    return known and not state.facts.get("started", {}).get("resumed", False)
