"""A document that could not be indexed, as a record: the original as the value, the reason in headers
named as Kafka Connect names them, so that tools for its dead letter queues can read ours."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_PREFIX = "__connect.errors."


@dataclass(frozen=True, slots=True)
class Reject:
    """key and document as they were to be indexed; the document is None where it was too large to carry.

    stage    "read", "transform" or "index"
    kind     the error's type, e.g. "mapper_parsing_exception"
    reason   in the server's words where a server refused it
    topic, partition, offset   the record it came from; empty and -1 where it never was a record
    """

    key: str
    document: bytes | None
    stage: str
    kind: str
    reason: str
    topic: str = ""
    partition: int = -1
    offset: int = -1

    def headers(self) -> list[tuple[str, str | bytes | None]]:
        return [
            (_PREFIX + "stage", self.stage.encode()),
            (_PREFIX + "exception.class.name", self.kind.encode()),
            (_PREFIX + "exception.message", self.reason.encode()),
            (_PREFIX + "topic", self.topic.encode()),
            (_PREFIX + "partition", str(self.partition).encode()),
            (_PREFIX + "offset", str(self.offset).encode()),
        ]

    @classmethod
    def of(cls, key: bytes, value: bytes | None, headers: Iterable[tuple[str, bytes]]) -> Reject:
        """The reject that a record holds."""
        texts = {
            name.removeprefix(_PREFIX): text.decode(errors="replace")
            for name, text in headers
            if name.startswith(_PREFIX)
        }
        return cls(
            key=key.decode(errors="replace"),
            document=value,
            stage=texts.get("stage", ""),
            kind=texts.get("exception.class.name", ""),
            reason=texts.get("exception.message", ""),
            topic=texts.get("topic", ""),
            partition=int(texts.get("partition", "-1")),
            offset=int(texts.get("offset", "-1")),
        )
