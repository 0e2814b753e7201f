"""`reshelve report`: a run's report, from the journal alone."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from reshelve.cli.connection import BootstrapOption, ConfigOption, RunArgument, cluster_of
from reshelve.cli.output import say
from reshelve.errors import UsageError
from reshelve.journal import read_journal
from reshelve.report import render, report_facts
from reshelve.state import find_run, fold


class Format(Enum):
    """What a report is written as."""

    md = "md"
    json = "json"
    html = "html"


def report(
    run: RunArgument,
    form: Annotated[Format, typer.Option("--format", help="Markdown, data, or one page with plots.")] = Format.md,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it there, not to stdout.")] = None,
    bootstrap: BootstrapOption = None,
    config: ConfigOption = None,
) -> None:
    """Report on a run: outcome, owner, duration, spec, approvals, run log, validation, gates, cut-over, plots."""
    state = find_run(fold(read_journal(cluster_of(bootstrap, config))), run)
    text = render(report_facts(state.plan, state), form.value)
    if output is None:
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError("cannot write the report", where=str(output), why=str(error.strerror)) from error
    say(f"report of {state.run}: {output}")
