"""Debezium's change events as they stand in Kafka: JSON with or without schemas, and Avro with those of a registry.

Only the envelope is understood, since an event that was flattened has lost its old values and its transaction. Pure:
Avro schemas come from a callable.
https://debezium.io/documentation/reference/stable/connectors/postgresql.html#postgresql-events
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Any, Final, Protocol

import fastavro
import orjson

from reshelve.producers.debezium_values import Shape

_WIRE: Final = Struct(">bI")  # Confluent's wire format: 0, the schema's id, the record
_CONNECT_INTEGERS: Final = ("int8", "int16", "int32", "int64")
_AVRO_KINDS: Final[Mapping[str, str]] = {"int": "int", "long": "int", "record": "struct"}
# Not ours to interpret: a date before the year 1 has no Python object, and readers need no defaults.
_LEFT_OUT: Final = ("logicalType", "default")
_AVRO_ERRORS: Final = (EOFError, ValueError, IndexError, TypeError, KeyError, StopIteration, AssertionError)


class FormatError(ValueError):
    """A record is not a change event in the format that the spec names. `remedy` as in ReshelveError."""

    def __init__(self, why: str, remedy: str) -> None:
        super().__init__(why)
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Row:
    """Columns of a row with their values as they were written.

    shape  tells how a column was written; None: the record has no schema"""

    values: Mapping[str, Any]
    shape: Callable[[str], Shape | None]


@dataclass(frozen=True, slots=True)
class Event:
    """A change event.

    op        c, u, d, r (read by a snapshot) or t (truncate)
    xid       low 32 bits of the top-level transaction's id; None when the record has none
    lsn       where the change is in the log; None when the record has none
    at        when the transaction was committed, milliseconds since 1970 UTC
    snapshot  "false" when it comes from the log
    key       columns of the replica identity, or those that the connector was told to take
    """

    op: str
    schema: str
    table: str
    xid: int | None
    lsn: int | None
    at: int
    snapshot: str
    before: Row | None
    after: Row | None
    key: Row | None


class EventFormat(Protocol):
    """How events are written."""

    def event(self, key: bytes | None, value: bytes) -> Event | None:
        """The change event of a record that has a value; None for the connector's other records (heartbeats,
        transaction metadata, logical messages). Raises FormatError."""
        ...


class JsonFormat:
    """Kafka Connect's JsonConverter, with `schemas.enable` or without."""

    def event(self, key: bytes | None, value: bytes) -> Event | None:
        payload, fields = _json_parts(value)
        key_row: Row | None = None
        if key is not None and payload.get("op") is not None:
            key_values, key_fields = _json_parts(key)
            key_row = Row(key_values, _json_shapes(key_fields))
        rows = {}
        for name in ("before", "after"):
            if isinstance(payload.get(name), dict):
                of_row = next((f.get("fields") for f in fields or () if f.get("field") == name), None)
                rows[name] = Row(payload[name], _json_shapes(of_row))
        return _event(payload, rows, key_row)


class AvroFormat:
    """Confluent's wire format. `schema` returns the text of the schema with a number; it may raise ReshelveError."""

    def __init__(self, schema: Callable[[int], str]) -> None:
        self._schema = schema
        self._known: dict[int, tuple[Any, Mapping[str, Any]]] = {}

    def event(self, key: bytes | None, value: bytes) -> Event | None:
        payload, named = self._read(value)
        key_row: Row | None = None
        if key is not None and payload.get("op") is not None:
            key_values, key_named = self._read(key)
            key_row = Row(key_values, _avro_shapes(key_named["."]))
        rows = {}
        for name in ("before", "after"):
            if isinstance(payload.get(name), dict):
                record = named[_avro_type(_avro_field(named["."], name)["type"], named)["name"]]
                rows[name] = Row(payload[name], _avro_shapes(record))
        return _event(payload, rows, key_row)

    def _read(self, data: bytes) -> tuple[dict[str, Any], Mapping[str, Any]]:
        """The record, and the record schemas by name; `.` is its own."""
        if len(data) < _WIRE.size or data[0] != 0:
            raise FormatError("does not begin as Confluent's wire format does", "correct changes.debezium.format")
        number = _WIRE.unpack_from(data)[1]
        if number not in self._known:
            self._known[number] = _parse(self._schema(number))
        parsed, named = self._known[number]
        try:
            record = fastavro.schemaless_reader(io.BytesIO(data[_WIRE.size :]), parsed, None)
        except _AVRO_ERRORS as error:
            raise FormatError(
                f"is not a record of schema {number}: {error!r}", "see that the registry is its own"
            ) from None
        return (record if isinstance(record, dict) else {}), named


