"""What is a difference, and of which class. Pure: no I/O here.

missing    in the topic (or source), not in the index
extra      in the index, not in the topic (or source)
stale      the index has an older version; of a sample: the index has what was read, the source moved on
foreign    the index has a version that nobody of us wrote
different  the versions agree with what was read, the documents do not
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, Literal, TypeAlias

from reshelve.model import add_checksums

Drift: TypeAlias = Literal["missing", "extra", "stale", "different", "foreign"]
DRIFT_CLASSES: Final[tuple[Drift, ...]] = ("missing", "extra", "stale", "different", "foreign")

_MOST_BUCKETS: Final = 256
_MOST_SUMS: Final = 16_384  # of 16 bytes, in base64: 350 kB, so that a result fits a record of 1 MB


def buckets_for(partitions: int) -> int:
    """Into how many buckets the keys of each partition are divided, so that a difference leads to a
    small part of the keys: 256, fewer where one result would not fit a record."""
    return max(1, min(_MOST_BUCKETS, _MOST_SUMS // partitions))


@dataclass(frozen=True, slots=True)
class PartitionSums:
    """Count and checksum (Σ `document_checksum` mod 2**64) of the documents in each bucket of a partition."""

    counts: tuple[int, ...]
    checksums: tuple[int, ...]

    @property
    def documents(self) -> int:
        return sum(self.counts)

    @property
    def checksum(self) -> int:
        return add_checksums(self.checksums)

    def encode(self) -> str:
        """16 bytes a bucket, in base64."""
        numbers = (*self.counts, *self.checksums)
        return base64.b64encode(struct.pack(f"<{len(numbers)}Q", *numbers)).decode("ascii")

    @classmethod
    def decode(cls, text: str) -> PartitionSums:
        """Raises ValueError when `text` is not what `encode` made."""
        data = base64.b64decode(text, validate=True)
        if len(data) % 16:
            raise ValueError(f"not sums: {len(data)} bytes")
        numbers = struct.unpack(f"<{len(data) // 8}Q", data)
        half = len(numbers) // 2
        return cls(numbers[:half], numbers[half:])


def add_sums(parts: Sequence[PartitionSums]) -> PartitionSums:
    """The sums of one partition over all slices of an index. Raises ValueError when the buckets differ."""
    counts = tuple(map(sum, zip(*(part.counts for part in parts), strict=True)))
    checksums = tuple(map(add_checksums, zip(*(part.checksums for part in parts), strict=True)))
    return PartitionSums(counts, checksums)


def differing_buckets(topic: PartitionSums, target: PartitionSums, *, counts: bool, checksums: bool) -> frozenset[int]:
    """The buckets in which topic and index do not agree, in what was asked for."""
    return frozenset(
        number
        for number, (here, there) in enumerate(
            zip(
                zip(topic.counts, topic.checksums, strict=True),
                zip(target.counts, target.checksums, strict=True),
                strict=True,
            )
        )
        if (counts and here[0] != there[0]) or (checksums and here[1] != there[1])
    )


def classify(topic_version: int | None, target_version: int | None) -> Drift | None:
    """The drift of a key by its versions; None stands for "is not there", or for "no drift"."""
    if topic_version == target_version:
        return None
    if target_version is None:
        return "missing"
    if topic_version is None:
        return "extra"
    return "stale" if target_version < topic_version else "foreign"


@dataclass(frozen=True, slots=True)
class Reading:
    """A document as one side has it: its version there and the digest of its value."""

    version: int
    digest: bytes


def classify_sample(source: bytes | None, target: Reading | None, topic: Reading | None) -> Drift | None:
    """The drift of a sampled key. `source` is the digest of what the source says now (None: it has no such
    document), `topic` what was read from it for this run (None: that it has none)."""
    if target is None:
        return None if source is None else "missing"
    if source == target.digest:
        return None
    if target == topic:
        return "stale"
    if source is None or topic is None:
        return "extra"
    return classify(topic.version, target.version) or "different"


def digest(document: bytes) -> bytes:
    """The same for documents of equal value: the order of fields and the way a number is written
    (1, 1.0, 1e0) do not count. Raises ValueError when `document` is not JSON."""
    return digest_value(parse(document))


def parse(text: bytes | str) -> Any:
    """JSON with its numbers exact. Raises ValueError when `text` is not JSON."""
    return json.loads(text, parse_float=Decimal)


def digest_value(value: Any) -> bytes:
    """The digest of a document that `parse` returned."""
    return hashlib.blake2b(_canonical(value).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _canonical(value: Any) -> str:
    match value:
        case dict():
            return "{" + ",".join(f"{json.dumps(k)}:{_canonical(value[k])}" for k in sorted(value)) + "}"
        case list():
            return "[" + ",".join(map(_canonical, value)) + "]"
        case bool() | None | str():
            return json.dumps(value)
        case _:
            return _number(Decimal(value))


def _number(value: Decimal) -> str:
    """Digits and exponent without trailing zeros: exact, whatever the precision."""
    sign, digits, exponent = value.as_tuple()
    text = "".join(map(str, digits)).lstrip("0")
    if not text or not isinstance(exponent, int):  # zero of either sign; NaN and infinities are no JSON
        return "0" if not text else str(value)
    short = text.rstrip("0")
    return f"{'-' if sign else ''}{short}e{exponent + len(text) - len(short)}"
