"""Debezium's envelopes, from records as a real connector (3.3) wrote them, and the values that are told exactly."""

from __future__ import annotations

import io
import json
from struct import pack
from typing import Any

import fastavro
import pytest

from reshelve.errors import SourceRefused
from reshelve.model import ChangeRule
from reshelve.producers.changes import Change
from reshelve.producers.debezium import message_topics
from reshelve.producers.debezium_events import EventReader
from reshelve.producers.debezium_format import AvroFormat, Event, FormatError, JsonFormat, Row
from reshelve.producers.debezium_passage import Passage
from reshelve.producers.debezium_values import Inexact, Shape, text_of

INT, STRING, BYTES = Shape("int"), Shape("string"), Shape("bytes")
SOURCE = {"ts_ms": 1795455379019, "snapshot": "false", "schema": "public", "table": "t", "txId": 3946, "lsn": 279637504}
UUID = "6b0e7a0e-6d2c-4dd3-8d3c-2f8a3b7f1111"
DECIMAL = "org.apache.kafka.connect.data.Decimal"


def time_shape(name: str, kind: str = "int") -> Shape:
    return Shape(kind, f"io.debezium.time.{name}")


@pytest.mark.parametrize(
    ("value", "shape", "type_", "text"),
    [
        (-5, INT, "smallint", "-5"),
        (2**63 - 1, None, "bigint", "9223372036854775807"),
        (True, Shape("boolean"), "boolean", "true"),
        ("ä\\|", STRING, "text", "ä\\|"),
        ("ab   ", STRING, "character(5)", "ab"),
        ("10.0.0.1", STRING, "inet", "10.0.0.1/32"),
        (UUID, Shape("string", "io.debezium.data.Uuid"), "uuid", UUID),
        ("it's", Shape("string", "io.debezium.data.Enum"), "public.mood", "it's"),
        ("AQL/", BYTES, "bytea", "\\x0102ff"),
        (b"\x01\xff", BYTES, "bytea", "\\x01ff"),
        ("+zI=", Shape("bytes", DECIMAL, 2), "numeric(10,2)", "-12.30"),
        (b"\xfb", Shape("bytes", DECIMAL, 2), "numeric(10,2)", "-0.05"),
        ("AKtUqYzrHwrS", Shape("bytes", DECIMAL, 0), "numeric(20,0)", "12345678901234567890"),
        ("-12.30", STRING, "numeric(10,2)", "-12.30"),
        ("-12.30", None, "numeric(10,2)", "-12.30"),
        ("+zI=", None, "numeric(10,2)", "-12.30"),
        ("1234.5600", STRING, "numeric", "1234.5600"),
        ("1234.5600", None, "numeric", "1234.5600"),
        ("NAN", STRING, "numeric(10,2)", "NaN"),
        ("NEGATIVE_INFINITY", STRING, "numeric", "-Infinity"),
        (None, STRING, "numeric(10,2)", None),
        ("Ab", STRING, "public.citext", "Ab"),
        (19782, time_shape("Date"), "date", "2024-02-29"),
        (-141432, None, "date", "1582-10-10"),
        (-735160, time_shape("Date"), "date", "0044-03-15 BC"),
        (2145042905, time_shape("Date"), "date", "5874897-12-31"),
        (-1, time_shape("MicroTimestamp"), "timestamp without time zone", "1969-12-31 23:59:59.999999"),
        (-63517787999876544, time_shape("MicroTimestamp"), "timestamp without time zone",
         "0044-03-15 10:00:00.123456 BC"),
        (568971824523000, time_shape("Timestamp"), "timestamp(3) without time zone", "20000-01-01 01:02:03"),
        (9223372036825200000, time_shape("MicroTimestamp"), "timestamp without time zone", "infinity"),
        ("2024-02-29T12:34:56.790000Z", None, "timestamp with time zone", "2024-02-29 12:34:56.79+00"),
        ("-0043-03-15T10:00:00.12Z", time_shape("ZonedTimestamp", "string"), "timestamp(2) with time zone",
         "0044-03-15 10:00:00.12+00 BC"),
        (86400000000, time_shape("MicroTime"), "time without time zone", "24:00:00"),
        (None, INT, "integer", None),
        (None, None, "text", None),
    ],
)  # fmt: skip
def test_the_text_of_a_value(value: Any, shape: Shape | None, type_: str, text: str | None) -> None:
    """Taken from a real connector beside what the server said of `column::text`."""
    assert text_of(value, shape, type_) == text


