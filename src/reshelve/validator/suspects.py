"""Keys that seem to differ, looked at again: which differ for certain, and which have a change under way.

The first look at a key compares what two moments show, so whatever changed in between differs. Here the keys are read
again in the order that `excuse` asks for, a few times; what it does not excuse is drift.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from opensearchpy import OpenSearch

from reshelve.transform import TransformFailed, apply_transform
from reshelve.validator.compare import Drift, Reading, digest
from reshelve.validator.excuse import Excuses
from reshelve.validator.target import Check, read_documents

ROUND_KEYS: Final = 2_000
_BATCH: Final = 100  # keys whose documents are in memory at once
_READINGS: Final = 4
_PAUSE_S: Final = 0.5
# The source has the row, but makes no document of it: unlike every digest.
_NO_DOCUMENT: Final = b"no document"

Transform: TypeAlias = Callable[[dict[str, Any]], object]
# Version of a snapshot, and of the keys asked for those that have a row, with their documents; None: over the limit.
KeySource: TypeAlias = Callable[[Sequence[bytes]], tuple[int, Mapping[bytes, bytes | None]]]
Difference: TypeAlias = Drift | Literal["changed"]


@dataclass(frozen=True, slots=True)
class Suspect:
    """A key that differs for certain. difference "changed": both sides have it, of what class is for the topic to say.

    target    the index's document; None: it has none
    rejected  the source has a row, and no document can be made of it"""

    key: bytes
    difference: Difference
    target: Reading | None
    rejected: bool = False


@dataclass(slots=True)
class Judgement:
    """pending: keys whose change was still under way at the last reading."""

    certain: list[Suspect] = field(default_factory=list)
    pending: int = 0


def difference(source: bytes | None, target: Reading | None, at: int) -> Difference | None:
    """What is wrong with a key if nothing is under way for it. `source` is the digest of what the source says as of the
    version `at`; None: it has no such document. A later version in the index is nobody's of us then."""
    if target is not None and target.version > at:
        return "foreign"
    if source == (target.digest if target else None):
        return None
    if target is None:
        return "missing"
    return "extra" if source is None else "changed"


@dataclass(frozen=True)
class SuspectReader:
    """How suspect keys are read again. `check` is called often, and raises to end the work."""

    source: KeySource
    client: OpenSearch
    index: str
    transform: Transform | None
    excuses: Excuses
    check: Check

    def read(self, keys: Sequence[bytes]) -> Judgement:
        """What is certain of the keys, `ROUND_KEYS` at most: only digests of them are kept. Raises ReshelveError."""
        judgement = Judgement()
        left = list(keys)
        for reading in range(_READINGS):
            if reading:
                self._pause(_PAUSE_S * reading)
            left = self._round(left, judgement)
            if not left:
                break
        judgement.pending = len(left)
        return judgement

    def _round(self, keys: Sequence[bytes], judgement: Judgement) -> list[bytes]:
        """Adds what is certain; returns the keys that are still to be judged."""
        places = self.excuses.now()
        here: dict[bytes, tuple[int, bytes | None]] = {}
        for batch in _batches(keys):
            self.check()
            version, documents = self.source(batch)
            here |= {key: (version, self._digest(documents, key)) for key in batch}
        suspects: list[Suspect] = []
        for batch in _batches(keys):
            self.check()
            there = read_documents(self.client, self.index, batch)
            for key in batch:
                version, source = here[key]
                found = difference(source, there.get(key), version)
                if found is not None:
                    suspects.append(Suspect(key, found, there.get(key), source == _NO_DOCUMENT))
        if not suspects:
            return []
        newest = max(version for version, _ in here.values())
        excused = self.excuses.excused(places, [one.key for one in suspects], newest)
        judgement.certain += [one for one in suspects if one.key not in excused]
        return [one.key for one in suspects if one.key in excused]

    def _digest(self, documents: Mapping[bytes, bytes | None], key: bytes) -> bytes | None:
        """None where there is no row, or the transform leaves it out."""
        if key not in documents:
            return None
        shaped = shape(self.transform, documents[key])
        return _NO_DOCUMENT if shaped is None else digest(shaped) if shaped else None

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, 0.1))


def shape(transform: Transform | None, document: bytes | None) -> bytes | None:
    """The document that a row makes; empty where it is left out, None where there can be none: it is a reject."""
    if document is None:
        return None
    if transform is None:
        return document
    try:
        return apply_transform(transform, document) or b""
    except TransformFailed:
        return None


def _batches(keys: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(keys), _BATCH):
        yield keys[start : start + _BATCH]
