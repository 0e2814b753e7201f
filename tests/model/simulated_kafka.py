"""Kafka, as far as the order of records, transactions and committed offsets go.

A record takes its place in the log when it is produced. A reader of committed records does not get past the first one
of a transaction that is still open, and never sees one of a transaction that was aborted.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, NamedTuple, TypeVar

from reshelve.applied import Applied

R = TypeVar("R")


class Step:
    """A Kafka transaction."""

    __slots__ = ("aborted", "open")

    def __init__(self) -> None:
        self.open, self.aborted = True, False

    def commit(self) -> None:
        self.open = False

    def abort(self) -> None:
        self.open, self.aborted = False, True


class Record(NamedTuple, Generic[R]):
    offset: int
    key: bytes
    value: R


class Partition(Generic[R]):
    """The log of one partition."""

    def __init__(self) -> None:
        self._records: list[tuple[Step | None, Record[R]]] = []

    def __len__(self) -> int:
        return len(self._records)

    @property
    def last(self) -> R | None:
        """The newest record."""
        return self._records[-1][1].value if self._records else None

    def append(self, key: bytes, value: R, step: Step | None = None) -> int:
        """The record's offset."""
        offset = len(self._records)
        self._records.append((step, Record(offset, key, value)))
        return offset

    def read(self, offset: int, most: int) -> tuple[list[Record[R]], int]:
        """The next committed records from that offset, and where to go on."""
        found: list[Record[R]] = []
        for step, record in self._records[offset:]:
            if step is not None:
                if step.open:
                    break
                if step.aborted:
                    offset += 1
                    continue
            if len(found) == most:
                break
            found.append(record)
            offset += 1
        return found, offset

    def committed(self, end: int | None = None, *, start: int = 0) -> Iterator[Record[R]]:
        """The committed records between these offsets."""
        for step, record in self._records[start:end]:
            if step is None or not (step.open or step.aborted):
                yield record


class Committed(NamedTuple):
    """A committed offset, with its metadata."""

    offset: int
    applied: Applied | None