@pytest.mark.parametrize(
    ("value", "shape", "type_"),
    [
        (1, None, "timestamp without time zone"),  # of which unit?
        (1, time_shape("NanoTimestamp"), "timestamp without time zone"),
        (1, Shape("int", "org.apache.kafka.connect.data.Timestamp"), "timestamp without time zone"),
        (-2147472692, time_shape("Date"), "date"),  # infinity
        ("1234", None, "numeric(20,0)"),  # text or Base64?
        ("AeJA", Shape("struct", "io.debezium.data.VariableScaleDecimal"), "numeric"),  # its zeros were stripped
        ({"scale": 2, "value": "AeJA"}, None, "numeric"),
        ("12.3", STRING, "numeric(10,2)"),
        ("1.50", STRING, "money"),  # the server says $1.50
        (None, Shape("bytes", DECIMAL, 2), "numeric(10,2)"),  # NULL or NaN?
        (0.1, Shape("double"), "double precision"),
        ("10:34:56Z", time_shape("ZonedTime", "string"), "time with time zone"),
        (None, STRING, "name"),  # the connector writes no value of it
        ("__debezium_unavailable_value", STRING, "text"),
        (True, None, "integer"),
        ("7", STRING, "integer"),
        ("ok", None, "public.mood"),
        ("not base64!", BYTES, "bytea"),
    ],
)
def test_what_cannot_be_told_exactly_is_refused(value: Any, shape: Shape | None, type_: str) -> None:
    with pytest.raises(Inexact) as refused:
        text_of(value, shape, type_)
    assert refused.value.why and refused.value.remedy


def envelope(op: str, before: Any, after: Any, **source: Any) -> dict[str, Any]:
    return {"before": before, "after": after, "source": SOURCE | source, "op": op, "ts_ms": 1, "transaction": None}


def test_json_with_and_without_schemas() -> None:
    payload = envelope("c", None, {"id": 5, "d": 19782})
    row = [
        {"type": "int64", "optional": False, "field": "id"},
        {"type": "int32", "optional": True, "name": "io.debezium.time.Date", "version": 1, "field": "d"},
    ]
    fields = [{"type": "struct", "fields": row, "field": name} for name in ("before", "after")]
    value = json.dumps({"schema": {"type": "struct", "fields": fields}, "payload": payload}).encode()
    key = json.dumps({"schema": {"type": "struct", "fields": row[:1]}, "payload": {"id": 5}}).encode()
    event = JsonFormat().event(key, value)
    assert event is not None and event.after is not None and event.key is not None and event.before is None
    assert (event.op, event.schema, event.table, event.xid, event.at) == ("c", "public", "t", 3946, 1795455379019)
    assert event.after.values == {"id": 5, "d": 19782}
    assert (event.after.shape("d"), event.key.shape("id")) == (Shape("int", "io.debezium.time.Date"), INT)

    bare = JsonFormat().event(b'{"id": 5}', json.dumps(payload).encode())
    assert bare is not None and bare.after is not None and bare.key is not None
    assert (bare.after.shape("d"), bare.key.values) == (None, {"id": 5})


@pytest.mark.parametrize(
    "value",
    [
        b'{"ts_ms": 1795455643004}',  # a heartbeat
        b'{"status": "BEGIN", "id": "571:53195829", "event_count": null, "data_collections": null, "ts_ms": 1}',
        json.dumps(envelope("m", None, None, schema="", table="", txId=None)).encode(),
    ],
)
def test_the_connectors_other_records_are_no_events(value: bytes) -> None:
    assert JsonFormat().event(None, value) is None


@pytest.mark.parametrize("value", [b"\x00\x00\x00\x00\x01abc", b"[]", b'{"id": 1, "name": "flattened"}', b"7"])
def test_other_formats_are_refused(value: bytes) -> None:
    with pytest.raises(FormatError):
        JsonFormat().event(None, value)


