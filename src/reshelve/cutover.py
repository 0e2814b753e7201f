"""The cut-over: the gates that must be open, and the swap of the alias.

`cut_over`, in this order; after a crash anywhere it is simply run again:

1. the gates are judged on facts gathered now; one that is closed ends it (GateClosed)
2. the index gets the definition's settings, and its copies are waited for
3. index and alias are looked at once more, because step 2 takes its time
4. the alias is swapped in one atomic request, and read back
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from reshelve.consumers import generation
from reshelve.consumers.alias import Alias, obstacle
from reshelve.consumers.generation import Health
from reshelve.consumers.rejects import count_rejects
from reshelve.context import RunContext
from reshelve.errors import GateClosed, TargetRefused
from reshelve.receipts import Tiling
from reshelve.validator.recomputation import Recomputation, recompute
from reshelve.validator.verdict import Validation

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Gate:
    """A condition of the cut-over, with what was found, what it takes, and what to do when it is closed."""

    name: str
    value: str
    threshold: str
    open: bool
    remedy: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class GateFacts:
    """What the gates are judged by.

    positions      offset that the indexers have committed for each partition of `documents`; None: none
    ends           its last stable offset
    rejects        rejected documents
    created_uuid   of the index when this run created it; found_uuid: now (None: it is gone)
    alias          what the public alias' name stands for now; previous_index: what it was planned to leave
    previous_uuid  of the previous index when planned; found_previous_uuid: now
    """

    tiling: Tiling
    positions: Mapping[int, int | None]
    ends: Mapping[int, int]
    validation: Validation | None
    recomputed: Recomputation
    rejects: int
    index: str
    created_uuid: str
    found_uuid: str | None
    alias: Alias
    previous_index: str | None
    previous_uuid: str | None
    found_previous_uuid: str | None

    @property
    def undrained(self) -> dict[int, int]:
        """Offsets that partitions lack to their last stable offset; those that lack none are left out."""
        lacking = {p: end - (self.positions.get(p) or 0) for p, end in self.ends.items()}
        return {partition: offsets for partition, offsets in lacking.items() if offsets > 0}


def gates(facts: GateFacts) -> tuple[Gate, ...]:
    """Every gate, in the order in which an operator would look. Pure."""
    return (
        _receipts(facts),
        _drained(facts),
        _rejects(facts),
        _validation(facts),
        _recomputation(facts),
        _index(facts),
        _alias(facts),
    )


def _receipts(facts: GateFacts) -> Gate:
    tiling = facts.tiling
    value = f"{tiling.segments_done} of {tiling.segments} segments covered"
    if tiling.faults:
        value += f"; {len(tiling.faults)} faults: {tiling.faults[0]}"
    remedy = "start a new run: its pages overlap" if tiling.faults else "run again: the copy goes on where it stopped"
    return Gate("receipts tile", value, "every segment, without gap or overlap", tiling.complete, remedy)


def _drained(facts: GateFacts) -> Gate:
    lacking = facts.undrained
    value = "; ".join(f"partition {p}: {n:,} offsets to go" for p, n in lacking.items()) or "at the end"
    return Gate(
        "topic drained",
        value,
        "every partition indexed to its last stable offset",
        not lacking,
        "run again, or start `reshelve worker indexer`",
    )


def _rejects(facts: GateFacts) -> Gate:
    return Gate(
        "rejects empty",
        f"{facts.rejects:,}",
        "0",
        facts.rejects == 0,
        "list them with `reshelve rejects`, correct the documents or the mapping, then start a new run",
    )


def _validation(facts: GateFacts) -> Gate:
    found = facts.validation
    return Gate(
        "validation clean",
        "none" if found is None else found.summary(),
        "no difference",
        found is not None and found.clean,
        "`reshelve validate` lists the differences by key and class",
    )


def _recomputation(facts: GateFacts) -> Gate:
    found, tiling = facts.recomputed, facts.tiling
    same = (tiling.documents, tiling.checksum)
    problems = []
    if (found.topic_documents, found.topic_checksum) != same:
        problems.append(f"receipts say {tiling.documents:,} documents, checksum {tiling.checksum:016x}")
    if found.differing:
        problems.append(f"partitions that differ: {', '.join(map(str, found.differing))}")
    value = (
        f"topic {found.topic_documents:,} documents, checksum {found.topic_checksum:016x}; "
        f"index {found.target_documents:,}, {found.target_checksum:016x}"
    )
    return Gate(
        "counts and checksums, recomputed",
        "; ".join([value, *problems]),
        "receipts, topic and index agree",
        not problems and (found.target_documents, found.target_checksum) == same,
        "`reshelve validate` lists the differences by key and class",
    )


def _index(facts: GateFacts) -> Gate:
    return Gate(
        "index unchanged",
        f"{facts.index} {facts.found_uuid or 'is gone'}",
        facts.created_uuid,
        facts.found_uuid == facts.created_uuid,
        "somebody replaced the index: start a new run",
    )


def _alias(facts: GateFacts) -> Gate:
    alias = facts.alias
    wanted = () if facts.previous_index is None else (facts.previous_index,)
    swapped = alias.indexes == (facts.index,)
    same = alias.indexes == wanted and facts.found_previous_uuid == facts.previous_uuid
    found = obstacle(alias)
    value = found[0] if found else f"{alias.name} points to {', '.join(alias.indexes) or 'nothing'}"
    if alias.indexes == wanted and not same:
        value += ", which is another index of the same name than when planned"
    return Gate(
        "alias where it was",
        value,
        f"{facts.previous_index or 'nothing'}, as planned",
        found is None and (same or swapped),
        found[1] if found else "find out who moved it; start a new run from where it is now",
    )


def gather(
    context: RunContext,
    tiling: Tiling,
    validation: Validation | None,
    created_uuid: str,
    *,
    report: Report = lambda text: None,
) -> GateFacts:
    """Look at Kafka and OpenSearch now. Raises ReshelveError when they can't be looked at."""
    plan, run, cluster = context.plan, context.run, context.cluster
    documents = run.topic("documents")
    previous = plan.previous_index
    return GateFacts(
        tiling=tiling,
        ends=cluster.stable_ends(documents, context.partitions),
        positions=cluster.committed(run.group("indexer"), documents, context.partitions),
        validation=validation,
        rejects=count_rejects(cluster, run),
        recomputed=recompute(context, report),
        index=plan.index,
        created_uuid=created_uuid,
        found_uuid=generation.uuid(context.opensearch, plan.index),
        alias=generation.alias_targets(context.opensearch, plan.alias),
        previous_index=previous,
        previous_uuid=plan.previous_uuid,
        found_previous_uuid=generation.uuid(context.opensearch, previous) if previous else None,
    )


