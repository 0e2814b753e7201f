"""The replication slots of runs at their sources: which there are, and which of them nobody needs any more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from reshelve.errors import ReshelveError, SpecError, UsageError
from reshelve.lease import Holder
from reshelve.producers.slot import FoundSlot, find_slots
from reshelve.producers.source import server_of, source_session
from reshelve.state import RunState


@dataclass(frozen=True, slots=True)
class RunSlot:
    """A slot at a source.

    server          host:port
    run             that it was made by; empty when the journal knows none
    active          somebody reads from it
    retained_bytes  of WAL that the source keeps for it; None: none any more
    left            nobody is at work who needs it
    remedy          what to do about one that is left
    """

    server: str
    database: str
    slot: str
    run: str
    active: bool
    retained_bytes: int | None
    left: bool
    remedy: str


def look_at_slots(states: Iterable[RunState], holders: Mapping[str, Holder | None]) -> tuple[list[RunSlot], list[str]]:
    """The slots at the sources of the runs that are not cleaned up, and why a source could not be looked at.

    holders  by run: who drives or follows it. The sources' URLs come from the plans and this process's variables."""
    known = list(states)
    found: dict[tuple[str, str], RunSlot] = {}
    unseen: list[str] = []
    for url, run in _sources(known, unseen).items():
        server = server_of(url).partition("/")[0]
        try:
            with source_session(url, "reshelve runs") as connection:
                slots = find_slots(connection)
        except ReshelveError as error:
            unseen.append(f"the source of {run} ({error.where}) can't be looked at: {error.why or error.what}")
            continue
        for slot in slots:
            found[server, slot.name] = _described(server, slot, known, holders)
    return [found[place] for place in sorted(found)], unseen


def _sources(states: Iterable[RunState], unseen: list[str]) -> dict[str, str]:
    """A run for each URL of a source that may have a slot."""
    urls: dict[str, str] = {}
    for state in states:
        plan = state.facts.get("planned", {}).get("plan", {})
        if state.cleaned or plan.get("changes", {}).get("mode") != "replication":
            continue
        try:
            urls.setdefault(state.plan.resolve().source.postgres.url, str(state.run))
        except SpecError as error:
            unseen.append(f"the source of {state.run} can't be looked at: {error.why}")
        except UsageError:
            continue  # a plan of another release: it can't be gone on with either
    return urls


def _described(
    server: str, slot: FoundSlot, states: Iterable[RunState], holders: Mapping[str, Holder | None]
) -> RunSlot:
    state = next((state for state in states if state.run.slot == slot.name), None)
    left, remedy = judge_slot(slot.name, state, holders.get(str(state.run)) if state is not None else None)
    run = str(state.run) if state is not None else ""
    return RunSlot(server, slot.database, slot.name, run, slot.active, slot.retained_bytes, left, remedy)


def judge_slot(slot: str, state: RunState | None, holder: Holder | None) -> tuple[bool, str]:
    """Whether a slot is left over, and what to do about it. Pure."""
    drop = f"select pg_drop_replication_slot('{slot}');"
    if state is None:
        return True, f"if no other journal has its run: {drop}"
    if state.cleaned:
        return True, f"its run was cleaned up without it: {drop}"
    if state.ended and not state.following:
        return True, f"reshelve clean {state.run}"
    if holder is None or holder.is_gone():
        return True, f"nobody drives its run: go on with it, or reshelve clean {state.run}"
    return False, ""
