"""Decoding of `pgoutput`, protocol 1, as far as the plan's rules care. Pure.

Of each row only the values of the rules' columns are taken: no types, no other columns. Messages:
https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Final

from reshelve.errors import SourceRefused
from reshelve.model import ChangeRule
from reshelve.producers.changes import Change, Values, history_broken, truncated

_BEGIN: Final = Struct(">QqI")  # final LSN, commit time, xid
_COMMIT: Final = Struct(">BQQq")  # flags, LSN of the commit record, of its end, commit time
_OID: Final = Struct(">I")
_SIZE: Final = Struct(">i")
_COUNT: Final = Struct(">h")
_COLUMN_TYPE: Final = 8  # bytes: type oid and modifier
_EPOCH_MS: Final = 946_684_800_000  # PostgreSQL counts from 2000-01-01
_IN_IDENTITY: Final = 1
_TEXT, _NULL, _UNCHANGED, _NEW = b"tnuN"
_INSERT, _UPDATE, _DELETE, _RELATION, _BEGINS, _COMMITS, _TRUNCATE = b"IUDRBCT"
_BPCHAR: Final = re.compile(r"bpchar|character(\(\d+\))?")

Row = list[bytes | bool | None]
"""The first columns of a row: text, None for NULL, False for a large value that was not sent, being unchanged."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """How a rule reads the rows of a relation as the server last described it.

    places     of the rule's columns; the first `columns` columns hold them all
    canonical  for each, what makes `column::text` of the type's output
    known      the replica identity holds all of them, so that old values are known
    """

    number: int
    table: str
    names: tuple[str, ...]
    places: tuple[int, ...]
    columns: int
    canonical: tuple[Callable[[str], str] | None, ...]
    known: bool


class Decoder:
    """Takes message after message and remembers what a later one needs.

    rules  with their numbers, by the oid under which their table's rows are published
    where  server and slot, for errors

    passed        end of the newest commit record that was seen; 0 before
    transactions  how many commits were seen
    """

    def __init__(self, rules: Mapping[int, Sequence[tuple[int, ChangeRule]]], where: str) -> None:
        self._rules, self._where = rules, where
        self._readings: dict[int, tuple[_Reading, ...]] = {}
        self._xid = self._at = 0
        self.passed = self.transactions = 0

    def take(self, data: bytes, at: int, out: list[Change]) -> None:
        """Decode the message that begins at `at`; what it changed goes to the end of `out`. Raises SourceRefused."""
        kind = data[at]
        if kind == _INSERT:
            for reading in self._readings.get(_OID.unpack_from(data, at + 1)[0], ()):
                row, _ = _row(data, at + 6, reading.columns)
                out.append(Change(reading.number, None, self._values(reading, row), self._xid, self._at))
        elif kind == _UPDATE:
            readings = self._readings.get(_OID.unpack_from(data, at + 1)[0], ())
            out.extend(self._update(reading, data, at + 5) for reading in readings)
        elif kind == _DELETE:
            for reading in self._readings.get(_OID.unpack_from(data, at + 1)[0], ()):
                self._check_known(reading)
                row, _ = _row(data, at + 6, reading.columns)
                out.append(Change(reading.number, self._values(reading, row), None, self._xid, self._at))
        elif kind == _BEGINS:
            _, microseconds, self._xid = _BEGIN.unpack_from(data, at + 1)
            self._at = _EPOCH_MS + microseconds // 1000
        elif kind == _COMMITS:
            self.passed = _COMMIT.unpack_from(data, at + 1)[2]
            self.transactions += 1
        elif kind == _RELATION:
            self._describe(data, at + 1)
        elif kind == _TRUNCATE:
            self._truncate(data, at + 1)

    def _update(self, reading: _Reading, data: bytes, at: int) -> Change:
        self._check_known(reading)
        old_row: Row | None = None
        if data[at] != _NEW:  # the old row, or of it what the replica identity holds
            old_row, at = _row(data, at + 1, None)
        new_row, _ = _row(data, at + 1, reading.columns)
        if old_row is None:  # nothing that the replica identity holds has changed
            return Change(reading.number, None, self._values(reading, new_row), self._xid, self._at)
        for place in reading.places:
            if new_row[place] is False:
                new_row[place] = old_row[place]
        old, new = self._values(reading, old_row), self._values(reading, new_row)
        return Change(reading.number, None if old == new else old, new, self._xid, self._at)

    def _values(self, reading: _Reading, row: Row) -> Values:
        texts: list[str | None] = []
        for place, name, canonical in zip(reading.places, reading.names, reading.canonical, strict=True):
            value = row[place]
            if value is None:
                texts.append(None)
            elif isinstance(value, bytes):
                texts.append(value.decode() if canonical is None else canonical(value.decode()))
            else:
                raise self._unknown(reading, f"a large value of column {name} was left out because it was unchanged")
        return tuple(texts)

    def _check_known(self, reading: _Reading) -> None:
        if not reading.known:
            raise self._unknown(reading, "its replica identity does not hold them")

    def _unknown(self, reading: _Reading, why: str) -> SourceRefused:
        return SourceRefused(
            f"a row of {reading.table} was changed, and its old values of {', '.join(reading.names)} are not known",
            where=self._where,
            why=why,
            remedy=f"`alter table {reading.table} replica identity full` (or `using index` of one over these columns),"
            " then start a new run with `reshelve run --new`",
        )

    def _describe(self, data: bytes, at: int) -> None:
        """A relation's columns, sent before its first row and again whenever they may have changed."""
        (oid,) = _OID.unpack_from(data, at)
        rules = self._rules.get(oid)
        if rules is None:
            return
        schema, at = _name(data, at + 4)
        table, at = _name(data, at)
        (count,) = _COUNT.unpack_from(data, at + 1)
        at += 3
        places: dict[str, tuple[int, bool]] = {}
        for place in range(count):
            flags = data[at]
            name, at = _name(data, at + 1)
            at += _COLUMN_TYPE
            places[name] = place, bool(flags & _IN_IDENTITY)
        self._readings[oid] = tuple(self._reading(number, rule, f"{schema}.{table}", places) for number, rule in rules)

    def _reading(self, number: int, rule: ChangeRule, table: str, places: Mapping[str, tuple[int, bool]]) -> _Reading:
        missing = [column for column in rule.columns if column not in places]
        if missing:
            raise history_broken(
                f"the changes of {table} have no column {', '.join(missing)} any more",
                where=self._where,
                why="the column was dropped or renamed, or taken out of the publication's list of columns",
            )
        found = [places[column] for column in rule.columns]
        return _Reading(
            number,
            table,
            rule.columns,
            tuple(place for place, _ in found),
            max(place for place, _ in found) + 1,
            tuple(canonical_text(type_) for type_ in rule.types),
            all(identity for _, identity in found),
        )

    def _truncate(self, data: bytes, at: int) -> None:
        (count,) = _OID.unpack_from(data, at)
        for number in range(count):
            (oid,) = _OID.unpack_from(data, at + 5 + 4 * number)
            for _, rule in self._rules.get(oid, ()):
                raise truncated(f"{rule.schema}.{rule.table}", self._where)


def canonical_text(type_: str) -> Callable[[str], str] | None:
    """What makes the text of `column::text` of a type's output, which is what the log has; None where they are the
    same. They differ where the cast to text is a function of its own and not the output function."""
    if type_ == "boolean":
        return {"t": "true", "f": "false"}.__getitem__
    if _BPCHAR.fullmatch(type_):
        return lambda text: text.rstrip(" ")
    if type_ == "inet":
        return lambda text: text if "/" in text else f"{text}/{128 if ':' in text else 32}"
    return None


def _row(data: bytes, at: int, wanted: int | None) -> tuple[Row, int]:
    """The first columns of the row at `at`, and where it ends; None: all of them, and only then it is the end."""
    count = _COUNT.unpack_from(data, at)[0] if wanted is None else wanted
    at += 2
    row: Row = []
    for _ in range(count):
        kind = data[at]
        at += 1
        if kind == _TEXT:
            end = at + 4 + _SIZE.unpack_from(data, at)[0]
            row.append(data[at + 4 : end])
            at = end
        else:
            row.append(None if kind == _NULL else False)
    return row, at


def _name(data: bytes, at: int) -> tuple[str, int]:
    end = data.index(0, at)
    return data[at:end].decode(), end + 1
