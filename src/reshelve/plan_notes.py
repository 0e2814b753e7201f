"""What whoever approves a plan should know besides: what is not guaranteed, and what is made elsewhere. Pure."""

from __future__ import annotations

from typing import Final

from reshelve.model import ChangePlan, Segment, SourceFacts
from reshelve.producers.segments import default_segments
from reshelve.spec import Spec

_UNFOLLOWED: Final = (
    "Writes made to the source during the copy are not followed (`changes: none`): each document is as it was when its "
    "page was read, between the start and the end of the copy. What is inserted or updated meanwhile may be missing "
    "or old in the new index, and what is deleted may be found in it. Stop the writers, or run again, where that is "
    "not enough."
)


def plan_notes(
    spec: Spec, facts: SourceFacts, changes: ChangePlan, segments: tuple[Segment, ...], previous: str | None
) -> tuple[str, ...]:
    """About what is planned."""
    notes = change_notes(spec, changes)
    if spec.scope.partial:
        notes.append("The new index holds only the documents in the scope; the others will not be found.")
    if previous is None:
        notes.append(f"Alias {spec.target.opensearch.alias} does not exist; the cut-over creates it.")
    if spec.transform is not None:
        notes.append("The transform's code is not part of the plan's hash: keep it as it was approved.")
    if len(segments) == 1 and default_segments(facts.estimated_documents, spec.kafka.partitions) > 1:
        notes.append(
            f"One segment only, so one page reader: there are no statistics of {facts.key[0].name}. "
            "ANALYZE the table to share the reading."
        )
    return tuple(notes)


def change_notes(spec: Spec, changes: ChangePlan) -> list[str]:
    """About how changes are followed."""
    notes = []
    if changes.mode == "none":
        notes.append(_UNFOLLOWED)
    elif changes.mode == "replication":
        made = f"the replication slot {changes.slot}"
        if changes.owns_publication:
            made += " and the publication of the same name"
        end = "when it is retired" if spec.follow == "always" else "at its end"
        notes.append(
            f"The run makes {made} at the source, and drops what it made {end}. Meanwhile the source keeps the WAL "
            f"that was not read yet, at most {spec.limits.max_wal_retained / 1e9:,.1f} GB (limits.max_wal_retained): "
            "past that the slot is dropped and the run ends Blocked."
        )
    else:
        notes.append(
            f"Changes come from topics that a Debezium connector fills, through its slot {changes.slot}. Assumed of "
            "it: it captures every table of the rules whole, without filters and transformations of its records, and "
            "it goes on throughout the run."
        )
    if changes.ignored:
        notes.append(
            f"Changes of {', '.join(changes.ignored)} are not followed (`ignore: true` in depends_on): documents that "
            "hold something of them are as they were when last read."
        )
    return notes
