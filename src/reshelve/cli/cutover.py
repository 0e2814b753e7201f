"""`reshelve cutover`: swap the alias to a run that was validated."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Final

from reshelve.cli.connection import BootstrapOption, ConfigOption, RunArgument, cluster_environment, cluster_of
from reshelve.cli.display import make_display
from reshelve.cli.options import REPORTS, IndexersOption, KeyReadersOption, ReportsOption
from reshelve.cli.output import JsonOption, say, show, show_json
from reshelve.cli.signals import stop_on_signals
from reshelve.control import read_control
from reshelve.cutover import gather
from reshelve.errors import BlockedError, UsageError
from reshelve.lease import Holder
from reshelve.notify.announce import announce
from reshelve.progress import read_tiling
from reshelve.report import report_facts, save_report
from reshelve.run import Run, swap_alias
from reshelve.session import Session, attach
from reshelve.steering import require_running
from reshelve.supervision import Options
from reshelve.validator.queries import QueriesVerdict
from reshelve.validator.verdict import Validation

_TIMEOUT_S: Final = 30.0


def cutover(
    run: RunArgument,
    key_readers: KeyReadersOption = 1,
    indexers: IndexersOption = 1,
    reports: ReportsOption = REPORTS,
    as_json: JsonOption = False,
    bootstrap: BootstrapOption = None,
    config: ConfigOption = None,
) -> None:
    """Swap the alias to a validated run, if every gate is open. Exit code 3 names those that are closed.

    A run that follows changes first catches up with what came since, and is validated anew."""
    cluster = cluster_of(bootstrap, config)
    session = attach(cluster, run, say)
    state, context = session.state, session.context
    try:
        if state.ended:
            raise UsageError(f"run {state.run} has ended: {state.state}", remedy="start a new run")
        if context.plan.changes.followed:
            options = Options(None, 1, key_readers, indexers, reports, cluster_environment(cluster))
            _drive(session, options, as_json)
        else:
            _swap(session, reports)
    finally:
        session.lease.release()
    if as_json:
        show_json(report_facts(context.plan, state))
    else:
        show(f"Reindex complete: alias {context.plan.alias} points to {context.plan.index}.")
    say(f"next: reshelve rollback {state.run} goes back")


def _swap(session: Session, reports: Path) -> None:
    state, context = session.state, session.context
    require_running(context, read_control(context.cluster, context.run, timeout=_TIMEOUT_S))
    validated = state.facts.get("validated")
    validation = None if validated is None else Validation.from_dict(validated)
    compared = state.facts.get("queries")
    queries = None if compared is None else QueriesVerdict.from_dict(compared)
    found = gather(context, read_tiling(context), validation, state.index_uuid, queries=queries, report=say)
    try:
        swap_alias(context, found, session.record, say)
    except BlockedError as error:
        session.record("blocked", error.as_dict() | {"stage": "cutover"})
        announce(context, state, session.record, say)
        save_report(context.plan, state, reports / str(state.run), say)
        raise
    session.record("completed", {"message": "Reindex complete"})
    announce(context, state, session.record, say)
    save_report(context.plan, state, reports / str(state.run), say)


def _drive(session: Session, options: Options, as_json: bool) -> None:
    if "validated" not in session.state.facts:
        raise UsageError(
            f"run {session.state.run} is not validated",
            why=f"it is {session.state.state} in stage {session.state.stage}",
            remedy="`reshelve run` with its spec goes on with it",
        )
    stop = threading.Event()
    stop_on_signals(stop)
    display = make_display(session.context.plan, as_json)
    limits = session.context.spec.limits.model_dump(mode="json")
    here = Holder.here()
    started = {"host": here.host, "pid": here.pid, "resumed": True, "until": None, "limits": limits}
    session.record("started", started)
    try:
        Run(session, options, display, stop).drive()
    finally:
        display.close()
