"""Options that several verbs have: what works on this machine, how closely is looked, where reports go."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Annotated, Final

import typer

from reshelve.validator.levels import LEVELS

EnvironmentOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The spec's environment to use. By default that of RESHELVE_ENVIRONMENT, or the only one.",
    ),
]
KeyReadersOption = Annotated[int, typer.Option(min=0, help="Key readers on this machine.")]
IndexersOption = Annotated[int, typer.Option(min=0, help="Indexers on this machine.")]
ByOption = Annotated[
    str | None, typer.Option("--by", metavar="NAME", help="Who wants it. By default the user of this system.")
]
WhyOption = Annotated[str, typer.Option("--why", metavar="TEXT", help="Why; it is shown and journaled.")]
OwnKeyReadersOption = Annotated[int, typer.Option(min=1, help="Key readers, where no process follows the run.")]
OwnIndexersOption = Annotated[int, typer.Option(min=1, help="Indexers, where no process follows the run.")]
MetricsPortOption = Annotated[
    int | None, typer.Option(min=0, max=65535, help="Serve metrics for Prometheus on this port; 0: any free one.")
]
MetricsHostOption = Annotated[str, typer.Option(help="The address to serve metrics on.")]
ReportsOption = Annotated[Path, typer.Option(help="Folder for reports and logs, one folder for each run.")]
REPORTS: Final = Path("reports")
LevelOption = Annotated[
    list[str] | None,
    typer.Option(help=f"What to look at, once for each: {', '.join(LEVELS)}. By default what the spec says."),
]


def operator(by: str | None = None) -> str:
    """Who gives a command: the name that was given, else that of the system's user."""
    if by:
        return by
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"  # a user without a name, as in some containers
