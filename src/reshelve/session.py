"""Beginning a run, or going on with the one that was left."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from reshelve.context import RunContext
from reshelve.errors import BlockedError, ReshelveError, UsageError
from reshelve.history import last_measured
from reshelve.journal import JournalWriter, create_journal, read_journal
from reshelve.kafka import KafkaCluster
from reshelve.lease import Holder, Lease
from reshelve.live import LiveChanges
from reshelve.plan import Plan, make_plan
from reshelve.spec import Spec
from reshelve.state import RunState, find_run, fold
from reshelve.worker import load_context


@dataclass(frozen=True)
class Session:
    """A run with its lease and its journal, ready to be driven."""

    context: RunContext
    state: RunState
    journal: JournalWriter
    lease: Lease
    resumed: bool

    def record(self, kind: str, data: dict[str, Any]) -> None:
        """An entry in the journal, taken into the state."""
        self.state.take(self.journal.append(kind, data))


def open_session(
    spec: Spec, *, anew: bool, until: str | None, stop: threading.Event, report: Callable[[str], None]
) -> Session:
    """Take the lease, then go on with the reindex's unfinished run, or plan a new one.

    anew  give an unfinished run up (it ends Aborted) instead of going on with it
    Raises LeaseHeld, and BlockedError when the unfinished run had another spec or another source."""
    cluster = KafkaCluster(spec.kafka.bootstrap, spec.kafka.config)
    cluster.probe()
    create_journal(cluster, spec.kafka.replication_factor)
    lease = Lease(cluster, spec.reindex)
    lease.take(report)
    try:
        return _open(spec, cluster, lease, anew, until, stop, report)
    except BaseException:
        lease.release()
        raise


def attach(cluster: KafkaCluster, run: str, report: Callable[[str], None]) -> Session:
    """Take over a run that the journal knows, to do one thing with it. Raises LeaseHeld, UsageError, SpecError."""
    known = find_run(fold(read_journal(cluster)), run).run
    lease = Lease(cluster, known.reindex)
    lease.take(report)
    try:
        state, context = load_context(cluster, str(known))  # only now: who drove it may have gone on until here
        if state.cleaned:
            raise UsageError(f"run {state.run} is cleaned up", why="its topics are gone", remedy="start a new run")
    except BaseException:
        lease.release()
        raise

    return _session(cluster, context, state, lease, report, shared="completed" in state.facts)


def attach_follower(cluster: KafkaCluster, run: str, stop: threading.Event, report: Callable[[str], None]) -> Session:
    """Take over the following of a run that has completed; a newer run may be built meanwhile.

    Raises LeaseHeld when a process follows it already, UsageError when it isn't followed, SpecError."""
    state, context = load_context(cluster, run)
    if not state.following:
        raise UsageError(
            f"run {state.run} is not followed",
            why="its changes were followed until it was retired"
            if "retired" in state.facts
            else "its spec does not say `follow: always`, or it has not completed",
            remedy=f"see `reshelve status {state.run}`",
        )
    session = follower_session(cluster, context, state, report, stop)
    here = Holder.here()
    session.record("following", {"host": here.host, "pid": here.pid})
    return session


def follower_session(
    cluster: KafkaCluster,
    context: RunContext,
    state: RunState,
    report: Callable[[str], None],
    stop: threading.Event | None = None,
) -> Session:
    """The following of a completed run, in whatever state. Raises LeaseHeld."""
    lease = Lease(cluster, str(state.run))
    lease.take(report)
    return _session(cluster, context, state, lease, report, shared=True, stop=stop)


def attach_beside(cluster: KafkaCluster, run: str, purpose: str, report: Callable[[str], None]) -> Session:
    """Do something with the index of a run that has completed, beside whoever follows it or builds a newer one.

    purpose  one process at a time does that ("repair")
    Raises LeaseHeld, UsageError when the run has not completed or is cleaned up, SpecError."""
    state, context = load_context(cluster, run)
    if "completed" not in state.facts or state.cleaned:
        raise UsageError(
            f"run {state.run} has no index to {purpose}",
            why="its topics are gone" if state.cleaned else f"it is {state.state} in stage {state.stage}",
            remedy="name a run that has completed: `reshelve runs` lists them",
        )
    lease = Lease(cluster, f"{state.run}.{purpose}")
    lease.take(report)
    return _session(cluster, context, state, lease, report, shared=True)


