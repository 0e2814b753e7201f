"""`reshelve resume`: a run that was paused goes on."""

from __future__ import annotations

from typing import Annotated

import typer

from reshelve.cli.connection import BootstrapOption, ConfigOption, RunArgument, cluster_of
from reshelve.cli.options import ByOption, WhyOption, operator
from reshelve.cli.output import JsonOption, say, show, show_json
from reshelve.cli.telling import tell


def resume(
    run: RunArgument,
    ignore_window: Annotated[
        bool,
        typer.Option("--ignore-window", help="Also while the maintenance window is closed: once, until it opens."),
    ] = False,
    why: WhyOption = "",
    by: ByOption = None,
    as_json: JsonOption = False,
    bootstrap: BootstrapOption = None,
    config: ConfigOption = None,
) -> None:
    """End a pause. One that the maintenance window or a stop signal made stays, unless --ignore-window is given."""
    values = {"ignore_window": True} if ignore_window else {}
    told = tell(cluster_of(bootstrap, config), run, "resume", operator(by), why, values)
    stays = told.state.held if not ignore_window else None
    if as_json:
        show_json(told.as_dict())
    elif stays is not None:
        show(f"Run {told.run} stays paused by {stays.by}: {stays.why}.")
    else:
        show(f"Resumed: run {told.run}.")
    say(f"next: reshelve status {told.run}")