def cut_over(context: RunContext, facts: GateFacts, *, report: Report = lambda text: None) -> Health:
    """Swap the alias to the run's index; returns the state of its copies. What `report` raises ends it before the swap.

    Raises GateClosed with every gate that is closed, TargetRefused, Unreachable."""
    require_open(gates(facts))
    plan, client = context.plan, context.opensearch
    report(f"restoring the settings of {plan.index} and waiting for its copies")
    health = generation.finish(client, plan.index, plan.definition, report=report)
    if health.note:
        report(health.note)
    now = replace(
        facts,
        found_uuid=generation.uuid(client, plan.index),
        alias=generation.alias_targets(client, plan.alias),
        found_previous_uuid=generation.uuid(client, plan.previous_index) if plan.previous_index else None,
    )
    require_open((_index(now), _alias(now)))
    report(f"swapping alias {plan.alias}")
    generation.swap(client, plan.alias, plan.index, plan.previous_index)
    return health


def require_open(found: tuple[Gate, ...]) -> None:
    """Raises GateClosed when one of the gates is closed; it names all that are."""
    closed = [gate for gate in found if not gate.open]
    if closed:
        raise GateClosed(
            f"the cut-over has {len(closed)} closed gate{'s' if len(closed) != 1 else ''}",
            where=", ".join(gate.name for gate in closed),
            why="; ".join(f"{gate.name}: {gate.value} (needed: {gate.threshold})" for gate in closed),
            remedy="; ".join(dict.fromkeys(gate.remedy for gate in closed)),
        )


def roll_back(context: RunContext, previous_index: str | None, previous_uuid: str | None) -> None:
    """Swap the alias back to the generation before. Instant, but that generation has not seen what was written
    since. An alias that is there already stays. Raises TargetRefused when there is no such generation, or the alias
    is on neither of the two, Unreachable."""
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