def _event(payload: Mapping[str, Any], rows: Mapping[str, Row], key: Row | None) -> Event | None:
    op, source = payload.get("op"), payload.get("source")
    if op is None or not isinstance(source, Mapping):
        if "ts_ms" in payload and ("status" in payload or len(payload) == 1 or "databaseName" in payload):
            return None  # a heartbeat, the begin or end of a transaction, a change of schema
        raise FormatError(
            "has no op and source",
            "let the topics have Debezium's whole envelope: without ExtractNewRecordState or another flattening",
        )
    if op == "m":
        return None
    return Event(
        str(op),
        str(source.get("schema")),
        str(source.get("table")),
        source.get("txId"),
        source.get("lsn"),
        int(source.get("ts_ms") or 0),
        str(source.get("snapshot") or "false"),
        rows.get("before"),
        rows.get("after"),
        key,
    )


def _json_parts(data: bytes) -> tuple[dict[str, Any], Sequence[Mapping[str, Any]] | None]:
    """The payload, and the fields of its schema; None where it has none."""
    try:
        record = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise FormatError(f"is not JSON: {error}", "correct changes.debezium.format") from None
    if not isinstance(record, dict):
        raise FormatError("is not a JSON object", "see that only the connector writes to the topic")
    if record.keys() == {"schema", "payload"}:
        schema, payload = record["schema"], record["payload"]
        fields = schema.get("fields") if isinstance(schema, dict) else None
        return (payload if isinstance(payload, dict) else {}), fields
    return record, None


def _json_shapes(fields: Sequence[Mapping[str, Any]] | None) -> Callable[[str], Shape | None]:
    def shape(column: str) -> Shape | None:
        for field in fields or ():
            if field.get("field") == column:
                kind = str(field.get("type"))
                scale = (field.get("parameters") or {}).get("scale")
                return Shape(
                    "int" if kind in _CONNECT_INTEGERS else kind,
                    field.get("name"),
                    None if scale is None else int(scale),
                )
        return None

    return shape


def _parse(text: str) -> tuple[Any, dict[str, Any]]:
    try:
        schema = _stripped(json.loads(text))
        named: dict[str, Any] = {}
        _collect(schema, "", named)
        named["."] = schema
        return fastavro.parse_schema(schema), named
    except (ValueError, KeyError, TypeError, fastavro.schema.SchemaParseException) as error:
        raise FormatError(f"has a schema that can't be read: {error!r}", "see that the registry is its own") from None


def _stripped(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_stripped(part) for part in schema]
    if isinstance(schema, dict):
        return {name: _stripped(part) for name, part in schema.items() if name not in _LEFT_OUT}
    return schema


def _collect(schema: Any, namespace: str, named: dict[str, Any]) -> None:
    """The record schemas within, by their full names and by the names that refer to them."""
    if isinstance(schema, list):
        for part in schema:
            _collect(part, namespace, named)
    elif isinstance(schema, dict):
        if isinstance(schema.get("type"), dict | list):
            _collect(schema["type"], namespace, named)
        if schema.get("type") == "record":
            namespace = schema.get("namespace", namespace)
            named[schema["name"]] = named[f"{namespace}.{schema['name']}"] = schema
            for field in schema["fields"]:
                _collect(field["type"], namespace, named)


def _avro_field(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return next((field for field in record.get("fields", ()) if field["name"] == name), {"type": "null"})


def _avro_type(type_: Any, named: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is not null of a type, as an object."""
    if isinstance(type_, list):
        type_ = next((part for part in type_ if part != "null"), "null")
    if isinstance(type_, str):
        found = named.get(type_)
        return found if isinstance(found, dict) else {"type": type_}
    if isinstance(type_, dict) and isinstance(type_.get("type"), dict | list):
        return _avro_type(type_["type"], named)
    return type_ if isinstance(type_, dict) else {"type": "null"}


def _avro_shapes(record: Mapping[str, Any]) -> Callable[[str], Shape | None]:
    def shape(column: str) -> Shape | None:
        type_ = _avro_type(_avro_field(record, column)["type"], {})
        kind = str(type_["type"])
        scale = type_.get("scale", (type_.get("connect.parameters") or {}).get("scale"))
        return Shape(_AVRO_KINDS.get(kind, kind), type_.get("connect.name"), None if scale is None else int(scale))

    return shape