def test_avro_keeps_what_logical_types_would_spoil() -> None:
    """Dates before the year 1 have no Python object, and a record's type is spelled out once, then named."""
    decimal = {"type": "bytes", "scale": 2, "precision": 10, "logicalType": "decimal", "connect.name": DECIMAL}
    date = {"type": "int", "connect.name": "org.apache.kafka.connect.data.Date", "logicalType": "date"}
    columns = [
        {"name": "id", "type": "long"},
        {"name": "n", "type": ["null", decimal], "default": None},
        {"name": "d", "type": ["null", date], "default": None},
    ]
    source = [{"name": name, "type": "long"} for name in ("ts_ms", "txId", "lsn")]
    source += [{"name": name, "type": "string"} for name in ("schema", "table", "snapshot")]
    value = {"type": "record", "name": "Value", "fields": columns}
    fields = [
        {"name": "before", "type": ["null", value], "default": None},
        {"name": "after", "type": ["null", "Value"], "default": None},
        {"name": "source", "type": {"type": "record", "name": "Source", "namespace": "io.debezium", "fields": source}},
        {"name": "op", "type": "string"},
    ]
    schema = {"type": "record", "name": "Envelope", "namespace": "p.public.t", "fields": fields}
    written = json.loads(json.dumps(schema).replace('"logicalType"', '"was"'))
    out = io.BytesIO(pack(">bI", 0, 7))
    out.seek(5)
    record = envelope("d", {"id": 1, "n": b"\xfb\x32", "d": -735160}, None)
    fastavro.schemaless_writer(out, fastavro.parse_schema(written), record)
    asked: list[int] = []

    def registry(number: int) -> str:
        asked.append(number)
        return json.dumps(schema)

    format_ = AvroFormat(registry)
    for _ in range(2):
        event = format_.event(None, out.getvalue())
    assert asked == [7] and event is not None and event.before is not None
    row = event.before
    assert text_of(row.values["n"], row.shape("n"), "numeric(10,2)") == "-12.30"
    assert text_of(row.values["d"], row.shape("d"), "date") == "0044-03-15 BC"
    with pytest.raises(FormatError):
        format_.event(None, b'{"op": "c"}')


KEY_RULE = ChangeRule("public", "t", 1, ("id",), ("bigint",))
PARENT_RULE = ChangeRule("public", "t", 1, ("parent",), ("bigint",), "select 1")


def row(**values: Any) -> Row:
    return Row(values, lambda _column: INT)


def changes(event: Event, *rules: ChangeRule) -> list[Change]:
    return EventReader({("public", "t"): list(enumerate(rules))}, 100, "here").changes(event)


def event(
    op: str,
    before: Row | None,
    after: Row | None,
    *,
    table: str = "t",
    xid: int | None = 9,
    lsn: int = 200,
    snapshot: str = "false",
) -> Event:
    return Event(op, "public", table, xid, lsn, 5, snapshot, before, after, row(id=1))


def test_old_and_new_values() -> None:
    assert changes(event("c", None, row(id=1)), KEY_RULE) == [Change(0, None, ("1",), 9, 5)]
    assert changes(event("u", None, row(id=1)), KEY_RULE) == [Change(0, None, ("1",), 9, 5)]
    assert changes(event("u", row(id=1, parent=3), row(id=1, parent=4)), KEY_RULE, PARENT_RULE) == [
        Change(0, None, ("1",), 9, 5),
        Change(1, ("3",), ("4",), 9, 5),
    ]
    assert changes(event("d", row(id=1, parent=None), None), KEY_RULE) == [Change(0, ("1",), None, 9, 5)]
    assert changes(event("d", None, None), KEY_RULE) == [Change(0, ("1",), None, 9, 5)]
    assert changes(event("c", None, row(id=1), table="other"), KEY_RULE) == []


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (event("t", None, None), "truncated"),
        (event("u", None, row(id=1, parent=4)), "replica identity"),  # the old parent is not known
        (event("c", None, row(id=1)), "no column parent"),
        (event("c", None, row(id=1, parent="x")), "can't be told"),
        (event("c", None, row(id=1, parent=1), xid=None), "without a transaction"),
        (event("r", None, row(id=1, parent=1), snapshot="first"), "begun anew"),
    ],
)
def test_what_is_not_told_is_refused(broken: Event, why: str) -> None:
    with pytest.raises(SourceRefused, match=why):
        changes(broken, PARENT_RULE)


@pytest.mark.parametrize(("snapshot", "lsn"), [("true", 100), ("incremental", 200)])
def test_a_snapshot_that_hides_nothing_changes_nothing(snapshot: str, lsn: int) -> None:
    assert changes(event("r", None, row(id=1), snapshot=snapshot, lsn=lsn), KEY_RULE) == []


def test_a_position_is_passed_once_the_ends_read_after_it_are_reached() -> None:
    a, b = ("t", 0), ("t", 1)
    passage = Passage({a: 10, b: 0})
    assert passage.wants(500)
    passage.saw(500, {a: 12, b: 0})
    assert (passage.passed, passage.wants(600)) == (0, False)  # one at a time
    passage.read(a, 11)
    assert passage.passed == 0
    passage.read(a, 12)
    assert passage.passed == 500
    assert passage.confirm(499) is None
    passage.read(b, 3)
    assert passage.confirm(500) == {a: 12, b: 0}  # as it was then: what came later may not be durable
    assert passage.confirm(500) is None
    passage.saw(600, {a: 12, b: 3})
    assert passage.passed == 600
    passage.saw(550, {a: 12, b: 3})
    assert passage.passed == 600


def test_the_topic_of_logical_messages() -> None:
    assert message_topics(["shop.public.items", "routed"], [("public", "items")]) == {"shop.message"}
