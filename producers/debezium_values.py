"""From the values that Debezium writes to the text that `column::text` gives in a reader's session. Pure.

Debezium writes types of Kafka Connect's, where the log has text; what can't be brought back exactly is refused:
a key that is wrong in one digit is a document that is never deleted.
https://debezium.io/documentation/reference/stable/connectors/postgresql.html#postgresql-data-types
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from reshelve.producers.pgoutput import canonical_text

_DAY_US: Final = 86_400_000_000
_FIRST_DAY, _LAST_DAY = -2_440_588, 2_145_042_905  # PostgreSQL's range of dates, in days since 1970
_FIRST_US, _INFINITY_US, _MINUS_INFINITY_US = (
    _FIRST_DAY * _DAY_US,
    9_223_372_036_825_200_000,
    -9_223_372_036_832_400_000,
)
_MODIFIER: Final = re.compile(r"\(([^)]*)\)")
_ZONED: Final = re.compile(r"([+-]?\d{4,})-(\d\d)-(\d\d)T(\d\d:\d\d:\d\d)(?:\.(\d{1,6}))?Z")
_DECIMAL: Final = re.compile(r"-?\d+(\.\d+)?")
_ENUM: Final = "io.debezium.data.Enum"
_PLAIN_TEXTS: Final = (None, "io.debezium.data.Uuid")
_DATES: Final = ("io.debezium.time.Date", "org.apache.kafka.connect.data.Date")
_MICROSECONDS: Final[Mapping[str, int]] = {
    "io.debezium.time.Timestamp": 1000,
    "io.debezium.time.MicroTimestamp": 1,
    "io.debezium.time.Time": 1000,
    "io.debezium.time.MicroTime": 1,
}
_HANDED_THROUGH: Final = (_ENUM, "io.debezium.data.Ltree")
_NO_DECIMALS: Final = {"NAN": "NaN", "POSITIVE_INFINITY": "Infinity", "NEGATIVE_INFINITY": "-Infinity"}
_PLACEHOLDER: Final = "__debezium_unavailable_value"

_WITH_SCHEMA_REMEDY: Final = (
    "have the connector write schemas (key.converter.schemas.enable and value.converter.schemas.enable = true), or Avro"
)


@dataclass(frozen=True, slots=True)
class Shape:
    """What the record's schema says of a column.

    kind   int, string, bytes, boolean, struct, or another one that no rule can use
    name   of the logical type; None: a plain value
    scale  of a decimal: digits behind the point
    """

    kind: str
    name: str | None = None
    scale: int | None = None


class Inexact(Exception):
    """The text of a value can't be told. `why` and `remedy` as in ReshelveError."""

    def __init__(self, why: str, remedy: str) -> None:
        super().__init__(why)
        self.why, self.remedy = why, remedy


def text_of(value: Any, shape: Shape | None, type_: str) -> str | None:
    """The text of a value of PostgreSQL's type `type_` (`format_type`; a domain's base). `shape` is None where the
    record has no schema. Raises Inexact."""
    base = _MODIFIER.sub("", type_)
    convert = _CONVERTERS.get(base, _other)
    if value is None:
        if convert is _other and not _handed_through(shape, type_):
            raise Inexact(f"NULL, which for type {type_} may also stand for a value that can't be written", _OTHERS)
        if convert is _numeric and shape != Shape("string"):
            raise Inexact("NULL, which may also stand for NaN", _NUMERIC_REMEDY)
        return None
    if value == _PLACEHOLDER:
        raise Inexact("a large value was left out because it was unchanged", "set the table's replica identity to full")
    return convert(value, shape, type_)


def _integer(value: Any, shape: Shape | None, type_: str) -> str:
    if type(value) is not int or shape not in (None, Shape("int")):
        raise _unexpected(value, shape, type_)
    return str(value)


def _boolean(value: Any, shape: Shape | None, type_: str) -> str:
    if type(value) is not bool:
        raise _unexpected(value, shape, type_)
    return "true" if value else "false"


