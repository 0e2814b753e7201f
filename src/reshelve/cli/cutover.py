"""`reshelve cutover`: swap the alias to a run that was validated."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reshelve.cli.connection import BootstrapOption, ConfigOption, RunArgument, cluster_of
from reshelve.cli.output import JsonOption, say, show, show_json
from reshelve.cutover import gather
from reshelve.errors import BlockedError, UsageError
from reshelve.progress import read_tiling
from reshelve.report import report_facts, save_report
from reshelve.run import swap_alias
from reshelve.session import attach
from reshelve.validator.verdict import Validation


def cutover(
    run: RunArgument,
    reports: Annotated[Path, typer.Option(help="Folder for reports and logs.")] = Path("reports"),
    as_json: JsonOption = False,
    bootstrap: BootstrapOption = None,
    config: ConfigOption = None,
) -> None:
    """Swap the alias to a validated run, if every gate is open. Exit code 3 names those that are closed."""
    session = attach(cluster_of(bootstrap, config), run, say)
    state, context = session.state, session.context
    try:
        if state.ended:
            raise UsageError(f"run {state.run} has ended: {state.state}", remedy="start a new run")
        validated = state.facts.get("validated")
        validation = None if validated is None else Validation.from_dict(validated)
        found = gather(context, read_tiling(context), validation, state.index_uuid, report=say)
        try:
            swap_alias(context, found, session.record, say)
        except BlockedError as error:
            session.record("blocked", error.as_dict() | {"stage": "cutover"})
            raise
        session.record("completed", {"message": "Reindex complete"})
        save_report(context.plan, state, reports / str(state.run), say)
    finally:
        session.lease.release()
    if as_json:
        show_json(report_facts(context.plan, state))
    else:
        show(f"Reindex complete: alias {context.plan.alias} points to {context.plan.index}.")
    say(f"next: reshelve rollback {state.run} goes back")
