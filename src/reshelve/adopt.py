"""Adopting an index: one that searches use, and that no run has built, is kept after its source from now on.

A run is recorded for it that copies nothing. In `Adoption.run`, in this order:

1. what stands against it: how the index was made, and versions that are ahead of the source's clock
2. an adoption of the same that was left is gone on with; else it is `planned` in the journal
3. topics, and consumer groups at their beginnings
4. `created` and `completed`

Until then nothing is written into the index. Its private alias comes with the first repair (`Upkeep.repair`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from reshelve.consumers.adoption import FoundIndex, index_behind, look_at_index, private_alias, reasons_against
from reshelve.consumers.mapping import compare
from reshelve.consumers.opensearch import connect
from reshelve.context import RunContext
from reshelve.errors import BlockedError, TargetRefused
from reshelve.forecast import Forecast
from reshelve.journal import JournalWriter, create_journal, read_journal
from reshelve.kafka import KafkaCluster
from reshelve.lease import Lease
from reshelve.model import ChangePlan, RunId, facts
from reshelve.plan import Plan, plan_topics, run_name, sealed
from reshelve.plan_difference import facts_differences
from reshelve.producers.planner import describe_source
from reshelve.producers.segments import tile
from reshelve.producers.source import source_session
from reshelve.spec import Spec
from reshelve.state import RunState, fold
from reshelve.validator.ahead import Ahead, find_ahead
from reshelve.validator.levels import Levels
from reshelve.validator.target import open_point_in_time

MOST_AHEAD: Final = 10_000
"""Documents that may have a version ahead of the clock: each makes way, all at once, so that searches miss all of them
until they are read again, which takes seconds for so many."""
_NOTE: Final = (
    "The index was adopted: it is what others have made it, and nothing is copied. Only level full says whether it "
    "equals the source, because the topic holds nothing but what was repaired."
)

Say = Callable[[str], None]


def run_to_repair(spec: Spec, levels: Collection[str], say: Say) -> RunId:
    """The run whose index searches of the spec's alias read. An index that no run has built is adopted.

    levels  by which it is to be compared: those that say nothing of an adopted index are refused before it is one
    Raises BlockedError when that can't be, and says why; UsageError, ReshelveError."""
    cluster = KafkaCluster(spec.kafka.bootstrap, spec.kafka.config)
    cluster.probe()
    create_journal(cluster, spec.kafka.replication_factor)
    alias = spec.target.opensearch.alias
    with closing(connect(spec.target.opensearch, timeout=30)) as client:
        index = index_behind(client, alias)
        if index is None:
            raise TargetRefused(
                f"there is no alias {alias}, so no index to repair",
                where=spec.place("target.opensearch.alias"),
                remedy=f"`reshelve run {spec.name}` builds the index; one that is there is adopted once {alias} points"
                " to it",
            )
        builder = builder_of(fold(read_journal(cluster)).values(), index)
        if builder is not None:
            return _built(builder, spec, say)
        Levels.chosen(levels, spec.validation, adopted=True)
        require_whole(spec, index)
        found = look_at_index(client, index, alias)
        if against := reasons_against(found):
            raise TargetRefused(
                f"index {index} can't be adopted",
                where=index,
                why="; ".join(against),
                remedy=f"`reshelve run {spec.name}` builds an index that can be kept after its source",
            )
    lease = Lease(cluster, f"{spec.reindex}.adopt")  # not that of the reindex: a newer run may be built meanwhile
    lease.take(say)
    try:
        return Adoption(spec, cluster, found, lease, say).run()
    finally:
        lease.release()


def require_whole(spec: Spec, index: str) -> None:
    """Raises BlockedError where the spec leaves documents out that the index may have. Pure."""
    if spec.scope.partial:
        raise BlockedError(
            f"index {index} can't be adopted by a spec with a scope",
            where=spec.place("scope"),
            why=f"the scope is {spec.scope}: whatever the index has beside it would be deleted",
            remedy="leave the scope out; where the index is to hold no more, make it a condition of the query",
        )


def builder_of(states: Iterable[RunState], index: str) -> RunState | None:
    """The run that has built the index of that name, and is not cleaned up. Pure.

    By its name: an index that was restored from a snapshot has another UUID, and is the run's all the same."""
    for state in states:
        plan = state.facts.get("planned", {}).get("plan", {})
        if plan.get("index") == index and not plan.get("adopted") and not state.cleaned:
            return state
    return None


def adopters_of(states: Iterable[RunState], reindex: str, uuid: str) -> list[RunState]:
    """The runs of the reindex by which the index was adopted, or was about to be, oldest first. Pure."""
    return [
        state
        for state in states
        if state.adopted
        and state.run.reindex == reindex
        and (state.index_uuid or state.facts["planned"].get("uuid")) == uuid
        and not state.cleaned
        and state.state != "aborted"
    ]


def _built(builder: RunState, spec: Spec, say: Say) -> RunId:
    """Raises BlockedError where the run that has built the index, or is building it, can't be repaired by the spec."""
    run, index = builder.run, builder.plan.index
    if run.reindex != spec.reindex:
        why, remedy = f"it is of reindex {run.reindex}, not {spec.reindex}", f"`reshelve repair {run}` repairs it"
    elif "completed" not in builder.facts:
        why = f"it is {builder.state} in stage {builder.stage}"
        remedy = f"`reshelve run {spec.name}` goes on with it"
        if builder.state == "aborted":
            remedy = f"`reshelve clean {run}` keeps the index as long as the alias points to it; then it can be adopted"
    elif changed := spec_changes(builder.plan, spec):
        why = "changed since it was planned: " + "; ".join(changed)
        remedy = f"`reshelve repair {run}` repairs by the plan of that run; `reshelve run {spec.name}` builds anew"
    else:
        say(f"run {run} has built index {index}")
        return run
    raise BlockedError(f"index {index} was built by run {run}", where=index, why=why, remedy=remedy)


