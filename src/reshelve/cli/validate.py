"""`reshelve validate`: topic against index, source against index, listed by key and class."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from reshelve.children import Children, beside
from reshelve.cli.connection import BootstrapOption, ConfigOption, RunArgument, cluster_environment, cluster_of
from reshelve.cli.output import JsonOption, say, show, show_json
from reshelve.errors import BlockedError
from reshelve.journal import read_journal
from reshelve.kafka import KafkaCluster
from reshelve.lease import read_holder
from reshelve.progress import read_tiling
from reshelve.session import Session, attach, attach_beside
from reshelve.state import find_run, fold
from reshelve.validator.coordinator import validate as run_validation
from reshelve.validator.full_check import begin
from reshelve.validator.levels import LEVELS, Levels
from reshelve.validator.queries import QueriesVerdict, QueryResult, compare_queries, minimum_of
from reshelve.validator.verdict import Validation

_LISTED = 50
_TICK_S = 0.2


def validate(
    run: RunArgument,
    level: Annotated[
        list[str] | None,
        typer.Option(help=f"What to look at, once for each: {', '.join(LEVELS)}. By default what the spec says."),
    ] = None,
    reports: Annotated[Path, typer.Option(help="Folder for reports and logs.")] = Path("reports"),
    as_json: JsonOption = False,
    bootstrap: BootstrapOption = None,
    config: ConfigOption = None,
) -> None:
    """Compare a run's topic and source with its index, while all of them go on. Exit code 0 without differences, 3 with
    some."""
    cluster = cluster_of(bootstrap, config)
    session = _session(cluster, run)
    name = session.context.run
    try:
        asked = session.context.spec.validation
        levels = Levels.named(level, asked) if level else Levels.of(asked)
        found = None if levels.names == ("queries",) else _validate(session, levels, reports)
        if found is not None:
            session.record("validated", found.as_dict())
        queries = _compare_queries(session) if levels.queries else None
    finally:
        session.lease.release()
    if as_json:
        facts = {} if found is None else found.as_dict()
        show_json({"run": str(name), **facts, "queries": None if queries is None else queries.as_dict()})
    else:
        _show(found, queries)
    if queries is not None and not queries.clean:
        raise BlockedError(
            "searches find other documents than before",
            where=session.context.plan.index,
            why=f"{queries.summary()} (needed: {minimum_of(session.context)})",
            remedy="see the worst searches; correct index definition or query, or lower the minimum in the spec",
        )
    if found is not None and not found.clean:
        raise BlockedError(
            "the validation found differences",
            where=session.context.plan.index,
            why=found.summary(),
            remedy=f"correct the cause; `reshelve repair {name}` then repairs these keys, and"
            f" `reshelve rejects list {name}` tells of rejected documents",
        )


def _session(cluster: KafkaCluster, run: str) -> Session:
    """A run that has completed is validated beside whoever follows it, or builds a newer one."""
    state = find_run(fold(read_journal(cluster)), run)
    if "completed" in state.facts and not state.cleaned:
        return attach_beside(cluster, run, "validate", say)
    return attach(cluster, run, say)


def _validate(session: Session, levels: Levels, reports: Path) -> Validation:
    context = session.context
    live = _followed(session)
    children = Children(
        str(context.run), cluster_environment(context.cluster), reports / str(context.run) / "logs", say
    )

    def watch() -> None:
        children.tend()  # a worker that can't go on says why
        time.sleep(_TICK_S)

    try:
        for role in _roles(session):
            children.start(role, 1)
        began = begin(context, levels.names, session.state.facts, session.record, say) if levels.full else None

        def check() -> Validation:
            tiling = read_tiling(context)
            return run_validation(context, tiling, levels=levels, live=live, began=began, report=say)

        return beside(check, watch)
    finally:
        children.stop()


def _roles(session: Session) -> tuple[str, ...]:
    """An unfinished run has no workers at all now: those that follow its changes are ours to start."""
    state = session.state
    unfinished = "completed" not in state.facts and "slot" in state.facts and "slot_dropped" not in state.facts
    return ("tailer", "keys", "indexer", "validator") if unfinished else ("validator",)


def _followed(session: Session) -> bool:
    """Whether the source's changes are followed now. Raises BlockedError when they should be."""
    state, context = session.state, session.context
    if "completed" not in state.facts:
        return context.plan.changes.followed
    if state.following and read_holder(context.cluster, str(state.run)) is None:
        raise BlockedError(
            f"run {state.run} can't be validated",
            where=context.plan.index,
            why="its changes are to be followed, and no process does that now: what has changed since would be drift",
            remedy=f"start `reshelve follow {state.run}`, then validate again",
        )
    return state.following


def _compare_queries(session: Session) -> QueriesVerdict | None:
    found = compare_queries(session.context, lambda text: say(text) if text else None)
    if found is None:
        say("searches are not compared: there is no previous index")
    else:
        session.record("queries", found.as_dict())
    return found


def _show(found: Validation | None, queries: QueriesVerdict | None) -> None:
    if found is not None:
        _show_drift(found)
    if queries is not None:
        show(queries.summary())
        for one in queries.worst:
            show(f"  {one.name}: {one.error or _difference(one)}")


def _difference(one: QueryResult) -> str:
    vanished, came = ", ".join(one.vanished) or "none", ", ".join(one.came) or "none"
    return f"overlap {one.overlap:.3f}, rank-biased overlap {one.rbo:.3f}; vanished {vanished}; came {came}"


def _show_drift(found: Validation) -> None:
    show(found.summary())
    listed = [pair for verdict in found.partitions for pair in verdict.drifted]
    listed += found.full.drifted if found.full is not None else ()
    for key, drift in listed[:_LISTED]:
        show(f"  {drift}: {key}")
    if len(listed) > _LISTED:
        show(f"  … and {len(listed) - _LISTED} more (the topic `drift` has them all)")
