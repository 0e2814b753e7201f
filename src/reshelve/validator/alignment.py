"""Topic and index at one position, while both go on.

Of each partition of `documents`:

    1. settled = the offset that the indexers have committed: what stands before it is durably in the index
    2. the index is refreshed, and a point in time is opened: it holds all that
    3. written = where the partition ends: what stands behind it came too late for the point in time

Keys with a record in between are *unsettled*: whether the point in time has that record is open. Of every other key it
has the newest record before `settled`, and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from reshelve.context import RunContext
from reshelve.errors import BlockedError
from reshelve.validator.compare import Written
from reshelve.validator.log import read_between
from reshelve.validator.target import Check, PointInTime, open_point_in_time

MOST_UNSETTLED: Final = 200_000  # records, which each validator holds: about 40 MB
_LOOK_S: Final = 1.0
_SAY_S: Final = 30.0
_PATIENCE_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class Alignment:
    """A point in time of the index, and where it stands in the topic, by partition."""

    point: PointInTime
    settled: tuple[int, ...]
    written: tuple[int, ...]


def align(context: RunContext, report: Callable[[str], None]) -> Alignment:
    """Steps 1 to 3, as soon as no more than `MOST_UNSETTLED` records are open. Raises ReshelveError, BlockedError
    when the indexers don't come so far."""
    _await_indexers(context, report)
    settled = _indexed(context)
    point = open_point_in_time(context.opensearch, context.plan.index)
    return Alignment(point, settled, _written(context))


def read_unsettled(
    context: RunContext, settled: Sequence[int], written: Sequence[int], check: Check = lambda: None
) -> dict[bytes, list[Written]]:
    """The unsettled keys of all partitions with their records in between. Raises as `read_between` does."""
    starts, ends = dict(enumerate(settled)), dict(enumerate(written))
    found: dict[bytes, list[Written]] = {}
    topic = context.run.topic("documents")
    for key, _, version, document in read_between(context.cluster, topic, starts, ends, len(starts), check):
        found.setdefault(key, []).append(Written(version, document is None))
    return found


def _await_indexers(context: RunContext, report: Callable[[str], None]) -> None:
    least, moved = None, time.monotonic()
    said = moved - _SAY_S
    while True:
        settled, written = _indexed(context), _written(context)
        open_ = sum(max(0, end - place) for place, end in zip(settled, written, strict=True))
        if open_ <= MOST_UNSETTLED:
            return
        now = time.monotonic()
        if least is None or open_ < least:
            least, moved = open_, now
        if now - moved > _PATIENCE_S:
            raise BlockedError(
                "the index is too far behind the topic to be validated",
                where=context.run.topic("documents"),
                why=f"{open_:,} records are not indexed, and they don't get fewer",
                remedy=f"see that indexers run (`reshelve worker indexer {context.run}` starts one) and keep up",
            )
        if now - said >= _SAY_S:
            said = now
            report(f"validation waits for the indexers: {open_:,} records to go")
        time.sleep(_LOOK_S)


def _indexed(context: RunContext) -> tuple[int, ...]:
    found = context.cluster.committed(context.run.group("indexer"), context.run.topic("documents"), context.partitions)
    return tuple(found[p] or 0 for p in range(context.partitions))


def _written(context: RunContext) -> tuple[int, ...]:
    ends = context.cluster.written_ends(context.run.topic("documents"), context.partitions)
    return tuple(ends[p] for p in range(context.partitions))
