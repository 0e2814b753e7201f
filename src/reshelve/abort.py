"""The end of a run before its time. The alias is never left at something partial: it moves in one atomic step or not at
all, and where it is, is looked at before anything is decided by it.

The order of an abort; after a crash anywhere it is simply asked for again, and each step finds what is done already:

1. who drove the run before can't get past this: the entry `abort_began`, written by whoever has the lease
2. where the alias may have been swapped, it is looked at, and put back where that is valid
3. slot and publication are dropped: they would fill the source's disk
4. the run is Aborted. Index and topics are kept, for whoever wants to look; `clean` removes them
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

from reshelve.commands import Command
from reshelve.consumers import generation
from reshelve.context import RunContext
from reshelve.cutover import roll_back
from reshelve.errors import BlockedError
from reshelve.live import LiveChanges
from reshelve.state import RunState

Record = Callable[[str, dict[str, Any]], None]
Say = Callable[[str], None]


class Ending(Enum):
    """What becomes of an aborted run.

    GIVE_UP    the alias is not at its index: searches never saw it
    ROLL_BACK  the alias was swapped, and the generation before is still there
    COMPLETE   the alias was swapped, and there is no way back: every gate was open then, so the index is whole, and
               only what comes after the swap is missing
    """

    GIVE_UP = "given up"
    ROLL_BACK = "rolled back"
    COMPLETE = "completed"


def ending(at_our_index: bool, previous_uuid: str | None, found_previous_uuid: str | None) -> Ending:
    """What an abort has to come to. Pure.

    at_our_index         the alias points to the run's index now
    previous_uuid        of the index that it pointed to before; None: there was none
    found_previous_uuid  of the index that has that name now; None: there is none"""
    if not at_our_index:
        return Ending.GIVE_UP
    if previous_uuid is not None and found_previous_uuid == previous_uuid:
        return Ending.ROLL_BACK
    return Ending.COMPLETE


def decide(context: RunContext, state: RunState) -> Ending:
    """Look where the alias is, if the run may have moved it. Raises Unreachable when that can't be known."""
    if not state.swapped:
        return Ending.GIVE_UP
    plan, client = context.plan, context.opensearch
    at_ours = generation.alias_targets(client, plan.alias).indexes == (plan.index,)
    found = generation.uuid(client, plan.previous_index) if plan.previous_index else None
    return ending(at_ours, plan.previous_uuid, found)


def abort_run(context: RunContext, state: RunState, asked: Command, record: Record, say: Say) -> Ending:
    """Steps 1 to 4. When it returns COMPLETE the run is not aborted: whoever drives it has to close it.

    No worker of this process may be at work any more, unless COMPLETE comes of it. Raises ReshelveError."""
    if state.state == "aborted":
        return Ending.ROLL_BACK if state.rolled_back else Ending.GIVE_UP
    record("abort_began", {"by": asked.by, "why": asked.why})
    found, plan = decide(context, state), context.plan
    if state.facts.get("abort_rolls_back") is not None and found is Ending.GIVE_UP:
        found = Ending.ROLL_BACK  # it did so before it was killed
    if found is Ending.COMPLETE:
        why = f"alias {plan.alias} points to {plan.index} already, and there is no index before it to go back to"
        say(f"the abort comes too late, the run is completed: {why}")
        if "cutover" not in state.facts:
            record("cutover", {"alias": plan.alias, "from": plan.previous_index, "to": plan.index})
        record("abort_refused", {"offset": asked.offset, "why": why})
        return found
    if found is Ending.ROLL_BACK and not state.rolled_back:
        move = {"alias": plan.alias, "from": plan.index, "to": plan.previous_index}
        say(f"alias {plan.alias} was swapped already: it goes back to {plan.previous_index}")
        record("abort_rolls_back", move)
        roll_back(context, plan.previous_index, plan.previous_uuid)
        record("rolled_back", move)
    left = [f"alias {plan.alias} is not at {plan.index}", *_drop_slot(context, state, record, say)]
    left += [f"index {plan.index}, whole or in part"] if state.index_uuid else []
    left += [f"topics {context.run.prefix}*"]
    record("aborted", {"why": asked.why, "by": asked.by, "ending": found.value, "left": left})
    return found


def _drop_slot(context: RunContext, state: RunState, record: Record, say: Say) -> list[str]:
    """What is left at the source, because it does not answer now."""
    try:
        LiveChanges(context, state, record, say).drop()
    except BlockedError as error:
        slot = context.plan.changes.slot
        say(f"replication slot {slot} may still keep WAL: {error}")
        return [f"replication slot {slot}: {error.why or error.what}"]
    return []
