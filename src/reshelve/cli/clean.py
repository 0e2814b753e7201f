"""`reshelve clean`: remove what a run left behind."""

from __future__ import annotations

from typing import Annotated

import typer

from reshelve.cleanup import find_leftovers, remove
from reshelve.cli.connection import BootstrapOption, ConfigOption, RunArgument, cluster_of
from reshelve.cli.output import JsonOption, say, show, show_json
from reshelve.errors import AbortedError
from reshelve.session import attach


def clean(
    run: RunArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: JsonOption = False,
    bootstrap: BootstrapOption = None,
    config: ConfigOption = None,
) -> None:
    """Remove a run's topics and the index nobody searches (the old one after a cut-over). Asks first."""
    session = attach(cluster_of(bootstrap, config), run, say)
    state = session.state
    try:
        leftovers = find_leftovers(session.context, state)
        say(f"{len(leftovers.topics)} topics: {', '.join(leftovers.topics) or 'none'}")
        say(
            f"index: {leftovers.index or 'none'}"
            + (" (no rollback after that)" if leftovers.index == session.context.plan.previous_index else "")
        )
        if leftovers.kept:
            say(leftovers.kept)
        if not state.ended:
            say(f"run {state.run} is not at its end ({state.state}): it can't be gone on with after that")
        if not yes and not _confirmed():
            raise AbortedError("nothing is removed", remedy="run it again to decide otherwise")
        if not state.ended:
            session.record("aborted", {"why": "cleaned up before its end"})
        remove(session.context, leftovers)
        session.record("cleaned", leftovers.as_dict())
    finally:
        session.lease.release()
    if as_json:
        show_json({"run": str(state.run), **leftovers.as_dict()})
    else:
        show(f"Removed {len(leftovers.topics)} topics" + (f" and index {leftovers.index}." if leftovers.index else "."))


def _confirmed() -> bool:
    """Whether somebody said yes; no answer at all is none."""
    try:
        return typer.confirm("Remove these?", err=True)
    except typer.Abort:
        return False
