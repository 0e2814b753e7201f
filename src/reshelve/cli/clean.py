"""`reshelve clean`: remove what a run left behind."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from reshelve.cleanup import Leftovers, find_leftovers, remove
from reshelve.cli.connection import BootstrapOption, ConfigOption, RunArgument, cluster_of
from reshelve.cli.output import JsonOption, confirmed, say, show, show_json
from reshelve.context import RunContext
from reshelve.errors import AbortedError, BlockedError, UsageError
from reshelve.notify.announce import announce
from reshelve.session import attach
from reshelve.state import RunState


def clean(
    run: RunArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    without_source: Annotated[
        bool, typer.Option("--without-source", help="Also when the source does not answer: its slot is left there.")
    ] = False,
    now: Annotated[
        bool, typer.Option("--now", help="Also while the previous index is kept for a rollback (rollback.grace_hours).")
    ] = False,
    as_json: JsonOption = False,
    bootstrap: BootstrapOption = None,
    config: ConfigOption = None,
) -> None:
    """Remove a run's topics, its slot and publication at the source, and the index nobody searches (the old one after
    a cut-over). Asks first."""
    session = attach(cluster_of(bootstrap, config), run, say)
    state = session.state
    try:
        if state.following:
            remedy = f"end that first: reshelve retire {state.run}"
            raise UsageError(f"run {state.run} is followed", why="its index gets changes", remedy=remedy)
        leftovers = find_leftovers(session.context, state)
        if leftovers.index and leftovers.index == session.context.plan.previous_index:
            _require_grace_over(state, now)
        say(f"{len(leftovers.topics)} topics: {', '.join(leftovers.topics) or 'none'}")
        say(
            f"index: {leftovers.index or 'none'}"
            + (" (no rollback after that)" if leftovers.index == session.context.plan.previous_index else "")
        )
        if leftovers.kept:
            say(leftovers.kept)
        if leftovers.alias:
            say(f"its private alias: {leftovers.alias}")
        _say_source(session.context, leftovers, without_source)
        if not state.ended:
            say(f"run {state.run} is not at its end ({state.state}): it can't be gone on with after that")
        if not yes and not confirmed("Remove these?"):
            raise AbortedError("nothing is removed", remedy="run it again to decide otherwise")
        if not state.ended:
            session.record("aborted", {"why": "cleaned up before its end"})
            announce(session.context, state, session.record, say)
        remove(session.context, leftovers)
        session.record("cleaned", leftovers.as_dict())
    finally:
        session.lease.release()
    if as_json:
        show_json({"run": str(state.run), **leftovers.as_dict()})
    else:
        show(f"Removed {len(leftovers.topics)} topics" + (f" and index {leftovers.index}." if leftovers.index else "."))


def _require_grace_over(state: RunState, now: bool) -> None:
    """Raises BlockedError while the previous index is kept for a rollback."""
    until = state.kept_until
    if until is None or now or until <= datetime.now(UTC):
        return
    raise BlockedError(
        "the previous index is kept for a rollback",
        where=str(state.run),
        why=f"the grace period lasts until {until.isoformat(timespec='seconds')} (rollback.grace_hours)",
        remedy="clean again after that, or with --now: there is no rollback then",
    )


def _say_source(context: RunContext, leftovers: Leftovers, without_source: bool) -> None:
    """Raises BlockedError: a slot that is forgotten fills the source's disk."""
    if leftovers.slot or leftovers.publication:
        say(f"at the source: slot {leftovers.slot or 'none'}, publication {leftovers.publication or 'none'}")
    if not leftovers.source_away:
        return
    drop = f"select pg_drop_replication_slot('{context.plan.changes.slot}')"
    if not without_source:
        raise BlockedError(
            "the source does not answer, and the run may have left its replication slot there",
            why=leftovers.source_away,
            remedy=f"clean again when it answers; if it never will: --without-source, and should it come back: {drop}",
        )
    say(f"the source can't be looked at ({leftovers.source_away}); should it come back: {drop}")