def _session(
    cluster: KafkaCluster,
    context: RunContext,
    state: RunState,
    lease: Lease,
    report: Callable[[str], None],
    *,
    shared: bool = False,
    resumed: bool = True,
    stop: threading.Event | None = None,
) -> Session:
    """shared: others write into the run's journal as well; stop: ends waiting for the brokers to take an entry."""

    def waiting(why: str) -> bool:
        report(why)
        return stop is not None and stop.is_set()

    journal = JournalWriter(cluster, context.run, shared=shared, still_leader=lease.confirm, waiting=waiting)
    return Session(context, state, journal, lease, resumed)


def _open(
    spec: Spec,
    cluster: KafkaCluster,
    lease: Lease,
    anew: bool,
    until: str | None,
    stop: threading.Event,
    report: Callable[[str], None],
) -> Session:
    known = fold(read_journal(cluster, reindex=spec.reindex)).values()
    plan = make_plan(spec, last_measured(known))
    states = [s for s in known if not s.adopted]  # for these nothing is built
    unfinished = [s for s in states if not s.ended and not s.cleaned]
    if states and states[-1].following and not anew and not plan_changes(states[-1].plan, plan):
        lease.release()  # that of the reindex: a newer run may be built meanwhile
        report(f"going on with following run {states[-1].run}; to rebuild the index anew, run with --new")
        return attach_follower(cluster, str(states[-1].run), stop, report)
    resumed = bool(unfinished) and not anew
    if unfinished and anew:
        for old in unfinished:
            JournalWriter(cluster, old.run).append("aborted", {"why": f"given up for {plan.run} (--new)"})
            report(f"run {old.run} given up; `reshelve clean {old.run}` removes what it made")
            _end_changes(old, cluster, report)
    if resumed:
        state = unfinished[-1]
        _require_same(state, plan)
        plan = state.plan
        report(f"going on with run {plan.run} in stage {state.stage}")
    else:
        state = RunState(plan.id)

    session = _session(cluster, RunContext(plan, spec), state, lease, report, resumed=resumed, stop=stop)
    if not resumed:
        why = str(spec.why) if spec.why else None
        session.record("planned", {"plan": plan.as_dict(), "owner": spec.owner, "why": why})
    here = Holder.here()
    started = {"host": here.host, "pid": here.pid, "resumed": resumed, "until": until}
    # They may be changed between two starts, and the workers know the run from the journal alone.
    session.record("started", started | {"limits": spec.limits.model_dump(mode="json")})
    return session


def _end_changes(old: RunState, cluster: KafkaCluster, report: Callable[[str], None]) -> None:
    """A slot that nobody reads any more fills the source's disk: it goes at once, and not only when somebody cleans."""
    journal = JournalWriter(cluster, old.run)

    def record(kind: str, data: dict[str, Any]) -> None:
        old.take(journal.append(kind, data))

    try:
        LiveChanges(RunContext(old.plan, old.plan.resolve()), old, record, report).end()
    except ReshelveError as error:
        report(f"its replication slot {old.plan.changes.slot} may still keep WAL: {error}")


def _require_same(state: RunState, now: Plan) -> None:
    """Raises BlockedError, naming what changed since the unfinished run was planned."""
    changed = plan_changes(state.plan, now)
    if changed:
        raise BlockedError(
            f"run {state.run} is unfinished and can't be gone on with",
            where=state.run.reindex,
            why="changed since it was planned: " + "; ".join(changed),
            remedy="undo the change, or give the run up and start anew with --new",
        )


def plan_changes(old: Plan, new: Plan) -> list[str]:
    """What differs between two plans of a reindex that matters to what comes out, field by field."""
    before, after = _meaning(old), _meaning(new)
    if after["previous_index"] == old.index:  # the alias had been swapped already
        after["previous_index"], after["previous_uuid"] = before["previous_index"], before["previous_uuid"]
    return [
        f"{name} ({_short(before[name])} → {_short(after[name])})" for name in before if before[name] != after[name]
    ]


def _meaning(plan: Plan) -> dict[str, Any]:
    apart = ("limits", "throttle", "window", "validation", "owner", "delegates", "why")
    limits_apart = {k: v for k, v in plan.spec.items() if k not in apart}
    return {
        "environment": plan.environment,
        "spec": limits_apart,
        "index definition": plan.definition,
        "alias": plan.alias,
        "previous_index": plan.previous_index,
        "previous_uuid": plan.previous_uuid,
        "source system": plan.source.system_identifier,
        "source timeline": plan.source.timeline,
        "key": plan.source.key,
        "tables": plan.source.tables,
    }


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:59] + "…"