def _text(value: Any, shape: Shape | None, type_: str) -> str:
    if not isinstance(value, str) or (shape is not None and (shape.kind != "string" or shape.name not in _PLAIN_TEXTS)):
        raise _unexpected(value, shape, type_)
    canonical = canonical_text(type_)
    return value if canonical is None else canonical(value)


def _other(value: Any, shape: Shape | None, type_: str) -> str:
    """A type that is none of the server's own."""
    if shape is None:
        raise Inexact(f"without a schema it is not known how a value of type {type_} was written", _WITH_SCHEMA_REMEDY)
    if not isinstance(value, str) or not _handed_through(shape, type_):
        raise _unexpected(value, shape, type_)
    return value


def _handed_through(shape: Shape | None, type_: str) -> bool:
    """Whether the connector writes the text that the server wrote. Of a plain text nothing is known: money is one."""
    if shape is None or shape.kind != "string":
        return False
    return shape.name in _HANDED_THROUGH or (shape.name is None and type_.rpartition(".")[2] == "citext")


def _bytes(value: Any, shape: Shape | None, type_: str) -> str:
    if shape is None:
        raise Inexact(f"without a schema it is not known how a value of type {type_} was written", _WITH_SCHEMA_REMEDY)
    if shape != Shape("bytes"):
        raise _unexpected(value, shape, type_)
    return "\\x" + _raw(value).hex()


def _numeric(value: Any, shape: Shape | None, type_: str) -> str:
    """As text, or as an unscaled integer whose scale is the column's. Of a column that has none the connector then
    strips the zeros at the end, which are part of PostgreSQL's text."""
    modifier = _MODIFIER.search(type_)
    scale = int(modifier[1].partition(",")[2] or 0) if modifier is not None else None
    # Without a schema: bytes have no point in their Base64, and are an object where there is no scale.
    if isinstance(value, str) and (shape == Shape("string") or (shape is None and (scale is None or "." in value))):
        return _decimal_text(value, scale, shape, type_)
    if scale is None:
        raise Inexact(f"as bytes a value of type {type_} has lost the zeros at its end", _NUMERIC_REMEDY)
    if shape is None and scale <= 0:
        raise Inexact(f"without a schema, text and bytes of type {type_} look alike", _WITH_SCHEMA_REMEDY)
    if shape is not None and (shape.kind != "bytes" or shape.scale != scale):
        raise _unexpected(value, shape, type_)
    return _scaled(int.from_bytes(_raw(value), "big", signed=True), scale)


def _decimal_text(value: str, scale: int | None, shape: Shape | None, type_: str) -> str:
    if value in _NO_DECIMALS:
        return _NO_DECIMALS[value]
    digits = len(value.partition(".")[2])
    if _DECIMAL.fullmatch(value) is None or (scale is not None and digits != max(0, scale)):
        raise _unexpected(value, shape, type_)
    return value


def _scaled(unscaled: int, scale: int) -> str:
    if scale <= 0:
        return str(unscaled * 10**-scale)
    digits = str(abs(unscaled)).zfill(scale + 1)
    return f"{'-' if unscaled < 0 else ''}{digits[:-scale]}.{digits[-scale:]}"


def _date(value: Any, shape: Shape | None, type_: str) -> str:
    if type(value) is not int or (shape is not None and shape.name not in _DATES):
        raise _unexpected(value, shape, type_)
    if not _FIRST_DAY <= value <= _LAST_DAY:
        raise Inexact("an infinite date", "take infinite dates out of the column")
    date, era = _civil(value)
    return date + era


def _time(value: Any, shape: Shape | None, type_: str) -> str:
    return _time_of_day(_microseconds(value, shape, type_))


def _timestamp(value: Any, shape: Shape | None, type_: str) -> str:
    microseconds = _microseconds(value, shape, type_)
    if microseconds in (_INFINITY_US, _MINUS_INFINITY_US):
        return "infinity" if microseconds > 0 else "-infinity"
    if not _FIRST_US <= microseconds < _INFINITY_US:
        raise Inexact("an infinite time", "take infinite times out of the column")
    days, rest = divmod(microseconds, _DAY_US)
    date, era = _civil(days)
    return f"{date} {_time_of_day(rest)}{era}"


