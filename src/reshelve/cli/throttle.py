"""`reshelve throttle`: other limits for a run, while it goes on."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from reshelve.cli.connection import BootstrapOption, ConfigOption, RunArgument, cluster_of
from reshelve.cli.options import ByOption, WhyOption, operator
from reshelve.cli.output import JsonOption, say, show, show_json
from reshelve.cli.telling import tell
from reshelve.errors import UsageError


def throttle(
    run: RunArgument,
    documents_per_second: Annotated[
        str | None, typer.Option(metavar="N|none", help="Documents a second over all workers; none: no limit.")
    ] = None,
    megabytes_per_second: Annotated[
        str | None, typer.Option(metavar="N|none", help="Megabytes (10^6 bytes) a second over all; none: no limit.")
    ] = None,
    reset: Annotated[
        bool, typer.Option("--reset", help="Back to the spec's limits, but for those given here.")
    ] = False,
    why: WhyOption = "",
    by: ByOption = None,
    as_json: JsonOption = False,
    bootstrap: BootstrapOption = None,
    config: ConfigOption = None,
) -> None:
    """Set limits that stand for the spec's until they are reset. Within 2 seconds, over all workers together."""
    values: dict[str, Any] = {"reset": True} if reset else {}
    given = {"documents_per_second": documents_per_second, "megabytes_per_second": megabytes_per_second}
    values |= {name: _rate(name, text) for name, text in given.items() if text is not None}
    if not values:
        raise UsageError(
            "no limit is given", remedy="give --documents-per-second N, --megabytes-per-second N (or none), or --reset"
        )
    told = tell(cluster_of(bootstrap, config), run, "throttle", operator(by), why, values)
    if as_json:
        show_json(told.as_dict())
    else:
        show(f"Limit of run {told.run}: {told.bounds.text}.")
    say(f"next: reshelve throttle {told.run} --reset goes back to the spec's limits")


def _rate(name: str, text: str) -> float | None:
    """Raises UsageError."""
    if text == "none":
        return None
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate < float("inf"):
        option = "--" + name.replace("_", "-")
        raise UsageError(f"{option} {text!r} is no rate", remedy="give a number above 0, or none")
    return rate