def spec_changes(plan: Plan, spec: Spec) -> list[str]:
    """What the spec says otherwise than the plan of what a document is, field by field. Pure."""
    return meaning_changes(plan, replace(plan, alias=spec.target.opensearch.alias, spec=spec.public()))


def meaning_changes(before: Plan, after: Plan) -> list[str]:
    """What differs between two plans of what a document is, field by field; of how a run goes on, nothing. Pure."""
    return [str(one) for one in facts_differences(_meaning(before), _meaning(after))]


def _meaning(plan: Plan) -> dict[str, Any]:
    source = facts(plan.source)
    return {
        "alias": plan.alias,
        "spec": {name: plan.spec.get(name) for name in ("source", "scope", "transform")},
        "source": {name: source[name] for name in ("system_identifier", "timeline", "key", "tables")},
    }


@dataclass(frozen=True)
class Adoption:
    """The adoption of one index. `lease`: one process at a time adopts for the reindex."""

    spec: Spec
    cluster: KafkaCluster
    found: FoundIndex
    lease: Lease
    say: Say

    def run(self) -> RunId:
        """The run that stands for the index, by then in the journal. Raises ReshelveError."""
        plan = self._plan()
        for known in reversed(adopters_of(fold(read_journal(self.cluster)).values(), plan.reindex, self.found.uuid)):
            changed = meaning_changes(known.plan, plan)
            if changed:
                self.say(
                    f"run {known.run}, which adopted index {plan.index}, is of no use any more: changed since: "
                    f"{'; '.join(changed)}. `reshelve clean {known.run}` removes its topics"
                )
            elif "completed" in known.facts:
                self.say(f"run {known.run} has adopted index {plan.index}")
                return known.run
            else:
                return self._complete(known.plan, known)
        return self._complete(plan, None)

    def _plan(self) -> Plan:
        """What adopting does: nothing is built. Raises AccessRefused, Unreachable, SourceRefused."""
        spec, found, now = self.spec, self.found, datetime.now(UTC)
        run = RunId(spec.reindex, run_name(now))
        with source_session(spec.source.postgres.url, "reshelve repair") as connection:
            source = describe_source(connection, spec)
        return sealed(
            Plan(
                run=str(run),
                reindex=spec.reindex,
                alias=found.alias,
                index=found.name,
                write_alias=private_alias(found.name),
                previous_index=None,
                previous_uuid=None,
                spec_name=spec.name,
                spec_text=spec.text,
                environment=spec.environment,
                spec_folder=str(spec.folder.resolve()),
                spec=spec.public(),
                definition=spec.definition,
                source=source,
                changes=ChangePlan("none"),
                epoch=0,
                segments=tile([]),
                topics=plan_topics(run, spec),
                mapping_difference=compare(dict(found.mapping), spec.definition.get("mappings") or {}),
                forecast=Forecast(0, 0, "nothing is copied"),
                notes=(_NOTE,),
                created_at=now.isoformat(timespec="seconds"),
                adopted=True,
            )
        )

    def _complete(self, plan: Plan, known: RunState | None) -> RunId:
        """Steps 1 to 4. `known`: as far as an adoption that was left has come."""
        context, run = RunContext(plan, self.spec if known is None else plan.resolve()), plan.id
        require_few(plan.index, self._find_ahead(context), self.spec.name)
        journal = JournalWriter(self.cluster, run, shared=True, still_leader=self.lease.confirm, waiting=self._waiting)
        if known is None:
            said = {"owner": self.spec.owner, "why": self.spec.why}
            journal.append("planned", {"plan": plan.as_dict(), "uuid": self.found.uuid} | said)
        for topic in plan.topics:
            self.cluster.create_topic(topic.name, topic.partitions, topic.config, context.spec.kafka.replication_factor)
        for role, name in (("keys", "changes"), ("indexer", "documents")):
            self.cluster.start_group(run.group(role), run.topic(name), context.partitions)
        made = {"index": plan.index, "uuid": self.found.uuid, "topics": [topic.name for topic in plan.topics]}
        journal.append("created", made)
        journal.append("completed", {"message": "Index adopted", "following": False})
        self.say(f"index {plan.index} is adopted as run {run}")
        return run

    def _waiting(self, why: str) -> bool:
        self.say(why)
        return False

    def _find_ahead(self, context: RunContext) -> Ahead:
        """Of the documents that are there now; the clock is read before."""
        self.say(f"looking at the versions of index {context.plan.index}")
        version = context.version_now("reshelve repair")
        point = open_point_in_time(context.opensearch, context.plan.index)
        try:
            return find_ahead(point, version, self.lease.poll, self.say)
        finally:
            point.close()


def require_few(index: str, found: Ahead, spec: str) -> None:
    """Raises BlockedError where so many documents would have to make way that searches would miss them long. Pure."""
    if found.number <= MOST_AHEAD:
        return
    raise BlockedError(
        f"index {index} can't be adopted: the versions of its documents are ahead of the source's clock",
        where=index,
        why=f"{found.number:,} of {found.documents:,} documents (keys {', '.join(found.keys)}, …) have a version above"
        f" {found.above}, the highest {found.highest}: they would refuse what is written with the clock as its version,"
        f" and so many can't make way while searches use the index ({MOST_AHEAD:,} may)",
        remedy=f"`reshelve run {spec}` builds an index with versions of the clock, and swaps it in",
    )
