"""What a run will take: time, and bytes in the topic and in the index. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from reshelve.consumers.capacity import IndexSize
from reshelve.model import SourceFacts
from reshelve.spec import Spec

SLOW, FAST = 20_000, 60_000
"""Documents a second that a small machine has been seen to copy."""
_SLOWER, _FASTER = 0.67, 1.25
"""How far a run of the same reindex may be from the one that was measured: other load, other hours."""
_RECORD_BYTES: Final = 60
"""Of a record besides its document: key, version, envelope, Kafka's own."""
_COMPRESSED: Final = 0.25
"""What lz4 leaves of JSON at best, as in the benchmarks."""
INDEX_BYTES: Final = 2.0
"""Bytes on disk for a byte of JSON while it is indexed, merges included, where nothing is known of the index."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a completed run of the reindex took, from the beginning of its copy to that of its validation.

    bytes    of JSON"""

    run: str
    documents: int
    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a run takes, and what that is based on.

    seconds_low, seconds_high  from the beginning of the copy to that of the validation
    topic_low, topic_high      bytes of one copy of `documents`, compressed at best and not at all
    index_bytes                of the new index, with the replicas that it is asked to have"""

    seconds_low: float
    seconds_high: float
    basis: str
    topic_low: int = 0
    topic_high: int = 0
    index_bytes: int = 0
    index_basis: str = ""


def forecast(
    facts: SourceFacts,
    spec: Spec,
    *,
    replicas: int = 0,
    measured: Measured | None = None,
    previous: IndexSize | None = None,
) -> Forecast:
    """For a source and a spec, by what a run before took and what the previous index takes, where that is known."""
    slow, fast, basis = _rates(facts, spec, measured)
    documents, json = facts.estimated_documents, facts.estimated_bytes
    index, index_basis = _index(facts, previous)
    copies = 1 + replicas
    return Forecast(
        seconds_low=round(documents / fast, 1),
        seconds_high=round(documents / slow, 1),
        basis=basis,
        topic_low=int(json * _COMPRESSED + documents * _RECORD_BYTES * _COMPRESSED),
        topic_high=json + documents * _RECORD_BYTES,
        index_bytes=int(index * copies),
        index_basis=index_basis + (f", {copies} copies" if copies > 1 else ""),
    )


def _rates(facts: SourceFacts, spec: Spec, measured: Measured | None) -> tuple[float, float, str]:
    """Documents a second at worst and at best."""
    if measured is not None and measured.seconds > 0 and measured.documents > 0:
        rate = measured.documents / measured.seconds
        slow, fast = rate * _SLOWER, rate * _FASTER
        basis = f"{rate:,.0f} documents/s measured in run {measured.run}"
    else:
        slow, fast = float(SLOW), float(FAST)
        basis = f"{SLOW:,} to {FAST:,} documents/s assumed, not rehearsed"
    limits, size = spec.limits, facts.estimated_bytes / max(facts.estimated_documents, 1)
    ceilings = [limits.documents_per_second] if limits.documents_per_second else []
    if limits.megabytes_per_second and size:
        ceilings.append(limits.megabytes_per_second * 1e6 / size)
    if ceilings and min(ceilings) < fast:
        slow, fast = min(slow, *ceilings), min(ceilings)
        basis += f"; at most {fast:,.0f} documents/s by the spec's limits"
    return slow, fast, basis


def _index(facts: SourceFacts, previous: IndexSize | None) -> tuple[float, str]:
    """Bytes of one copy."""
    if previous is None or not previous.documents:
        return facts.estimated_bytes * INDEX_BYTES, f"{INDEX_BYTES:g} bytes for one of JSON assumed"
    each = previous.bytes / previous.documents
    return facts.estimated_documents * each, f"{each:,.0f} bytes a document, as in the previous index"
