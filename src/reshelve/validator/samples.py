"""Whole documents, source against index: what neither counts nor checksums can see.

Both sides are asked now, the source at one snapshot for each batch, through the same query and transform
that built the documents. The source goes on meanwhile: a sample that differs is drift only where no key task
is pending for it (`changed`), which is the worker's to find out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import psycopg
from opensearchpy import OpenSearch

from reshelve.errors import Unreachable
from reshelve.model import split_key
from reshelve.transform import TransformFailed, apply_transform
from reshelve.validator.compare import Drift, Reading, classify_sample, digest
from reshelve.validator.measure import Sample
from reshelve.validator.target import Check, read_documents

_BATCH: Final = 100
_BATCH_BYTES: Final = 8 << 20
# The source has the row, but makes no document of it any more: unlike every digest.
_NO_DOCUMENT: Final = b"no document"


class Moment(Protocol):
    """The part of `Snapshot` that samples need."""

    @property
    def version(self) -> int: ...


class Source(Protocol):
    """The part of `SnapshotReader` that samples need."""

    @property
    def where(self) -> str: ...
    def snapshot(self) -> AbstractContextManager[Moment]: ...
    def keys(self, keys: Sequence[tuple[str, ...]]) -> Iterator[tuple[bytes, bytes | None, int]]: ...


@dataclass(frozen=True, slots=True)
class DriftedSample:
    """target_version is that of the index; None when it has no such document.
    source_version is that of the snapshot at which the source was read."""

    sample: Sample
    drift: Drift
    target_version: int | None
    source_version: int


@dataclass(frozen=True)
class SampleComparison:
    """How documents are had from both sides. columns is the number of columns of the key."""

    source: Source
    columns: int
    transform: Callable[[dict[str, Any]], object] | None
    client: OpenSearch
    index: str

    def compare(self, samples: Sequence[Sample], check: Check) -> list[DriftedSample]:
        """The samples that differ. Raises Unreachable when a server is gone, else ReshelveError."""
        drifted: list[DriftedSample] = []
        for batch in _batches(samples):
            check()
            at, here = self._read_source(batch)
            there = read_documents(self.client, self.index, [sample.key for sample in batch])
            for sample in batch:
                target = there.get(sample.key)
                drift = classify_sample(here.get(sample.key), target, _reading(sample))
                if drift is not None:
                    drifted.append(DriftedSample(sample, drift, target.version if target else None, at))
        return drifted

    def _read_source(self, batch: Sequence[Sample]) -> tuple[int, Mapping[bytes, bytes]]:
        """The snapshot's version and digests of what the source says; a key that it does not return is not there."""
        keys = [split_key(sample.key.decode(), self.columns) for sample in batch]
        try:
            with self.source.snapshot() as snapshot:
                rows = [(key, document) for key, document, _ in self.source.keys(keys)]
        except psycopg.OperationalError as error:
            raise Unreachable(
                "cannot read samples from the source",
                where=self.source.where,
                why=" ".join(str(error).split()),
                remedy="see that PostgreSQL runs, then validate again",
            ) from error
        digests = ((key, self._digest(document)) for key, document in rows)
        return snapshot.version, {key: value for key, value in digests if value is not None}

    def _digest(self, document: bytes | None) -> bytes | None:
        """None where the transform leaves the document out."""
        if document is None:  # longer than the limit by now
            return _NO_DOCUMENT
        if self.transform is not None:
            try:
                document = apply_transform(self.transform, document)
            except TransformFailed:
                return _NO_DOCUMENT
            if document is None:
                return None
        return digest(document)


def _reading(sample: Sample) -> Reading | None:
    return None if sample.document is None else Reading(sample.version, digest(sample.document))


def _batches(samples: Sequence[Sample]) -> Iterator[Sequence[Sample]]:
    """Few enough and small enough to be held three times over: topic, source, index."""
    batch: list[Sample] = []
    size = 0
    for sample in samples:
        more = len(sample.document or b"")
        if batch and (len(batch) >= _BATCH or size + more > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(sample)
        size += more
    if batch:
        yield batch
