"""What is a difference, and of which class. Pure: no I/O here.

missing    in the topic (or source), not in the index
extra      in the index, not in the topic (or source)
stale      the index has an older version; of a document compared whole: it has what was read, the source moved on
foreign    the index has a version that no record of the topic has
different  the versions agree, the documents do not
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, Literal, NamedTuple, TypeAlias

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


class Written(NamedTuple):
    """What a record of the topic says of its key. gone: it is a tombstone."""

    version: int
    gone: bool


def judge(lower: Written | None, candidates: Sequence[Written], found: int | None) -> Drift | None:
    """The drift of a key whose newest records may or may not have come to the index yet.

    lower       its newest record that must have come; None: there is none
    candidates  its records that may have come
    found       the version that the index has

    Versions only go up in the index, whatever the order in which records come, and records may come more than once:
    so it holds the highest version among `lower` and any of the candidates."""
    least = -1 if lower is None else lower.version
    possible = [one for one in candidates if one.version >= least]
    possible += [] if lower is None else [lower]
    if found is None:
        return None if lower is None or any(one.gone for one in possible) else "missing"
    if any(one.version == found and not one.gone for one in possible):
        return None
    if all(one.gone for one in possible):
        return "extra"
    return "stale" if found < least else "foreign"


def expected_version(lower: Written | None, candidates: Sequence[Written]) -> int | None:
    """The version that the index comes to hold; None when the document goes, or there was none."""
    newest = max((*candidates, *(() if lower is None else (lower,))), key=lambda one: one.version, default=None)
    return None if newest is None or newest.gone else newest.version


@dataclass(frozen=True, slots=True)
class Reading:
    """A document as one side has it: its version there and the digest of its value; of the topic, None is that of a
    tombstone."""

    version: int
    digest: bytes | None


def classify_changed(target: Reading, topic: Reading | None) -> Drift:
    """The drift of a document that source and index both have, but not the same. `topic` is the newest record."""
    if topic is None:
        return "foreign"
    if target.version != topic.version:
        return "stale" if target.version < topic.version else "foreign"
    return "stale" if target.digest == topic.digest else "different"


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
