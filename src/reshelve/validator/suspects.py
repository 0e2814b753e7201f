"""Keys that seem to differ, looked at again: what is drift for certain, what is still under way.

A round reads, in this order:

    1. the key readers' committed offsets of `changes`
    2. the keys in the source, at snapshots; V is a snapshot's version
    3. the indexers' committed offsets C of `documents`
    4. the keys in the index, in real time
    5. the written end E of `documents`

A change that is visible at V stands in `changes` before the first watermark of V or later. Behind 1 its key is
*pending*. Before 1 it was read, and its record stands in `documents` before E: at C or behind, the key is *unsettled*;
before C, the index had it at 4, or a newer one. So a key that differs, is neither pending nor unsettled, and that the
index does not hold at a version after V, is drift for certain. All others are read again; a version that had been in
the index before a snapshot, and is after it, is nobody's of us.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol, TypeAlias

from opensearchpy import OpenSearch

from reshelve.transform import TransformFailed, apply_transform
from reshelve.validator.compare import Drift, Reading, digest
from reshelve.validator.target import Check, read_documents

ROUND_KEYS: Final = 2_000
_BATCH: Final = 100  # keys whose documents are in memory at once
_READINGS: Final = 4
_PAUSE_S: Final = 0.5
# The source has the row, but makes no document of it: unlike every digest.
_NO_DOCUMENT: Final = b"no document"

Judgement: TypeAlias = Literal["same", "again"] | Drift | Literal["changed"]


class Traffic(Protocol):
    """What is under way between source and index: how far the topics have been read, and what stands behind."""

    def key_positions(self) -> Mapping[int, int]:
        """Key readers' committed offsets of `changes`."""

    def index_positions(self) -> Mapping[int, int]:
        """Indexers' committed offsets of `documents`."""

    def ends(self) -> Mapping[int, int]:
        """Written ends of `documents`."""

    def pending(self, keys: frozenset[bytes], starts: Mapping[int, int], version: int) -> frozenset[bytes]:
        """Those with a key task behind `starts`, before the first watermark of `version` or later."""

    def unsettled(self, keys: frozenset[bytes], starts: Mapping[int, int], ends: Mapping[int, int]) -> frozenset[bytes]:
        """Those with a record of `documents` in between."""


class KeySource(Protocol):
    """The source by key: (version of the snapshot, document by key). A key without a row is not in it, the document of
    one over the limit is None."""

    def __call__(self, keys: Sequence[bytes]) -> tuple[int, Mapping[bytes, bytes | None]]: ...


@dataclass(frozen=True, slots=True)
class Finding:
    """A key that differs for certain. drift "changed": both sides have it, of what class is for the topic to say.

    found, digest  version and digest of the index's document; None: it has none
    rejected       the source has a row, and no document can be made of it"""

    key: bytes
    drift: Drift | Literal["changed"]
    found: int | None
    digest: bytes | None
    rejected: bool = False


@dataclass(slots=True)
class Findings:
    """excused: keys that were still under way after the last reading."""

    certain: list[Finding] = field(default_factory=list)
    excused: int = 0


def judge(
    source: bytes | None, target: Reading | None, *, at: int, before: int | None, under_way: Callable[[], bool]
) -> Judgement:
    """Pure, but for what `under_way` reads; it is asked only where it matters.

    source  digest of what the source says as of the version `at`; None: it has no such document
    before  version that an earlier reading, made before that snapshot, had found in the index"""
    if target is not None and target.version > at:
        return "foreign" if target.version == before else "again"
    if source == (target.digest if target else None):
        return "same"
    if under_way():
        return "again"
    if target is None:
        return "missing"
    return "extra" if source is None else "changed"


@dataclass(frozen=True)
class SuspectReader:
    """How suspect keys are looked at again. `pause` waits so many seconds, and raises to end the work."""

    source: KeySource
    client: OpenSearch
    index: str
    transform: Callable[[dict[str, Any]], object] | None
    traffic: Traffic
    check: Check
    pause: Callable[[float], None]

    def read(self, keys: Sequence[bytes]) -> Findings:
        """What is certain of the keys, `ROUND_KEYS` at most. Raises ReshelveError."""
        findings = Findings()
        left: dict[bytes, int | None] = dict.fromkeys(keys)
        for reading in range(_READINGS):
            if reading:
                self.pause(_PAUSE_S * reading)
            left = self._round(left, findings)
            if not left:
                break
        findings.excused = len(left)
        return findings

    def _round(self, keys: Mapping[bytes, int | None], findings: Findings) -> dict[bytes, int | None]:
        """Adds what is certain; returns the others, each with the version that the index had."""
        traffic = self.traffic
        key_positions = traffic.key_positions()
        here: dict[bytes, tuple[int, bytes | None]] = {}
        for batch in _batches(list(keys)):
            self.check()
            version, documents = self.source(batch)
            here |= {key: (version, self._digest(documents, key)) for key in batch}
        index_positions = traffic.index_positions()
        there: dict[bytes, Reading] = {}
        for batch in _batches(list(keys)):
            self.check()
            there |= read_documents(self.client, self.index, batch)
        differing = frozenset(key for key in keys if here[key][1] != (there[key].digest if key in there else None))
        under_way: frozenset[bytes] = frozenset()
        if differing:
            under_way = traffic.unsettled(differing, index_positions, traffic.ends())
            newest = max(version for version, _ in here.values())
            under_way |= traffic.pending(differing - under_way, key_positions, newest)
        left: dict[bytes, int | None] = {}
        for key, before in keys.items():
            (at, source), target = here[key], there.get(key)
            found = judge(source, target, at=at, before=before, under_way=lambda key=key: key in under_way)  # type: ignore[misc]
            if found == "again":
                left[key] = target.version if target else None
            elif found != "same":
                reading = (target.version, target.digest) if target else (None, None)
                findings.certain.append(Finding(key, found, *reading, rejected=source == _NO_DOCUMENT))
        return left

    def _digest(self, documents: Mapping[bytes, bytes | None], key: bytes) -> bytes | None:
        """None where there is no row, or the transform leaves it out."""
        if key not in documents:
            return None
        shaped = shape(self.transform, documents[key])
        return _NO_DOCUMENT if shaped is None else digest(shaped) if shaped else None


def shape(transform: Callable[[dict[str, Any]], object] | None, document: bytes | None) -> bytes | None:
    """The document that a row makes; empty where it is left out, None where there can be none (it is a reject)."""
    if document is None:
        return None
    if transform is None:
        return document
    try:
        return apply_transform(transform, document) or b""
    except TransformFailed:
        return None


def wait(check: Check) -> Callable[[float], None]:
    """A pause during which `check` is called often."""

    def pause(seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            check()
            time.sleep(min(left, 0.1))

    return pause


def _batches(keys: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(keys), _BATCH):
        yield keys[start : start + _BATCH]
