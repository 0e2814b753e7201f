"""`reshelve run`: the whole reindex, in the foreground, on one machine."""

from __future__ import annotations

import threading
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from reshelve.cli.check import load_checked
from reshelve.cli.connection import cluster_environment
from reshelve.cli.display import make_display, span
from reshelve.cli.options import (
    REPORTS,
    EnvironmentOption,
    IndexersOption,
    KeyReadersOption,
    MetricsHostOption,
    MetricsPortOption,
    ReportsOption,
)
from reshelve.cli.output import JsonOption, say, show, show_json
from reshelve.cli.signals import stop_on_signals
from reshelve.report import report_facts
from reshelve.run import Run
from reshelve.session import open_session
from reshelve.supervision import Options


class Until(Enum):
    """Where to stop before the swap."""

    copied = "copied"
    validated = "validated"


def run(
    spec: Annotated[Path, typer.Argument(help="The spec.")],
    environment: EnvironmentOption = None,
    until: Annotated[Until | None, typer.Option(help="Stop before the swap; running again goes on.")] = None,
    new: Annotated[bool, typer.Option("--new", help="Give an unfinished run up instead of going on with it.")] = False,
    page_readers: Annotated[int, typer.Option(min=0, help="Page readers on this machine.")] = 1,
    key_readers: KeyReadersOption = 1,
    indexers: IndexersOption = 1,
    reports: ReportsOption = REPORTS,
    metrics_port: MetricsPortOption = None,
    metrics_host: MetricsHostOption = "127.0.0.1",
    as_json: JsonOption = False,
) -> None:
    """Rebuild the index: copy, index, validate, swap the alias, report. Ctrl-C stops cleanly; again resumes."""
    checked = load_checked(spec, environment)
    stop = threading.Event()
    stop_on_signals(stop)
    session = open_session(checked, anew=new, until=until.value if until else None, stop=stop, report=say)
    plan = session.context.plan
    for note in plan.notes:
        say(f"note: {note}")
    say(f"run {plan.run}: about {plan.estimated_documents:,} documents into {plan.index}, behind alias {plan.alias}")
    options = Options(
        until.value if until else None,
        page_readers,
        key_readers,
        indexers,
        reports,
        cluster_environment(session.context.cluster),
    )
    try:
        display = make_display(plan, as_json, metrics_port=metrics_port, metrics_host=metrics_host)
        try:
            state = Run(session, options, display, stop).drive()
        finally:
            display.close()
    finally:
        session.lease.release()
    if as_json:
        show_json({"v": 1, "event": "ended", **report_facts(plan, state)})
    elif until is None:
        duration = span(state.duration_s or 0)
        show(f"Reindex complete: alias {plan.alias} points to {plan.index} after {duration}.")
        back = f"reshelve rollback {plan.run} goes back; " if plan.previous_index else ""
        rest = "topics and old index" if plan.previous_index else "its topics"
        say(f"next: {back}reshelve clean {plan.run} removes {rest}")
    else:
        show(f"Run {plan.run} is {until.value}; the alias is where it was.")
        say(f"next: reshelve run {spec}" + ("" if until is Until.copied else f" or reshelve cutover {plan.run}"))
