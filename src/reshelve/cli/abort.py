"""`reshelve abort`: the end of a run before its time."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Annotated, Final

import typer

from reshelve.abort import Ending, abort_run
from reshelve.cleanup import find_leftovers, remove
from reshelve.cli.connection import BootstrapOption, ConfigOption, RunArgument, cluster_environment, cluster_of
from reshelve.cli.display import make_display
from reshelve.cli.options import REPORTS, ByOption, ReportsOption, operator
from reshelve.cli.output import JsonOption, confirmed, say, show, show_json
from reshelve.cli.signals import stop_on_signals
from reshelve.commands import Command
from reshelve.control import ControlWriter, read_control
from reshelve.errors import AbortedError, BlockedError, UsageError
from reshelve.journal import read_journal
from reshelve.kafka import KafkaCluster
from reshelve.lease import read_holder
from reshelve.model import RunId
from reshelve.notify.announce import announce
from reshelve.report import save_report
from reshelve.run import Run
from reshelve.session import Session, attach
from reshelve.state import RunState, find_run, fold
from reshelve.supervision import Options

_PATIENCE_S: Final = 240.0  # of a driver that has to see the end of a swap first
_POLL_S: Final = 0.3
_TIMEOUT_S: Final = 30.0


def abort(
    run: RunArgument,
    why: Annotated[str, typer.Option("--why", metavar="TEXT", help="Why; it is shown and journaled.")],
    by: ByOption = None,
    clean: Annotated[
        bool, typer.Option("--clean", help="Also remove the run's index and topics, as `reshelve clean` does.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    reports: ReportsOption = REPORTS,
    as_json: JsonOption = False,
    bootstrap: BootstrapOption = None,
    config: ConfigOption = None,
) -> None:
    """End a run for good: its workers stop, slot and publication are dropped, searches stay where they are.

    If the alias was just swapped it goes back, or where there is nothing to go back to, the run is completed."""
    cluster = cluster_of(bootstrap, config)
    state = find_run(fold(read_journal(cluster)), run)
    if state.state != "aborted":
        _require_abortable(state)
        if not yes and not confirmed(f"Abort run {state.run} ({state.state} in stage {state.stage})?"):
            raise AbortedError("the run goes on as before", remedy="run it again to decide otherwise")
        asked = _ask(cluster, state.run, operator(by), why)
        if not _ended_by_its_driver(cluster, state.run, asked):
            _abort_here(cluster, state.run, asked, reports)
        state = _look(cluster, state.run)
    if clean and state.state == "aborted" and not state.cleaned:
        _clean(cluster, state.run)
        state = _look(cluster, state.run)
    _show(state, as_json)


def _require_abortable(state: RunState) -> None:
    if state.ended:
        back = "swapped" if state.swapped else "ended"
        raise UsageError(
            f"run {state.run} can't be aborted",
            why=f"it has {back}: it is {state.state}",
            remedy=f"`reshelve rollback {state.run}` puts the alias back",
        )


def _ask(cluster: KafkaCluster, run: RunId, by: str, why: str) -> Command:
    """The command as it stands in the run's topic; by itself where the run has not come to make any."""
    if cluster.topics(run.topic("control"), timeout=_TIMEOUT_S):
        ControlWriter(cluster, run).send("abort", by, why)
        asked = read_control(cluster, run, timeout=_TIMEOUT_S).aborted
        if asked is not None:
            return asked
    return Command("abort", int(time.time() * 1000), by, why)


def _ended_by_its_driver(cluster: KafkaCluster, run: RunId, asked: Command) -> bool:
    """Whether a process drives the run, and has ended it. Raises BlockedError when it drives on."""
    deadline, said = time.monotonic() + _PATIENCE_S, False
    while True:
        # In this order: a driver that is gone by now has written what it wrote.
        holder = read_holder(cluster, run.reindex)
        state = _look(cluster, run)
        if state.ended or _is_refused(state, asked):
            return True
        if holder is None or holder.is_gone():
            return False
        if not said:
            said = True
            say(f"waiting for process {holder.pid} on {holder.host}, which drives the run, to end it")
        if time.monotonic() > deadline:
            raise BlockedError(
                f"run {run} was told to end, and has not",
                where=f"process {holder.pid} on {holder.host}",
                why=f"it has not within {_PATIENCE_S:.0f} s",
                remedy="end that process and abort again; the command stays, and no worker takes work any more",
            )
        time.sleep(_POLL_S)


def _is_refused(state: RunState, asked: Command) -> bool:
    return int(state.facts.get("abort_refused", {}).get("offset", -2)) >= asked.offset


def _abort_here(cluster: KafkaCluster, run: RunId, asked: Command, reports: Path) -> None:
    session = attach(cluster, str(run), say)
    try:
        if session.state.ended:
            return
        found = abort_run(session.context, session.state, asked, session.record, say)
        if found is Ending.COMPLETE:
            _complete(session, reports, cluster)
        else:
            announce(session.context, session.state, session.record, say)
            save_report(session.context.plan, session.state, reports / str(run), say)
    finally:
        session.lease.release()


def _complete(session: Session, reports: Path, cluster: KafkaCluster) -> None:
    stop = threading.Event()
    stop_on_signals(stop)
    display = make_display(session.context.plan, False)
    try:
        Run(session, Options(None, 0, 1, 1, reports, cluster_environment(cluster)), display, stop).drive()
    finally:
        display.close()


def _clean(cluster: KafkaCluster, run: RunId) -> None:
    session = attach(cluster, str(run), say)
    try:
        leftovers = find_leftovers(session.context, session.state)
        remove(session.context, leftovers)
        session.record("cleaned", leftovers.as_dict())
    finally:
        session.lease.release()


def _look(cluster: KafkaCluster, run: RunId) -> RunState:
    return fold(read_journal(cluster, run=run))[str(run)]


def _show(state: RunState, as_json: bool) -> None:
    aborted = state.facts.get("aborted") if state.state == "aborted" else None
    if as_json:
        left = [] if aborted is None or state.cleaned else aborted.get("left", [])
        rolled_back, cleaned = state.rolled_back, state.cleaned
        show_json(
            {"run": str(state.run), "state": state.state, "rolled_back": rolled_back, "cleaned": cleaned, "left": left}
        )
        return
    if aborted is None:
        show(
            f"Run {state.run} is not aborted but {state.state}: {state.facts.get('abort_refused', {}).get('why', '')}."
        )
        say(f"next: reshelve status {state.run}")
        return
    show(f"Aborted: run {state.run}." + (" The alias is back where it was." if state.rolled_back else ""))
    if state.cleaned:
        return
    for one in aborted.get("left", ()):
        say(f"left: {one}")
    say(f"next: reshelve clean {state.run} removes it")
