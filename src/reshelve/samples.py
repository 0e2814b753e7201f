"""What a run's checkpoints say over time, bounded: for the plots of its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, Final

_MOST: Final = 300  # enough for a plot; whoever looks for one run folds the journal of all


@dataclass(frozen=True, slots=True)
class Sample:
    """One moment. None: not known then, or not asked for.

    at                    seconds since 1970 UTC
    documents, indexed    of the copy, so far
    lag                   offsets written and not yet durably indexed
    seconds_behind        age of the oldest change that may not be indexed
    requests, request_ms  bulk requests of the indexers at work, and the milliseconds that they took in all; they begin
                          anew with each indexer
    documents_per_second  limit that holds; None: none
    paused                no work is taken
    """

    at: float
    documents: int
    indexed: int
    lag: int
    seconds_behind: float | None
    requests: int
    request_ms: int
    documents_per_second: float | None
    paused: bool

    @classmethod
    def of(cls, at: str, checkpoint: Mapping[str, Any]) -> Sample | None:
        """From the journal's entry; None where it says nothing of the kind."""
        if "documents" not in checkpoint:
            return None
        bulk = checkpoint.get("bulk") or {}
        return cls(
            at=datetime.fromisoformat(at).timestamp(),
            documents=int(checkpoint["documents"]),
            indexed=int(checkpoint.get("indexed") or 0),
            lag=int(checkpoint.get("lag") or 0),
            seconds_behind=checkpoint.get("seconds_behind"),
            requests=int(bulk.get("requests") or 0),
            request_ms=int(bulk.get("request_ms") or 0),
            documents_per_second=(checkpoint.get("limit") or {}).get("documents_per_second"),
            paused=checkpoint.get("paused") is not None,
        )


class Samples:
    """The samples of a run, evenly thinned once there are too many."""

    def __init__(self) -> None:
        self._kept: list[Sample] = []
        self._newest: Sample | None = None
        self._gap = 0.0

    def add(self, sample: Sample | None) -> None:
        if sample is None:
            return
        self._newest = sample
        if self._kept and sample.at - self._kept[-1].at < self._gap:
            return
        self._kept.append(sample)
        if len(self._kept) > _MOST:
            self._kept = self._kept[::2]
            self._gap = (self._kept[-1].at - self._kept[0].at) / len(self._kept) * 0.75

    @property
    def all(self) -> Sequence[Sample]:
        """Oldest first; the newest one is always among them."""
        newest = self._newest
        return [*self._kept] if newest is None or newest is self._kept[-1] else [*self._kept, newest]

    def as_dict(self) -> dict[str, Any]:
        """As columns and rows, which says each name once."""
        rows = [list(asdict(sample).values()) for sample in self.all]
        return {"columns": [field.name for field in fields(Sample)], "rows": rows}
