"""`reshelve validate`: topic against index, source against index, listed by key and class."""

from __future__ import annotations

import threading

from reshelve.cli.connection import BootstrapOption, ConfigOption, RunArgument, cluster_environment, cluster_of
from reshelve.cli.options import REPORTS, LevelOption, ReportsOption
from reshelve.cli.output import JsonOption, say, show, show_json
from reshelve.cli.signals import stop_on_signals
from reshelve.crew import CrewOptions, is_fed
from reshelve.errors import BlockedError
from reshelve.journal import read_journal
from reshelve.kafka import KafkaCluster
from reshelve.session import Session, attach, attach_beside
from reshelve.state import find_run, fold
from reshelve.upkeep import Upkeep
from reshelve.validator.levels import Levels
from reshelve.validator.queries import QueriesVerdict, QueryResult, compare_queries, minimum_of
from reshelve.validator.verdict import Validation

_LISTED = 50


def validate(
    run: RunArgument,
    level: LevelOption = None,
    reports: ReportsOption = REPORTS,
    as_json: JsonOption = False,
    bootstrap: BootstrapOption = None,
    config: ConfigOption = None,
) -> None:
    """Compare a run's topic and source with its index, while all of them go on. Exit code 0 without differences, 3 with
    some."""
    cluster = cluster_of(bootstrap, config)
    stop = threading.Event()
    stop_on_signals(stop)
    session = _session(cluster, run)
    name = session.context.run
    try:
        context = session.context
        levels = Levels.chosen(level or (), context.spec.validation, adopted=context.plan.adopted)
        found = None
        if levels.names != ("queries",):
            _require_followed(session)
            options = CrewOptions(1, 1, reports, cluster_environment(cluster))
            found = Upkeep(session, options, stop, say).validate(levels.names)
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


def _require_followed(session: Session) -> None:
    """Raises BlockedError when nobody follows the changes of a run that are to be followed."""
    state, context = session.state, session.context
    if state.following and not is_fed(context, state):
        raise BlockedError(
            f"run {state.run} can't be validated",
            where=context.plan.index,
            why="its changes are to be followed, and no process does that now: what has changed since would be drift",
            remedy=f"start `reshelve follow {state.run}`, then validate again",
        )


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
