"""A partition of the topic as a check reads it: its documents and tombstones, and how far its watermarks go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias
from zlib import crc32

from confluent_kafka import Message

from reshelve.errors import BlockedError
from reshelve.kafka import KafkaCluster
from reshelve.model import WATERMARK_KEY
from reshelve.schemas.codec import WATERMARK, CodecError, decode_watermark
from reshelve.schemas.envelope import VERSION_HEADER, EnvelopeReader
from reshelve.validator.target import Check

_STEP: Final = 10_000  # records between two looks at `check`

LogRecord: TypeAlias = tuple[bytes, int, int, bytes | None]
"""(key, rest, version, document): rest is crc32(key) // partitions, of which buckets are made; the document
of a tombstone is None."""


@dataclass
class DocumentLog:
    """A partition of `documents` up to, but not including, the offset `end`. To be iterated as often as needed.

    partitions  of the topic
    version     of the newest watermark that iterating came by: every change visible at its clock stands before it"""

    cluster: KafkaCluster
    topic: str
    partition: int
    partitions: int
    end: int
    check: Check = lambda: None
    version: int | None = None

    def __iter__(self) -> Iterator[LogRecord]:
        """Every committed record but the watermarks.

        Raises BlockedError when a record is not a document or is not in the partition of its key, Unreachable."""
        ends, group = {self.partition: self.end}, self.topic + ".validator"
        messages = self.cluster.read(self.topic, [self.partition], ends=ends, group=group)
        yield from _records(messages, self.partitions, self.check, self._pass)

    def _pass(self, message: Message) -> None:
        version = watermark_version(message)
        self.version = version if self.version is None else max(self.version, version)


def read_between(
    cluster: KafkaCluster, topic: str, starts: Mapping[int, int], ends: Mapping[int, int], partitions: int, check: Check
) -> Iterator[LogRecord]:
    """The committed documents and tombstones of the partitions that `starts` names, out of `partitions`, from those
    offsets up to but not including `ends`. Raises as iterating a `DocumentLog` does."""
    messages = cluster.read(topic, starts, starts=starts, ends=ends, group=topic + ".validator")
    yield from _records(messages, partitions, check, lambda message: None)


def _records(
    messages: Iterable[Message], partitions: int, check: Check, pass_watermark: Callable[[Message], None]
) -> Iterator[LogRecord]:
    reader = EnvelopeReader()
    for number, message in enumerate(messages):
        if number % _STEP == 0:
            check()
        key, value = message.key(), message.value()
        if not isinstance(key, bytes):
            raise bad_record(message, "it has no key")
        if key == WATERMARK_KEY and is_watermark(message):
            pass_watermark(message)
            continue
        rest, partition = divmod(crc32(key), partitions)
        if partition != message.partition():
            raise bad_record(message, "its key is not one of this partition")
        if value is None:
            yield key, rest, _tombstone_version(message), None
            continue
        try:
            version, document = reader.open(value)
        except CodecError as error:
            raise bad_record(message, str(error)) from error
        yield key, rest, version, document


def is_watermark(message: Message) -> bool:
    """Whether a record of `documents` or `changes` is one; its key alone does not tell."""
    return message.key() == WATERMARK_KEY and (message.value() or b"").startswith(WATERMARK.prefix)


def watermark_version(message: Message) -> int:
    """The version of the watermark. Raises BlockedError when it is none."""
    try:
        return decode_watermark(message.value() or b"").version
    except CodecError as error:
        raise bad_record(message, str(error)) from error


def _tombstone_version(message: Message) -> int:
    version = dict(message.headers() or {}).get(VERSION_HEADER)
    try:
        return int(version or b"")
    except ValueError:
        raise bad_record(message, "it is a tombstone without a version") from None


def bad_record(message: Message, why: str) -> BlockedError:
    """What to raise for a record that none of us writes."""
    return BlockedError(
        "the topic can't be validated",
        where=f"{message.topic()}/{message.partition()} at offset {message.offset()}",
        why=why,
        remedy="find out who else writes to the run's topics, then start a new run",
    )
