"""The source asked for keys that need not be keys of it: an index may hold anybody's ids."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import TypeAlias, TypeVar

import psycopg

from reshelve.errors import Unreachable
from reshelve.model import KeyColumn, split_key
from reshelve.producers.possible_keys import impossible_keys
from reshelve.producers.snapshot import SnapshotReader

_T = TypeVar("_T")
_Parts: TypeAlias = Sequence[tuple[str, ...]]


class _Impossible(Exception):
    """Some of the keys may be no values of the key's types."""


class SourceKeys:
    """Rows of the source by key. Every method can raise Unreachable, SourceRefused and AccessRefused."""

    def __init__(self, reader: SnapshotReader, columns: Sequence[KeyColumn]) -> None:
        self._reader, self._columns = reader, columns

    def documents(self, keys: Sequence[bytes]) -> tuple[int, Mapping[bytes, bytes | None]]:
        """The version of the snapshot, and the rows' documents by key: None where it is over the limit."""

        def read(parts: _Parts) -> Mapping[bytes, bytes | None]:
            with closing(self._reader.keys(parts)) as rows:
                return {key: document for key, document, _ in rows}

        return self._read(keys, read)

    def present(self, keys: Sequence[bytes]) -> Collection[bytes]:
        """Those that have a row."""

        def read(parts: _Parts) -> Collection[bytes]:
            with closing(self._reader.present(parts)) as rows:
                return frozenset(rows)

        return self._read(keys, read)[1]

    def _read(self, keys: Sequence[bytes], read: Callable[[_Parts], _T]) -> tuple[int, _T]:
        texts = [key.decode() for key in keys]
        with self._answering():
            try:
                return self._at_snapshot(texts, read)
            except _Impossible:
                pass
            impossible = frozenset(impossible_keys(self._reader.session(), self._columns, texts))
            return self._at_snapshot([text for text in texts if text not in impossible], read, fit=True)

    def _at_snapshot(self, texts: Sequence[str], read: Callable[[_Parts], _T], *, fit: bool = False) -> tuple[int, _T]:
        """With `fit`, what is wrong is no fault of the keys, but of a row or the query: SourceRefused, BlockedError."""
        try:
            parts = [split_key(text, len(self._columns)) for text in texts]
        except ValueError as error:
            raise _Impossible from error
        with self._reader.snapshot() as snapshot:
            try:
                return snapshot.version, read(parts)
            except (psycopg.DataError, psycopg.IntegrityError) as error:
                if fit:
                    raise
                raise _Impossible from error

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except psycopg.OperationalError as error:
            raise gone(self._reader, error) from error


def gone(reader: SnapshotReader, error: psycopg.OperationalError) -> Unreachable:
    """What to raise when the source does not answer."""
    return Unreachable(
        "cannot read the source",
        where=reader.where,
        why=" ".join(str(error).split()),
        remedy="see that PostgreSQL runs, then validate again",
    )
