"""What a validation found, as it stands in the journal and in the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, Final

from reshelve.validator.compare import DRIFT_CLASSES, Drift

_LISTED: Final = 1_000
_KEPT: Final = 100  # drifted keys of a partition in `as_dict`: an entry of the journal is bounded


@dataclass(frozen=True, slots=True)
class PartitionVerdict:
    """What was found in one partition.

    topic_documents   documents in the topic up to the offset `end`: keys whose newest record is no tombstone
    target_documents  documents of the index whose key belongs to the partition; None when not asked for
    unsettled         keys with a record behind `end`: in neither number nor checksum, judged one by one
    topic_checksum    Σ `document_checksum` mod 2**64, in hexadecimal
    counts_match      None when not asked for; so is checksums_match
    samples           keys compared whole, source against index
    drift             number of keys in each class; exact
    drifted           (key, class) of the first of them
    rejected          how many of the missing in `drifted` are rejects of this run
    waived            keys that are missing or stale, and whose rejects somebody has waived: no drift, and in no sum
    pending           samples that differ, and whose change is under way after all attempts: not judged
    version           of the newest watermark before `end`: what the topic holds is as of that clock; None: it has none
    page_records      documents of keys that were never changed; each was written with a page
    changed_records   documents among the records of all other keys, of a page or of a change
    """

    partition: int
    topic_documents: int
    topic_checksum: str
    target_documents: int | None = None
    counts_match: bool | None = None
    checksums_match: bool | None = None
    unsettled: int = 0
    samples: int = 0
    drift: Mapping[Drift, int] = field(default_factory=dict)
    drifted: tuple[tuple[str, Drift], ...] = ()
    rejected: int = 0
    waived: int = 0
    pending: int = 0
    end: int = 0
    version: int | None = None
    page_records: int = 0
    changed_records: int = 0

    @property
    def clean(self) -> bool:
        return self.counts_match is not False and self.checksums_match is not False and not any(self.drift.values())

    def as_dict(self, keep: int | None = None) -> dict[str, Any]:
        """Plain JSON; with `keep`, no more drifted keys than that."""
        return asdict(self) | {"drift": dict(self.drift), "drifted": [list(pair) for pair in self.drifted[:keep]]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PartitionVerdict:
        return cls(**(dict(data) | {"drifted": tuple((key, drift) for key, drift in data["drifted"])}))


@dataclass(frozen=True, slots=True)
class RangeVerdict:
    """What was found in one key range of the source, or (extras) in one slice of the index.

    documents  compared whole; of a slice: keys of the index that the source was asked for
    found      how many of those the index has
    drift      number of keys in each class; exact
    drifted    (key, class) of the first of them
    pending    keys that differ, and whose change is still under way after all attempts: not judged
    """

    number: int
    documents: int
    found: int = 0
    drift: Mapping[Drift, int] = field(default_factory=dict)
    drifted: tuple[tuple[str, Drift], ...] = ()
    pending: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self) | {"drift": dict(self.drift), "drifted": [list(pair) for pair in self.drifted]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RangeVerdict:
        return cls(**(dict(data) | {"drifted": tuple((key, drift) for key, drift in data["drifted"])}))


@dataclass(frozen=True, slots=True)
class FullVerdict:
    """What level "full" found.

    ranges     of keys, all of them
    slices     of the index that were looked up in the source; None: there was no need, it has no document more
    documents  compared whole
    drift      number of keys in each class; exact
    drifted    (key, class) of the first of them
    pending    keys that were not judged, because a change of theirs was under way at each attempt
    rejected   how many of the missing in `drifted` are rejects of this run
    """

    ranges: int
    slices: int | None
    documents: int
    drift: Mapping[Drift, int] = field(default_factory=dict)
    drifted: tuple[tuple[str, Drift], ...] = ()
    pending: int = 0
    rejected: int = 0

    @classmethod
    def of(cls, ranges: Sequence[RangeVerdict], slices: Sequence[RangeVerdict] | None) -> FullVerdict:
        both = [*ranges, *(slices or ())]
        listed = islice((pair for one in both for pair in one.drifted), _LISTED)
        return cls(
            ranges=len(ranges),
            slices=None if slices is None else len(slices),
            documents=sum(one.documents for one in ranges),
            drift=merge_drift(one.drift for one in both),
            drifted=tuple(listed),
            pending=sum(one.pending for one in both),
        )

    @property
    def clean(self) -> bool:
        return not any(self.drift.values())

    def as_dict(self, keep: int | None = None) -> dict[str, Any]:
        """Plain JSON; with `keep`, no more drifted keys than that."""
        return asdict(self) | {"drift": dict(self.drift), "drifted": [list(pair) for pair in self.drifted[:keep]]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FullVerdict:
        return cls(**(dict(data) | {"drifted": tuple((key, drift) for key, drift in data["drifted"])}))


@dataclass(frozen=True, slots=True)
class Validation:
    """What a check found.

    check     its identifier, new for each validation
    at        when it was done, ISO 8601 UTC
    expected  documents of the pages, according to the receipts; changes since then add and remove documents
    faults    what is wrong with the whole and not with one partition (topic against receipts)
    levels    that were asked for, in their order
    full      None: not asked for
    """

    check: str
    at: str
    seconds: float
    expected: int
    partitions: tuple[PartitionVerdict, ...]
    faults: tuple[str, ...] = ()
    levels: tuple[str, ...] = ()
    full: FullVerdict | None = None

    @property
    def clean(self) -> bool:
        """No difference was found, neither between the sides nor between topic and receipts."""
        return not self.faults and all(verdict.clean for verdict in self._verdicts)

    @property
    def _verdicts(self) -> tuple[PartitionVerdict | FullVerdict, ...]:
        return self.partitions if self.full is None else (*self.partitions, self.full)

    @property
    def topic_documents(self) -> int:
        return sum(verdict.topic_documents for verdict in self.partitions)

    @property
    def target_documents(self) -> int | None:
        """None when documents of the index were not counted."""
        counted = [verdict.target_documents for verdict in self.partitions]
        return None if None in counted else sum(filter(None, counted))

    @property
    def samples(self) -> int:
        return sum(verdict.samples for verdict in self.partitions)

    @property
    def drift(self) -> dict[Drift, int]:
        """Number of keys in each class that occurs."""
        return merge_drift(verdict.drift for verdict in self._verdicts)

    @property
    def drifted(self) -> int:
        """A key that several levels find counts for each."""
        return sum(self.drift.values())

    @property
    def unsettled(self) -> int:
        """Keys that were judged one by one, because the index had or had not their newest record yet."""
        return sum(verdict.unsettled for verdict in self.partitions)

    @property
    def compared(self) -> int:
        """Documents compared whole, source against index."""
        return self.samples if self.full is None else self.full.documents

    @property
    def rejected(self) -> int:
        """Of the listed keys only; a key that several levels find counts for each."""
        return sum(verdict.rejected for verdict in self._verdicts)

    @property
    def waived(self) -> int:
        """Keys that are missing or stale, and whose rejects somebody has waived."""
        return sum(verdict.waived for verdict in self.partitions)

    @property
    def pending(self) -> int:
        """Differences that were not judged, because a change of the key was under way at each attempt."""
        return sum(verdict.pending for verdict in self._verdicts)

    @property
    def version(self) -> int | None:
        """What was validated is the source as of this version's clock, or later; None where a partition of the topic
        has no watermark."""
        return oldest_version(verdict.version for verdict in self.partitions)

    @property
    def ends(self) -> dict[int, int]:
        """The offset of `documents` up to which each partition was validated."""
        return {verdict.partition: verdict.end for verdict in self.partitions}

    def summary(self) -> str:
        """One line for people: what was compared, and what differs."""
        text = f"{len(self.partitions)} partitions, {self.topic_documents:,} documents"
        if self.unsettled:
            text += f" and {self.unsettled:,} keys just being indexed"
        text += f", {self.compared:,} compared whole"
        if self.pending:
            text += f" ({self.pending:,} not judged: a change of theirs is under way)"
        if self.waived:
            text += f", {self.waived:,} waived left out"
        if self.clean:
            return text + ": no difference"
        found = [f"{count:,} {drift}" for drift, count in self.drift.items()]
        if self.rejected:
            found.append(f"of the missing, {self.rejected:,} are rejects")
        differing = sum(not v.clean for v in self.partitions)
        return f"{text}: {differing} partitions differ" + "".join(f"; {part}" for part in (*found, *self.faults))

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON, bounded: of each partition the first 100 drifted keys."""
        return {
            "check": self.check,
            "at": self.at,
            "seconds": self.seconds,
            "expected": self.expected,
            "clean": self.clean,
            "summary": self.summary(),
            "topic_documents": self.topic_documents,
            "target_documents": self.target_documents,
            "samples": self.samples,
            "unsettled": self.unsettled,
            "pending": self.pending,
            "version": self.version,
            "drift": dict(self.drift),
            "faults": list(self.faults),
            "levels": list(self.levels),
            "partitions": [verdict.as_dict(_KEPT) for verdict in self.partitions],
            "full": None if self.full is None else self.full.as_dict(_KEPT),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Validation:
        """The inverse of `as_dict`, but for the drifted keys that it left out."""
        return cls(
            check=data["check"],
            at=data["at"],
            seconds=data["seconds"],
            expected=data["expected"],
            partitions=tuple(PartitionVerdict.from_dict(verdict) for verdict in data["partitions"]),
            faults=tuple(data["faults"]),
            levels=tuple(data["levels"]),
            full=None if data["full"] is None else FullVerdict.from_dict(data["full"]),
        )


def merge_drift(counts: Iterable[Mapping[Drift, int]]) -> dict[Drift, int]:
    """The sums by class, in the classes' order, without those that are 0."""
    listed = list(counts)
    total = {drift: sum(count.get(drift, 0) for count in listed) for drift in DRIFT_CLASSES}
    return {drift: count for drift, count in total.items() if count}


def oldest_version(versions: Iterable[int | None]) -> int | None:
    """The lowest; None when one of them is None, or there is none."""
    listed = list(versions)
    return None if None in listed else min((v for v in listed if v is not None), default=None)
