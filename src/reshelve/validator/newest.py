"""The newest version of each of many keys, in bounded memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_CACHE_KIB: Final = 16_384
_HELD: Final = 20_000  # keys in memory: written in their order, they cost the table half as much
_TABLE: Final = "create table newest (key blob primary key, version integer, gone integer) without rowid"
_PUT: Final = """
insert into newest (key, version, gone) values (?, ?, ?)
on conflict (key) do update set version = excluded.version, gone = excluded.gone where excluded.version > version"""
_PRESENT: Final = "select key, version from newest where not gone"


class NewestVersions:
    """Keeps, of each key, the highest version and whether it is a tombstone's. As few keys as fit memory stay there."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """`connection` to a database that `scratch` made."""
        self._connection = connection
        connection.execute(_TABLE)
        self._held: dict[bytes, tuple[int, bool]] = {}
        self._spilled = False

    def put(self, key: bytes, version: int, gone: bool) -> None:
        known = self._held.get(key)
        if known is None or version > known[0]:
            self._held[key] = (version, gone)
            if known is None and len(self._held) >= _HELD:
                self._spill()

    def present(self) -> Iterator[tuple[bytes, int]]:
        """(key, version) of the keys whose newest version is no tombstone's."""
        if self._spilled:
            self._spill()
            yield from self._connection.execute(_PRESENT)
        else:
            yield from ((key, version) for key, (version, gone) in self._held.items() if not gone)

    def _spill(self) -> None:
        self._connection.executemany(_PUT, ((key, *self._held[key]) for key in sorted(self._held)))
        self._held.clear()
        self._spilled = True


@contextmanager
def scratch() -> Iterator[sqlite3.Connection]:
    """A private database without a name: SQLite keeps it in a temporary file that it has unlinked already,
    beyond the cache that it may hold in memory."""
    connection = sqlite3.connect("", isolation_level=None)
    try:
        connection.execute(f"pragma cache_size = -{_CACHE_KIB}")
        connection.execute("pragma journal_mode = off")
        connection.execute("pragma synchronous = off")
        connection.execute("begin")
        yield connection
    finally:
        connection.close()
