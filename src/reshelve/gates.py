"""The gates of the cut-over: conditions on facts that were gathered before. Pure: no I/O.

Without live changes everything is judged as it is now. With them topic and index go on; then `LiveFacts` tells what
was found at the validation, and the gates of `Following` see to what has come since.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from reshelve.applied import Applied, seconds_behind
from reshelve.approval.standing import Standing
from reshelve.consumers.alias import Alias, obstacle
from reshelve.errors import GateClosed
from reshelve.producers.slot import SlotState
from reshelve.receipts import Tiling
from reshelve.validator.queries import QueriesVerdict
from reshelve.validator.recomputation import Recomputation
from reshelve.validator.verdict import Validation


@dataclass(frozen=True, slots=True)
class Gate:
    """A condition of the cut-over, with what was found, what it takes, and what to do when it is closed.

    passing  closed, it opens again by itself while the run goes on
    """

    name: str
    value: str
    threshold: str
    open: bool
    remedy: str
    passing: bool = False

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class LiveFacts:
    """What the run found out when it validated.

    settled            offset of each partition of `changes` that the key readers must have passed
    validated_version  as of whose clock, or later, topic and index agree; None: a partition has no watermark
    ends               offset of each partition of `documents` up to which they do
    recomputed         just after the validation
    """

    settled: Mapping[int, int]
    validated_version: int | None
    ends: Mapping[int, int]
    recomputed: Recomputation


@dataclass(frozen=True, slots=True)
class Following:
    """How the live changes are now.

    live              None: the run has not validated yet
    key_positions     offset that the key readers have committed for each partition of `changes`; None: none
    applied           the applied clock of each partition
    now_ms            milliseconds since 1970 UTC
    slot              None where changes come through somebody else's slot
    max_seconds_behind, max_wal_retained  the spec's limits (seconds, bytes)
    """

    live: LiveFacts | None
    key_positions: Mapping[int, int | None]
    applied: Mapping[int, Applied | None]
    now_ms: int
    slot: SlotState | None
    max_seconds_behind: float
    max_wal_retained: int


@dataclass(frozen=True, slots=True)
class GateFacts:
    """What the gates are judged by.

    positions      offset that the indexers have committed for each partition of `documents`; None: none
    ends           its last stable offset; with live changes that of the validation
    recomputed     None: with live changes, before the validation
    rejects        open ones: rejected documents that were neither redriven nor waived, nor superseded
    waivers        who waived how many, and why; empty when nothing is waived
    redriven       rejects that were read again and accepted: the receipts do not count them
    queries        searches compared with the previous index; None: they were not
    minimum        what the spec asks of that comparison, for people; empty when it asks for nothing, or there is no
                   previous index
    created_uuid   of the index when this run created it; found_uuid: now (None: it is gone)
    alias          what the public alias' name stands for now; previous_index: what it was planned to leave
    previous_uuid  of the previous index when planned; found_previous_uuid: now
    following      None without live changes
    approval       how it stands with that of the swap; None: the spec asks for none
    """

    tiling: Tiling
    positions: Mapping[int, int | None]
    ends: Mapping[int, int]
    validation: Validation | None
    recomputed: Recomputation | None
    rejects: int
    index: str
    created_uuid: str
    found_uuid: str | None
    alias: Alias
    previous_index: str | None
    previous_uuid: str | None
    found_previous_uuid: str | None
    following: Following | None = None
    waivers: str = ""
    redriven: int = 0
    queries: QueriesVerdict | None = None
    minimum: str = ""
    approval: Standing | None = None

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
        *_queries(facts),
        *_approved(facts),
        *standing(facts),
    )


def standing(facts: GateFacts) -> tuple[Gate, ...]:
    """The gates of what may change while the swap is prepared, which may take long."""
    following = () if facts.following is None else _follow(facts.following)
    return (*following, _index(facts), _alias(facts))


def _receipts(facts: GateFacts) -> Gate:
    tiling = facts.tiling
    value = f"{tiling.segments_done} of {tiling.segments} segments covered"
    if tiling.faults:
        value += f"; {len(tiling.faults)} faults: {tiling.faults[0]}"
    remedy = "start a new run: its pages overlap" if tiling.faults else "run again: the copy goes on where it stopped"
    return Gate("receipts tile", value, "every segment, without gap or overlap", tiling.complete, remedy)


def _drained(facts: GateFacts) -> Gate:
    lacking = facts.undrained
    known = facts.following is None or facts.following.live is not None
    value = "; ".join(f"partition {p}: {n:,} offsets to go" for p, n in lacking.items())
    return Gate(
        "topic drained",
        value or ("at the end" if known else "not validated"),
        "every partition indexed to "
        + ("its last stable offset" if facts.following is None else "the end that was validated"),
        known and not lacking,
        "run again, or start `reshelve worker indexer`",
    )


def _rejects(facts: GateFacts) -> Gate:
    return Gate(
        "rejects empty",
        "; ".join(filter(None, (f"{facts.rejects:,}", facts.waivers))),
        "0",
        facts.rejects == 0,
        "list them with `reshelve rejects list`, correct the cause and redrive them, or waive them by name",
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
    name, remedy = "counts and checksums, recomputed", "`reshelve validate` lists the differences by key and class"
    by_receipts = facts.following is None and not facts.redriven and not facts.waivers
    threshold = "receipts, topic and index agree" if by_receipts else "topic and index agree"
    if found is None:
        return Gate(name, "none", threshold, False, "run again: it validates first")
    topic, index = (found.topic_documents, found.topic_checksum), (found.target_documents, found.target_checksum)
    problems = []
    # The receipts know the copy only: neither what came later, nor what was redriven, nor that no sum holds the waived.
    if by_receipts and topic != (tiling.documents, tiling.checksum):
        problems.append(f"receipts say {tiling.documents:,} documents, checksum {tiling.checksum:016x}")
    if found.differing:
        problems.append(f"partitions that differ: {', '.join(map(str, found.differing))}")
    value = f"topic {topic[0]:,} documents, checksum {topic[1]:016x}; index {index[0]:,}, {index[1]:016x}"
    return Gate(name, "; ".join([value, *problems]), threshold, not problems and topic == index, remedy)


def _queries(facts: GateFacts) -> tuple[Gate, ...]:
    if not facts.minimum:
        return ()
    found = facts.queries
    return (
        Gate(
            "searches find what they found",
            "not compared" if found is None else found.summary(),
            facts.minimum,
            found is not None and found.clean,
            "the report lists the worst searches: correct index definition or query, or lower the minimum in the spec",
        ),
    )


def _approved(facts: GateFacts) -> tuple[Gate, ...]:
    found = facts.approval
    return () if found is None else (Gate("approved", found.summary(), found.needed, found.accepted, found.remedy),)


def _follow(facts: Following) -> tuple[Gate, ...]:
    always = (_settled(facts), _applied(facts), _seconds_behind(facts))
    return always if facts.slot is None else (*always, _slot(facts, facts.slot))


def _settled(facts: Following) -> Gate:
    ends = None if facts.live is None else facts.live.settled
    lacking = {p: end - (facts.key_positions.get(p) or 0) for p, end in (ends or {}).items()}
    value = "; ".join(f"partition {p}: {n:,} offsets to go" for p, n in lacking.items() if n > 0)
    return Gate(
        "settled",
        "not yet" if ends is None else value or "every changed key was read again",
        "what changed during the copy, read again after it",
        ends is not None and not value,
        "run again, or start `reshelve worker keys`",
    )


def _applied(facts: Following) -> Gate:
    wanted = None if facts.live is None else facts.live.validated_version
    short = [p for p, clock in sorted(facts.applied.items()) if clock is None or clock.version < (wanted or 0)]
    return Gate(
        "applied clock",
        f"partitions behind it: {', '.join(map(str, short))}" if short else "past it",
        "not validated" if wanted is None else f"the validated clock ({wanted}), in every partition",
        wanted is not None and bool(facts.applied) and not short,
        "run again: the tailer, a key reader and an indexer have to be at work",
    )


def _seconds_behind(facts: Following) -> Gate:
    seconds = seconds_behind(facts.applied.values(), facts.now_ms)
    return Gate(
        "seconds behind",
        "unknown: no change was applied yet" if seconds is None else f"{seconds:.1f} s",
        f"less than {facts.max_seconds_behind:g} s",
        seconds is not None and seconds < facts.max_seconds_behind,
        "run again when the source is written less, add workers, or raise limits.max_seconds_behind",
        passing=True,
    )


def _slot(facts: Following, slot: SlotState) -> Gate:
    lost = slot.invalidation or ("lost" if slot.wal_status == "lost" else "")
    retained = slot.retained_bytes
    value = f"{slot.wal_status}, {retained:,} bytes of WAL retained" if retained is not None else slot.wal_status
    return Gate(
        "replication slot",
        "gone" if not slot.exists else f"invalidated: {lost}" if lost else value,
        f"there, with less than {facts.max_wal_retained:,} bytes of WAL retained",
        slot.exists and not lost and retained is not None and retained < facts.max_wal_retained,
        "start a new run: changes are missing"
        if lost or not slot.exists
        else "let the tailer catch up, then run again",
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


def require_open(found: tuple[Gate, ...]) -> None:
    """Raises GateClosed when one of the gates is closed; it names all that are."""
    closed = [gate for gate in found if not gate.open]
    if closed:
        error = GateClosed(
            f"the cut-over has {len(closed)} closed gate{'s' if len(closed) != 1 else ''}",
            where=", ".join(gate.name for gate in closed),
            why="; ".join(f"{gate.name}: {gate.value} (needed: {gate.threshold})" for gate in closed),
            remedy="; ".join(dict.fromkeys(gate.remedy for gate in closed)),
        )
        error.passing = all(gate.passing for gate in closed)
        raise error
