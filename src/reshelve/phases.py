"""The copy, phase by phase: which page tasks may be written by now, and what the journal says of it.

What decides is in the receipts alone: a phase begins when they tile those that it needs. So a run that was killed
anywhere goes on right: tasks that are there already are not written again, nor are entries of the journal."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

from reshelve.context import RunContext
from reshelve.model import PhasePlan, Segment
from reshelve.producers.tasks import seed_pages
from reshelve.receipts import Tiling
from reshelve.state import PHASE_BEGAN, PHASE_ENDED, RunState

_UNNAMED: Final = ""


def is_copied(phase: PhasePlan, open_segments: Collection[int]) -> bool:
    """Whether the receipts tile all of its segments."""
    return not any(number in open_segments for number in range(phase.first, phase.last + 1))


def may_begin(phases: Sequence[PhasePlan], open_segments: Collection[int]) -> tuple[PhasePlan, ...]:
    """Those whose page tasks may be there, in their order: all that they need is copied. Pure."""
    copied = {phase.name for phase in phases if is_copied(phase, open_segments)}
    return tuple(phase for phase in phases if copied.issuperset(phase.needs))


class PhasedCopy:
    """Has page tasks written as the phases allow; a plan without phases is one of them, which has no name."""

    def __init__(
        self,
        context: RunContext,
        state: RunState,
        record: Callable[[str, dict[str, Any]], None],
        say: Callable[[str], None],
    ) -> None:
        self._context, self._state, self._record, self._say = context, state, record, say
        last = len(context.plan.segments) - 1
        whole = PhasePlan(_UNNAMED, None, None, (), 0, last, context.plan.estimated_documents)
        self._phases = context.plan.phases or (whole,)
        self._seeded: set[str] = set()
        self._ended: set[str] = set()

    def due(self, tiling: Tiling) -> bool:
        """Whether there is something to do: a phase may begin, or has ended."""
        open_segments = _open(tiling)
        begin = {phase.name for phase in may_begin(self._phases, open_segments)}
        end = {phase.name for phase in self._phases if is_copied(phase, open_segments)}
        return not (begin <= self._seeded and end <= self._ended)

    def waits(self, tiling: Tiling) -> bool:
        """Whether there is only to wait for more receipts."""
        return not (tiling.complete or tiling.faults or self.due(tiling))

    def go_on(self, tiling: Tiling) -> None:
        """Do it. Raises ReshelveError."""
        open_segments = _open(tiling)
        for phase in self._phases:
            if is_copied(phase, open_segments):
                self._begin(phase)  # a process before this one may have died between the tasks and the entry
                self._note(phase, PHASE_ENDED, f"phase {phase.name} is copied")
                self._ended.add(phase.name)
        for phase in may_begin(self._phases, open_segments):
            self._begin(phase)

    def _begin(self, phase: PhasePlan) -> None:
        if phase.name in self._seeded:
            return
        context = self._context
        seed_pages(context.cluster, context.run, self._segments(phase), context.partitions, self._say)
        self._note(phase, PHASE_BEGAN, f"phase {phase.name}: about {phase.estimated_documents:,} documents")
        self._seeded.add(phase.name)

    def _segments(self, phase: PhasePlan) -> tuple[Segment, ...]:
        return self._context.plan.segments[phase.first : phase.last + 1]

    def _note(self, phase: PhasePlan, event: str, text: str) -> None:
        if phase.name == _UNNAMED or event in self._state.phases.get(phase.name, {}):
            return
        self._record(event, {"phase": phase.name, "segments": phase.last - phase.first + 1})
        self._say(text)


def _open(tiling: Tiling) -> set[int]:
    return {number for number, _ in tiling.open}
