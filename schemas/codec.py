"""Avro single-object encoding: C3 01, the schema's CRC-64-AVRO fingerprint (little-endian), the record.

The fingerprint says which record a topic entry is, so a topic may hold several kinds.
https://avro.apache.org/docs/1.12.0/specification/#single-object-encoding
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Final, cast

import fastavro
from fastavro.schema import fingerprint, to_parsing_canonical_form

from reshelve.model import Bound, DriftedKey, KeyTask, PageTask, Receipt, Watermark

_MARKER: Final = b"\xc3\x01"
PREFIX_BYTES: Final = 10


class CodecError(ValueError):
    """The bytes are not a record of any schema that this release knows."""


class Schema:
    """One Avro record schema with its fingerprint."""

    def __init__(self, file: str) -> None:
        text = files("reshelve.schemas").joinpath(file).read_text(encoding="utf-8")
        raw = json.loads(text)
        self.parsed = fastavro.parse_schema(raw)
        self.name: str = raw["name"]
        crc = fingerprint(to_parsing_canonical_form(raw), "CRC-64-AVRO")
        self.prefix: bytes = _MARKER + bytes.fromhex(crc)

    def encode(self, record: Mapping[str, Any]) -> bytes:
        out = io.BytesIO()
        out.write(self.prefix)
        fastavro.schemaless_writer(out, self.parsed, record)
        return out.getvalue()

    def decode(self, data: bytes) -> dict[str, Any]:
        """Raises CodecError when `data` is not a record of this schema."""
        if data[:PREFIX_BYTES] != self.prefix:
            raise CodecError(f"not a {self.name}: starts with {data[:PREFIX_BYTES].hex()}")
        try:
            record = fastavro.schemaless_reader(io.BytesIO(data[PREFIX_BYTES:]), self.parsed, None)
        except (EOFError, ValueError, IndexError, TypeError, StopIteration) as error:
            raise CodecError(f"not a {self.name}: {error!r}") from error
        return cast(dict[str, Any], record)


DOCUMENT: Final = Schema("document.avsc")
PAGE_TASK: Final = Schema("page_task.avsc")
KEY_TASK: Final = Schema("key_task.avsc")
WATERMARK: Final = Schema("watermark.avsc")
COMMAND: Final = Schema("command.avsc")
RECEIPT: Final = Schema("receipt.avsc")
COUNTERS: Final = Schema("counters.avsc")
CHECK_TASK: Final = Schema("check_task.avsc")
CHECK_RESULT: Final = Schema("check_result.avsc")
EVENT: Final = Schema("event.avsc")
DRIFT: Final = Schema("drift.avsc")


@cache
def _by_prefix() -> dict[bytes, Schema]:
    known = (
        DOCUMENT,
        PAGE_TASK,
        KEY_TASK,
        WATERMARK,
        COMMAND,
        RECEIPT,
        COUNTERS,
        CHECK_TASK,
        CHECK_RESULT,
        EVENT,
        DRIFT,
    )
    return {schema.prefix: schema for schema in known}


def schema_of(data: bytes) -> Schema:
    """The schema that `data` was written with. Raises CodecError when it is none of ours."""
    schema = _by_prefix().get(data[:PREFIX_BYTES])
    if schema is None:
        raise CodecError(f"unknown record: starts with {data[:PREFIX_BYTES].hex()}")
    return schema


def _bound(value: list[str] | None) -> Bound:
    return None if value is None else tuple(value)


def encode_page_task(task: PageTask) -> bytes:
    return PAGE_TASK.encode({"segment": task.segment, "cursor": _list(task.cursor), "end": _list(task.end)})


def decode_page_task(data: bytes) -> PageTask:
    """Raises CodecError."""
    record = PAGE_TASK.decode(data)
    return PageTask(record["segment"], _bound(record["cursor"]), _bound(record["end"]))


def _list(bound: Bound) -> list[str] | None:
    return None if bound is None else list(bound)


def encode_receipt(receipt: Receipt) -> bytes:
    return RECEIPT.encode(
        {
            "segment": receipt.segment,
            "low": _list(receipt.low),
            "high": _list(receipt.high),
            "rows": receipt.rows,
            "documents": receipt.documents,
            "left_out": receipt.left_out,
            "rejected": receipt.rejected,
            "bytes": receipt.bytes,
            "checksum": receipt.checksum.to_bytes(8, "big"),
            "version": receipt.version,
        }
    )


def decode_receipt(data: bytes) -> Receipt:
    """Raises CodecError."""
    record = RECEIPT.decode(data)
    record["low"], record["high"] = _bound(record["low"]), _bound(record["high"])
    record["checksum"] = int.from_bytes(record["checksum"], "big")
    return Receipt(**record)


def encode_key_task(task: KeyTask) -> bytes:
    return KEY_TASK.encode({"after_xid": task.after_xid, "at": task.at})


def decode_key_task(data: bytes) -> KeyTask:
    """Raises CodecError."""
    return KeyTask(**KEY_TASK.decode(data))


def encode_watermark(mark: Watermark) -> bytes:
    return WATERMARK.encode({"version": mark.version, "at": mark.at, "lsn": mark.lsn})


def decode_watermark(data: bytes) -> Watermark:
    """Raises CodecError."""
    return Watermark(**WATERMARK.decode(data))


def encode_drifted_key(one: DriftedKey) -> bytes:
    """The record's value; its key is the document key."""
    fields = {"check": one.check, "level": one.level, "drift": one.drift}
    return DRIFT.encode(fields | {"expected": one.expected, "found": one.found})


def decode_drifted_key(key: bytes, data: bytes) -> DriftedKey:
    """Raises CodecError."""
    return DriftedKey(key.decode("utf-8", "replace"), **DRIFT.decode(data))
