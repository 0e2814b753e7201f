"""Rejects that somebody answers for: that their documents are not in the index is no drift."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from reshelve.consumers.rejects import read_ledger
from reshelve.context import RunContext
from reshelve.validator.compare import Drift

# A waived document may never have come, or an older one of its key stayed. Whatever else is there, nobody waived.
_EXCUSED: Final[frozenset[Drift]] = frozenset({"missing", "stale"})


def rejects_end(context: RunContext) -> int:
    """Where `rejects` ends now, so that all who look for waived keys find the same. Raises ReshelveError."""
    return context.cluster.written_ends(context.run.topic("rejects"), 1)[0]


def read_waived(context: RunContext, end: int) -> frozenset[bytes]:
    """The keys that are waived, by the records of `rejects` before an offset. Raises ReshelveError."""
    return frozenset(read_ledger(context.cluster, context.run, end).waived()) if end else frozenset()


def is_excused(key: bytes, drift: Drift, waived: Collection[bytes]) -> bool:
    """Whether a waiver covers the drift of a key."""
    return drift in _EXCUSED and key in waived
