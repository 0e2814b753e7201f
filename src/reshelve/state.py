"""What a run's journal says about it: a pure fold over its entries."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from reshelve.entries import entry_text
from reshelve.errors import UsageError
from reshelve.journal import Event
from reshelve.model import RunId, is_run
from reshelve.plan import Plan
from reshelve.samples import Sample, Samples

PHASE_BEGAN: Final = "phase_began"
PHASE_ENDED: Final = "phase_ended"
ENDED: Final = frozenset({"completed", "aborted"})


@dataclass(slots=True)
class RunState:
    """A run as its journal tells it.

    state       planned, running, interrupted, blocked, failed, completed, following or aborted
    since       when it came into that state (ISO 8601 UTC)
    error       the error that blocked or failed it, as facts
    facts       the newest data of each kind of entry
    following   it completed, and its index is kept after the source until it is retired
    errors      everything that went wrong on the way, oldest first
    phases      when each phase of the copy began and ended, by the kind of its entry
    waivers     who waived which rejects and why, oldest first
    redriven    how many rejects were read again and accepted
    approvals   those that it goes by, oldest first
    samples     what its checkpoints say over time
    log         every entry but checkpoints, in a line: (time, kind, text), oldest first
    commands    what the run was told by people, or by its driver, oldest first
    """

    run: RunId
    state: str = "planned"
    stage: str = "create"
    since: str = ""
    planned_at: str = ""
    started_at: str = ""
    ended_at: str = ""
    owner: str = ""
    error: dict[str, Any] | None = None
    swapped_at: str = ""
    rolled_back: bool = False
    cleaned: bool = False
    following: bool = False
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    stages: dict[str, str] = field(default_factory=dict)
    phases: dict[str, dict[str, str]] = field(default_factory=dict)
    errors: list[dict[str, Any]] = field(default_factory=list)
    waivers: list[dict[str, Any]] = field(default_factory=list)
    redriven: int = 0
    commands: list[dict[str, Any]] = field(default_factory=list)
    approvals: list[dict[str, Any]] = field(default_factory=list)
    samples: Samples = field(default_factory=Samples)
    log: list[tuple[str, str, str]] = field(default_factory=list)
    events: int = 0
    last_at: str = ""

    @property
    def ended(self) -> bool:
        """Whether the index is as it will be built: nothing is left to go on with but to follow changes."""
        return self.state in ENDED or "completed" in self.facts

    @property
    def swapped(self) -> bool:
        """Whether the alias was swapped, or may have been."""
        return "cutover" in self.facts or "cutover_began" in self.facts

    @property
    def adopted(self) -> bool:
        """Whether the run stands for an index that it has not built."""
        return bool(self.facts.get("planned", {}).get("plan", {}).get("adopted"))

    @property
    def kept_until(self) -> datetime | None:
        """Until when the previous generation is kept for a rollback; None where it is not, by the plan."""
        rollback = self.facts.get("planned", {}).get("plan", {}).get("spec", {}).get("rollback") or {}
        hours = rollback.get("grace_hours")
        if hours is None or not self.swapped_at or self.rolled_back or self.cleaned:
            return None
        return _time(self.swapped_at) + timedelta(hours=hours)

    def phase_facts(self) -> list[dict[str, str | None]]:
        """The plan's phases with when they began and ended; None: not yet."""
        planned = [str(one["name"]) for one in self.facts.get("planned", {}).get("plan", {}).get("phases", [])]
        seen = {name: self.phases.get(name, {}) for name in planned}
        return [
            {"name": name, "began": seen[name].get(PHASE_BEGAN), "ended": seen[name].get(PHASE_ENDED)}
            for name in planned
        ]

    @property
    def environment(self) -> str:
        """The spec's environment that the run was planned for; empty where the spec defines none."""
        return str(self.facts.get("planned", {}).get("plan", {}).get("environment", ""))

    @property
    def plan(self) -> Plan:
        """Raises UsageError when the journal holds none."""
        if "planned" not in self.facts:
            raise UsageError(f"the journal holds no plan of {self.run}", remedy="start a new run")
        return Plan.from_json(json.dumps(self.facts["planned"]["plan"]))

    @property
    def index_uuid(self) -> str:
        """Of the generation that the run made, or of what was restored in its place; empty before."""
        return str((self.facts.get("restored") or self.facts.get("created", {})).get("uuid", ""))

    @property
    def duration_s(self) -> float | None:
        """From the start to the end, or to the newest entry."""
        if not self.started_at:
            return None
        return (_time(self.ended_at or self.last_at) - _time(self.started_at)).total_seconds()

    def take(self, event: Event) -> None:
        """Take one more entry into account."""
        data = dict(event.data)
        self.facts[event.kind] = data
        self.events, self.last_at = event.sequence + 1, event.at
        if event.kind != "checkpoint":
            self.log.append((event.at, event.kind, entry_text(event.kind, data)))
        match event.kind:
            case "planned":
                self._enter("planned", event.at)
                self.planned_at, self.owner = event.at, str(data.get("owner") or "")
                if self.adopted:
                    self.stage = "adopt"
            case "started":
                self._enter("running", event.at)
                self.started_at = self.started_at or event.at
                self.error = None
                self.facts.pop("stopped", None)  # it says why a run stands still, and this one does not any more
            case "stage":
                self.stage = str(data["stage"])
                self.stages.setdefault(self.stage, event.at)
            case "phase_began" | "phase_ended" as kind:
                self.phases.setdefault(str(data["phase"]), {})[kind] = event.at
            case "error":
                self.errors.append({"at": event.at, **data})
            case "interrupted" | "stopped":
                self._enter("interrupted", event.at)
            case "blocked" | "failed" as state:
                self._enter(state, event.at)
                self.error = data
                self.errors.append({"at": event.at, **data})
            case "completed" | "aborted" as state:
                self.following = bool(data.get("following"))
                self._enter("following" if self.following else state, event.at)
                self.ended_at = event.at
                self.error = None  # among `errors` it stays; it is not what this run ended with
            case "following":
                self.following, self.error = True, None
                self._enter("following", event.at)
            case "retired":
                self.following, self.error = False, None
                self._enter("completed", event.at)
            case "validated":
                if "check_began" in self.facts and self.facts["check_began"]["check"] == data.get("check"):
                    del self.facts["check_began"]  # it is finished, whatever is validated after it
            case "checkpoint":
                self.samples.add(Sample.of(event.at, data))
            case "approval_used":
                self.approvals.append({"at": event.at, **data})
            case "cutover":
                self.swapped_at = event.at
            case "waived":
                self.waivers.append({"at": event.at, **data})
            case "redriven":
                self.redriven += int(data["accepted"])
            case "command":
                self.commands.append({"at": event.at, **data})
            case "rolled_back":
                self.rolled_back = True
            case "cleaned":
                self.cleaned = True

    def _enter(self, state: str, at: str) -> None:
        self.state, self.since = state, at


def fold(events: Iterable[Event]) -> dict[str, RunState]:
    """The state of every run that has entries, by run, in the order of their first entry."""
    states: dict[str, RunState] = {}
    for event in events:
        if not is_run(event.run):
            continue
        if event.run not in states:
            states[event.run] = RunState(RunId.parse(event.run))
        states[event.run].take(event)
    return states


def find_run(states: dict[str, RunState], name: str) -> RunState:
    """The run of that name; a reindex's name means its newest run. Raises UsageError."""
    if name in states:
        return states[name]
    of_reindex = [state for state in states.values() if state.run.reindex == name]
    if of_reindex:
        return of_reindex[-1]
    matching = [state for run, state in states.items() if run.startswith(name)]
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise UsageError(
            f"{name!r} may be any of {', '.join(str(s.run) for s in matching)}", remedy="name the run in full"
        )
    raise UsageError(f"there is no run {name!r}", remedy="`reshelve runs` lists them")


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