def _zoned(value: Any, shape: Shape | None, type_: str) -> str:
    if value in ("infinity", "-infinity"):
        return str(value)
    found = _ZONED.fullmatch(value) if isinstance(value, str) else None
    if found is None or (shape is not None and shape.name != "io.debezium.time.ZonedTimestamp"):
        raise _unexpected(value, shape, type_)
    year, month, day, time, fraction = found.groups()
    text, era = _year(int(year))
    fraction = (fraction or "").rstrip("0")
    return f"{text}-{month}-{day} {time}{'.' if fraction else ''}{fraction}+00{era}"


def _microseconds(value: Any, shape: Shape | None, type_: str) -> int:
    if shape is None:
        raise Inexact(f"without a schema the unit of a value of type {type_} is not known", _WITH_SCHEMA_REMEDY)
    unit = _MICROSECONDS.get(shape.name or "")
    if type(value) is not int or unit is None:
        raise _unexpected(value, shape, type_)
    return value * unit


def _time_of_day(microseconds: int) -> str:
    seconds, fraction = divmod(microseconds, 1_000_000)
    text = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return f"{text}.{fraction:06}".rstrip("0") if fraction else text


def _civil(days: int) -> tuple[str, str]:
    """Year-month-day of so many days since 1970-01-01, and the era's suffix: Python's dates have no year before 1.

    Howard Hinnant's civil_from_days, https://howardhinnant.github.io/date_algorithms.html"""
    era, day_of_era = divmod(days + 719_468, 146_097)  # eras of 400 years that begin on 1 March of year 0
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * day_of_year + 2) // 153  # months since March
    month = shifted + 3 if shifted < 10 else shifted - 9
    year, suffix = _year(year_of_era + era * 400 + (month <= 2))
    return f"{year}-{month:02}-{day_of_year - (153 * shifted + 2) // 5 + 1:02}", suffix


def _year(year: int) -> tuple[str, str]:
    """PostgreSQL knows no year 0: it is 1 BC."""
    return (f"{year:04}", "") if year > 0 else (f"{1 - year:04}", " BC")


def _raw(value: Any) -> bytes:
    """Bytes are Base64 in JSON."""
    try:
        return value if isinstance(value, bytes) else base64.b64decode(value, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise Inexact(
            f"not Base64: {error}", "leave binary.handling.mode and decimal.handling.mode of it alone"
        ) from None


def _unexpected(value: Any, shape: Shape | None, type_: str) -> Inexact:
    form = type(value).__name__
    if shape is not None:
        form = shape.kind if shape.name is None else f"{shape.kind} ({shape.name})"
    return Inexact(f"a value of type {type_} was written as {form}, from which its text can't be told", _REMEDY)


_REMEDY: Final = (
    "leave the connector's time.precision.mode and decimal.handling.mode at their defaults (or decimals at `string`),"
    " use a column of another type, or `changes: replication`"
)
_NUMERIC_REMEDY: Final = "set the connector's decimal.handling.mode to string"
_OTHERS: Final = "use a column of another type, or `changes: replication`"

_CONVERTERS: Final[Mapping[str, Callable[[Any, Shape | None, str], str]]] = {
    "smallint": _integer,
    "integer": _integer,
    "bigint": _integer,
    "oid": _integer,
    "boolean": _boolean,
    "text": _text,
    "character varying": _text,
    "character": _text,
    "uuid": _text,
    "inet": _text,
    "cidr": _text,
    "macaddr": _text,
    "macaddr8": _text,
    '"char"': _text,
    "int4range": _text,
    "int8range": _text,
    "bytea": _bytes,
    "numeric": _numeric,
    "date": _date,
    "time without time zone": _time,
    "timestamp without time zone": _timestamp,
    "timestamp with time zone": _zoned,
}
