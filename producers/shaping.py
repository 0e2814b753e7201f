"""From a row to the document that is indexed, where that is not what the source built."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, TypeAlias

from confluent_kafka import Producer

from reshelve.model import RunId
from reshelve.schemas.reject import Reject
from reshelve.transform import TransformFailed, apply_transform

Transform: TypeAlias = Callable[[dict[str, Any]], object]


class Shaped(Enum):
    """Why a row has no document: the transform left it out, or it was rejected."""

    LEFT_OUT = "left out"
    REJECTED = "rejected"


class Shaper:
    """Transforms, and rejects what can't be a document.

    max_document_bytes  of JSON; a larger document is rejected
    """

    def __init__(self, run: RunId, transform: Transform | None, max_document_bytes: int) -> None:
        self.transform, self._max_bytes = transform, max_document_bytes
        self._rejects = run.topic("rejects")

    def shape(
        self, producer: Producer, key: bytes, source_document: bytes | None, size: int, version: int
    ) -> bytes | Shaped:
        """The document, or why there is none; a reject is produced. `source_document` is None, and `size` its bytes,
        where it is so large that it never left the database. `version`: of the snapshot."""
        if source_document is None:
            return self._reject(producer, self._too_large(key, size, version))
        if self.transform is None:
            return one_line(source_document)
        try:
            document = apply_transform(self.transform, source_document)
        except TransformFailed as error:
            failed = Reject(key.decode(), source_document, "transform", "TransformFailed", str(error), version=version)
            return self._reject(producer, failed)
        if document is None:
            return Shaped.LEFT_OUT
        if len(document) > self._max_bytes:
            return self._reject(producer, self._too_large(key, len(document), version))
        return document

    def _reject(self, producer: Producer, reject: Reject) -> Shaped:
        produce_when_free(producer, self._rejects, reject.document, reject.key.encode(), headers=reject.headers())
        return Shaped.REJECTED

    def _too_large(self, key: bytes, size: int, version: int) -> Reject:
        return Reject(
            key.decode(), None, "read", "DocumentTooLarge",
            f"the document has {size} bytes; kafka.max_document_bytes (and with it the topic's max.message.bytes)"
            f" allows {self._max_bytes}",
            version=version,
        )  # fmt: skip


def one_line(document: bytes) -> bytes:
    """Line breaks stand only between tokens of a column of type json; a bulk body is one line for each document."""
    return document.replace(b"\n", b" ")


def produce_when_free(producer: Producer, topic: str, value: bytes | None, key: bytes, **options: Any) -> None:
    """Produce, waiting while the producer's queue is full: the brokers are slower than the source, so it waits."""
    while True:
        try:
            producer.produce(topic, value, key, **options)
            return
        except BufferError:
            producer.poll(0.05)
