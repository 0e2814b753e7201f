"""The cut-over: the gates that must be open, and the swap of the alias.

`cut_over`, in this order; after a crash anywhere it is simply run again:

1. the gates are judged on facts gathered now; one that is closed ends it (GateClosed)
2. the index gets the definition's settings, and its copies are waited for
3. index and alias, and how far the changes are followed, are looked at once more: step 2 takes its time
4. the alias is swapped in one atomic request, and read back
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from reshelve.applied import Applied
from reshelve.approval.standing import look
from reshelve.consumers import generation
from reshelve.consumers.generation import Health
from reshelve.consumers.reject_picture import look_at_rejects
from reshelve.context import RunContext
from reshelve.errors import TargetRefused
from reshelve.gates import Following, require_open, standing
from reshelve.gates import GateFacts as GateFacts
from reshelve.gates import LiveFacts as LiveFacts
from reshelve.gates import gates as gates
from reshelve.producers.slot import SlotState, slot_state
from reshelve.producers.source import source_session
from reshelve.receipts import Tiling
from reshelve.validator.queries import QueriesVerdict, minimum_of
from reshelve.validator.recomputation import recompute
from reshelve.validator.verdict import Validation

Report = Callable[[str], None]


def gather(
    context: RunContext,
    tiling: Tiling,
    validation: Validation | None,
    created_uuid: str,
    live: LiveFacts | None = None,
    queries: QueriesVerdict | None = None,
    *,
    report: Report = lambda text: None,
) -> GateFacts:
    """Look at Kafka, OpenSearch and, for its slot, PostgreSQL now. `live` is what was found at the validation of a run
    that follows changes; without it its gates are closed. Raises ReshelveError when they can't be looked at."""
    plan, run, cluster = context.plan, context.run, context.cluster
    documents, partitions = run.topic("documents"), context.partitions
    followed = plan.changes.followed
    previous = plan.previous_index
    rejects = look_at_rejects(cluster, run, context.opensearch, plan.index, partitions)
    return GateFacts(
        tiling=tiling,
        ends=cluster.stable_ends(documents, partitions) if not followed else live.ends if live else {},
        positions=cluster.committed(run.group("indexer"), documents, partitions),
        validation=validation,
        rejects=len(rejects.open),
        waivers=rejects.waivers,
        redriven=rejects.redriven,
        recomputed=recompute(context, report) if not followed else live.recomputed if live else None,
        index=plan.index,
        created_uuid=created_uuid,
        found_uuid=generation.uuid(context.opensearch, plan.index),
        alias=generation.alias_targets(context.opensearch, plan.alias),
        previous_index=previous,
        previous_uuid=plan.previous_uuid,
        found_previous_uuid=generation.uuid(context.opensearch, previous) if previous else None,
        following=_following(context, live) if followed else None,
        queries=queries,
        minimum=minimum_of(context),
        approval=look(context, "cutover"),
    )


def _following(context: RunContext, live: LiveFacts | None) -> Following:
    run, cluster, partitions, limits = context.run, context.cluster, context.partitions, context.spec.limits
    places = cluster.committed_places(run.group("indexer"), run.topic("documents"), partitions)
    return Following(
        live=live,
        key_positions=cluster.committed(run.group("keys"), run.topic("changes"), partitions),
        applied={p: Applied.decode(place.metadata) for p, place in places.items()},
        slot=_slot(context) if context.plan.changes.mode == "replication" else None,
        now_ms=int(time.time() * 1000),
        max_seconds_behind=limits.max_seconds_behind,
        max_wal_retained=limits.max_wal_retained,
    )


def _slot(context: RunContext) -> SlotState:
    """The slot as it is now. Raises AccessRefused, Unreachable."""
    with source_session(context.spec.source.postgres.url, "reshelve gates") as connection:
        return slot_state(connection, context.plan.changes.slot)


def cut_over(context: RunContext, facts: GateFacts, *, report: Report = lambda text: None) -> Health:
    """Swap the alias to the run's index; returns the state of its copies. What `report` raises ends it before the swap.

    Raises GateClosed with every gate that is closed, TargetRefused, Unreachable."""
    require_open(gates(facts))
    plan, client = context.plan, context.opensearch
    report(f"restoring the settings of {plan.index} and waiting for its copies")
    health = generation.finish(client, plan.index, plan.definition, followed=plan.changes.followed, report=report)
    if health.note:
        report(health.note)
    now = replace(
        facts,
        found_uuid=generation.uuid(client, plan.index),
        alias=generation.alias_targets(client, plan.alias),
        found_previous_uuid=generation.uuid(client, plan.previous_index) if plan.previous_index else None,
        following=None if facts.following is None else _following(context, facts.following.live),
    )
    require_open(standing(now))
    report(f"swapping alias {plan.alias}")
    generation.swap(client, plan.alias, plan.index, plan.previous_index)
    return health


def roll_back(context: RunContext, previous_index: str | None, previous_uuid: str | None) -> None:
    """Swap the alias back to the generation before. Instant; what was written since, that one has seen only if it is
    followed. An alias that is there already stays.

    Raises TargetRefused when there is no such generation, or the alias is on neither of the two; Unreachable."""
    plan, client = context.plan, context.opensearch
    what = f"alias {plan.alias} can't be rolled back"
    if previous_index is None:
        raise TargetRefused(
            what,
            where=plan.alias,
            why="there was no generation before this one",
            remedy="if searches should find nothing, remove the alias yourself: "
            f"DELETE /{plan.index}/_alias/{plan.alias}",
        )
    found = generation.uuid(client, previous_index)
    if found is None or found != previous_uuid:
        raise TargetRefused(
            what,
            where=previous_index,
            why="the index is gone" if found is None else "it is another index of the same name",
            remedy="restore it from a snapshot, or rebuild it with a new run",
        )
    generation.swap(client, plan.alias, previous_index, plan.index)
