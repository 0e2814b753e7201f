"""A document that could not be indexed, as a record: the original as the value, the reason in headers
named as Kafka Connect names them, so that tools for its dead letter queues can read ours.

What became of it later is a record of the same key: a resolution, without a value. Of a key the newest counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from reshelve.schemas.envelope import VERSION_HEADER

_PREFIX: Final = "__connect.errors."
_RESOLVED: Final = "reshelve."
_RESOLUTION: Final = _RESOLVED + "resolution"

Headers: TypeAlias = list[tuple[str, str | bytes | None]]
How: TypeAlias = Literal["redriven", "waived"]


@dataclass(frozen=True, slots=True)
class Reject:
    """key and document as they were to be indexed; the document is None where it was too large to carry.

    stage    "read", "transform" or "index"
    kind     the error's type, e.g. "mapper_parsing_exception"
    reason   in the server's words where a server refused it
    topic, partition, offset   the record it came from; empty and -1 where it never was a record
    version  of the document that was refused; None where the record told none
    """

    key: str
    document: bytes | None
    stage: str
    kind: str
    reason: str
    topic: str = ""
    partition: int = -1
    offset: int = -1
    version: int | None = None

    def headers(self) -> Headers:
        found: Headers = [
            (_PREFIX + "stage", self.stage.encode()),
            (_PREFIX + "exception.class.name", self.kind.encode()),
            (_PREFIX + "exception.message", self.reason.encode()),
            (_PREFIX + "topic", self.topic.encode()),
            (_PREFIX + "partition", str(self.partition).encode()),
            (_PREFIX + "offset", str(self.offset).encode()),
        ]
        return found if self.version is None else [*found, (VERSION_HEADER, str(self.version).encode())]

    @classmethod
    def of(cls, key: bytes, value: bytes | None, headers: Iterable[tuple[str, bytes]]) -> Reject:
        """The reject that a record holds."""
        texts = _texts(headers)
        return cls(
            key=key.decode(errors="replace"),
            document=value,
            stage=texts.get(_PREFIX + "stage", ""),
            kind=texts.get(_PREFIX + "exception.class.name", ""),
            reason=texts.get(_PREFIX + "exception.message", ""),
            topic=texts.get(_PREFIX + "topic", ""),
            partition=int(texts.get(_PREFIX + "partition", "-1")),
            offset=int(texts.get(_PREFIX + "offset", "-1")),
            version=_version(texts),
        )


@dataclass(frozen=True, slots=True)
class Resolution:
    """What became of a reject.

    how      "redriven": read again, and accepted; "waived": somebody answers for its not being in the index
    by, why  who says so, and for what reason; empty when redriven
    version  of the reject that it resolves; a reject of a newer version is a new one
    at       milliseconds since 1970 UTC
    """

    key: str
    how: How
    by: str
    why: str
    version: int | None
    at: int

    def headers(self) -> Headers:
        found: Headers = [
            (_RESOLUTION, self.how.encode()),
            (_RESOLVED + "by", self.by.encode()),
            (_RESOLVED + "why", self.why.encode()),
            (_RESOLVED + "at", str(self.at).encode()),
        ]
        return found if self.version is None else [*found, (VERSION_HEADER, str(self.version).encode())]


def read_record(key: bytes, value: bytes | None, headers: Iterable[tuple[str, bytes]]) -> Reject | Resolution:
    """What a record of `rejects` holds. The value does not tell: that of a document too large to carry is null, too."""
    listed = list(headers)
    texts = _texts(listed)
    how = texts.get(_RESOLUTION)
    if how is None:
        return Reject.of(key, value, listed)
    return Resolution(
        key=key.decode(errors="replace"),
        how="waived" if how == "waived" else "redriven",
        by=texts.get(_RESOLVED + "by", ""),
        why=texts.get(_RESOLVED + "why", ""),
        version=_version(texts),
        at=int(texts.get(_RESOLVED + "at", "0")),
    )


def _texts(headers: Iterable[tuple[str, bytes]]) -> dict[str, str]:
    return {name: text.decode(errors="replace") for name, text in headers}


def _version(texts: Mapping[str, str]) -> int | None:
    return int(texts[VERSION_HEADER]) if VERSION_HEADER in texts else None
