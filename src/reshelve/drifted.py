"""The drifted keys of one check, as `drift` has them: however many there are, they take a disk's corner, not memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, Literal, TypeAlias

from reshelve.errors import BlockedError
from reshelve.kafka import KafkaCluster
from reshelve.model import DriftedKey, RunId
from reshelve.schemas.codec import CodecError, decode_drifted_key
from reshelve.validator.newest import scratch

Write: TypeAlias = Literal["document", "tombstone", "removed"]
"""What became of a key: written again, buried by a tombstone, or deleted from the index alone."""

_PAGE: Final = 500
# done: what became of the key; null as long as it is left. why, and ahead (the version of somebody else's that refuses
# ours): of the last try. final: nothing more is to be tried.
_TABLE: Final = """
create table drifted (
    key blob primary key, level text, drift text, expected integer, found integer,
    done text, why text, ahead integer, final integer default 0
) without rowid"""
_FIELDS: Final = "key, level, drift, expected, found"
_PUT: Final = f"insert or replace into drifted ({_FIELDS}) values (?, ?, ?, ?, ?)"
_OPEN: Final = f"select {_FIELDS} from drifted where key > ? and done is null and not final order by key limit ?"
_AHEAD: Final = (
    "select key, ahead from drifted where key > ? and done is null and ahead is not null order by key limit ?"
)
_EXAMPLES: Final = f"""
select {_FIELDS}
  from (select *, row_number() over (partition by drift order by key) as place from drifted)
 where place <= ? order by drift, key"""

_Row: TypeAlias = tuple[bytes, str, str, int | None, int | None]


class DriftedKeys:
    """The keys, each once, by its newest record, and what a repair has made of it.

    To be used in the thread that made it."""

    def __init__(self, connection: sqlite3.Connection, check: str) -> None:
        """`connection` to a database that `scratch` made."""
        self.check, self._connection = check, connection
        connection.execute(_TABLE)

    def put(self, one: DriftedKey) -> None:
        self._connection.execute(_PUT, (one.key.encode(), one.level, one.drift, one.expected, one.found))

    @property
    def counts(self) -> dict[str, int]:
        """Number of keys in each class that occurs."""
        return dict(self._connection.execute("select drift, count(*) from drifted group by drift order by drift"))

    @property
    def left(self) -> dict[str, int]:
        """The same of the keys that are left."""
        rows = "select drift, count(*) from drifted where done is null group by drift order by drift"
        return dict(self._connection.execute(rows))

    @property
    def open(self) -> bool:
        """Whether there is a key that another try may help."""
        return self._connection.execute(_OPEN, [b"", 1]).fetchone() is not None

    @property
    def writes(self) -> dict[Write, int]:
        """Number of keys by what became of them."""
        rows = "select done, count(*) from drifted where done is not null group by done order by done"
        return dict(self._connection.execute(rows))

    def above(self, version: int) -> int:
        """Number of keys whose document was found with a version above this one."""
        row = self._connection.execute("select count(*) from drifted where found > ?", [version]).fetchone()
        return int(row[0])

    def examples(self, most: int) -> list[DriftedKey]:
        """The first keys of each class, `most` of each."""
        return [self._one(row) for row in self._connection.execute(_EXAMPLES, [most])]

    def pages(self) -> Iterator[Sequence[DriftedKey]]:
        """The keys to be worked on, in their order, some hundred at a time. What is done with a page may change it."""
        last = b""
        while rows := self._connection.execute(_OPEN, [last, _PAGE]).fetchall():
            yield [self._one(row) for row in rows]
            last = rows[-1][0]

    def ahead(self) -> Iterator[Mapping[str, int]]:
        """Keys that a foreign version is ahead of, each with that version, some hundred at a time."""
        last = b""
        while rows := self._connection.execute(_AHEAD, [last, _PAGE]).fetchall():
            yield {key.decode(): version for key, version in rows}
            last = rows[-1][0]

    def settle(self, key: str, write: Write) -> None:
        """The key needs nothing more."""
        self._connection.execute("update drifted set done = ? where key = ?", [write, key.encode()])

    def leave(self, key: str, why: str, *, ahead: int | None = None, final: bool = False) -> None:
        """The key is not as it should be. ahead: the version that is there instead, newer than ours; final: another
        try would change nothing."""
        statement = "update drifted set why = ?, ahead = ?, final = ? where key = ?"
        self._connection.execute(statement, [why, ahead, final, key.encode()])

    def reasons(self, most: int) -> list[tuple[DriftedKey, str]]:
        """The first keys that are left, each with the reason."""
        rows = self._connection.execute(
            f"select {_FIELDS}, why from drifted where done is null order by key limit ?", [most]
        )
        return [(self._one(row[:5]), row[5] or "it was not come to") for row in rows]

    def _one(self, row: _Row) -> DriftedKey:
        key, level, drift, expected, found = row
        return DriftedKey(key.decode(), self.check, level, drift, expected, found)


@contextmanager
def drifted_keys(cluster: KafkaCluster, run: RunId, partitions: int, check: str) -> Iterator[DriftedKeys]:
    """What the check of that name found. Raises ReshelveError."""
    topic = run.topic("drift")
    with scratch() as connection:
        keys = DriftedKeys(connection, check)
        for message in cluster.read(topic, range(partitions)):
            try:
                one = decode_drifted_key(message.key() or b"", message.value() or b"")
            except CodecError as error:
                raise BlockedError(
                    "the drifted keys can't be read",
                    where=f"{topic}/{message.partition()} at offset {message.offset()}",
                    why=str(error),
                    remedy="validate again with this release: `reshelve validate`",
                ) from None
            if one.check == check:
                keys.put(one)
        yield keys
