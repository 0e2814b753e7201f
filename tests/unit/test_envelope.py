from __future__ import annotations

import io

import fastavro
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reshelve.model import PageTask, Receipt
from reshelve.schemas.codec import (
    DOCUMENT,
    PREFIX_BYTES,
    CodecError,
    decode_page_task,
    decode_receipt,
    encode_page_task,
    encode_receipt,
    schema_of,
)
from reshelve.schemas.envelope import EnvelopeReader, envelope_head, seal
from reshelve.schemas.reject import Reject

_LONG = st.integers(-(1 << 63), (1 << 63) - 1)
_VERSION = st.integers(0, (1 << 53) - 1)
_TIME = st.integers(0, 1 << 45)
# The lengths around which the length itself takes one byte more.
_EDGES = [63, 64, 65, 8191, 8192, 8193, (1 << 20) - 1, 1 << 20]
_DOCUMENT = st.binary(max_size=200) | st.sampled_from(_EDGES).map(lambda size: b"x" * size)
_BOUND = st.none() | st.lists(st.text(max_size=5), min_size=1, max_size=3).map(tuple)


def by_fastavro(version: int, read_at: int, document: bytes) -> bytes:
    """The record as fastavro alone writes it."""
    out = io.BytesIO()
    record = {"version": version, "read_at": read_at, "document": document}
    fastavro.schemaless_writer(out, DOCUMENT.parsed, record)
    return DOCUMENT.prefix + out.getvalue()


@given(_VERSION, _TIME, _DOCUMENT)
@example(0, 0, b"")
def test_sealed_by_hand_is_what_fastavro_writes(version: int, read_at: int, document: bytes) -> None:
    record = seal(envelope_head(version, read_at), document)
    assert record == by_fastavro(version, read_at, document)
    assert DOCUMENT.decode(record) == {"version": version, "read_at": read_at, "document": document}
    assert schema_of(record) is DOCUMENT


@given(st.lists(st.tuples(st.sampled_from([(1, 5), (2, 5), (1 << 50, 7), (2, 1 << 40)]), _DOCUMENT), max_size=12))
def test_opened_is_what_was_sealed_whatever_came_before(records: list[tuple[tuple[int, int], bytes]]) -> None:
    reader = EnvelopeReader()
    for (version, read_at), document in records:
        assert reader.open(seal(envelope_head(version, read_at), document)) == (version, document)


@given(st.binary(max_size=60))
def test_what_is_not_a_document_is_refused(garbage: bytes) -> None:
    reader = EnvelopeReader()
    reader.open(seal(envelope_head(1, 1), b"{}"))
    with pytest.raises(CodecError):
        reader.open(garbage)


@pytest.mark.parametrize("cut", [0, 1, PREFIX_BYTES, PREFIX_BYTES + 1, -1])
def test_a_cut_record_is_refused(cut: int) -> None:
    record = seal(envelope_head(7, 7), b'{"a": 1}')
    with pytest.raises(CodecError):
        EnvelopeReader().open(record[:cut])


def test_bytes_after_the_record_are_refused() -> None:
    with pytest.raises(CodecError, match="after the record"):
        EnvelopeReader().open(seal(envelope_head(7, 7), b"{}") + b"!")


def test_a_record_of_another_kind_is_refused() -> None:
    with pytest.raises(CodecError):
        EnvelopeReader().open(encode_page_task(PageTask(0, None, None)))
    with pytest.raises(CodecError):
        decode_page_task(seal(envelope_head(7, 7), b"{}"))
    with pytest.raises(CodecError, match="unknown record"):
        schema_of(b"\x00" * 20)


@given(st.integers(0, 1000), _BOUND, _BOUND)
def test_a_page_task_is_read_as_it_was_written(segment: int, cursor: tuple[str, ...], end: tuple[str, ...]) -> None:
    task = PageTask(segment, cursor, end)
    assert decode_page_task(encode_page_task(task)) == task


@given(_BOUND, _BOUND, st.integers(0, (1 << 64) - 1), _LONG, _VERSION)
def test_a_receipt_is_read_as_it_was_written(
    low: tuple[str, ...], high: tuple[str, ...], checksum: int, size: int, version: int
) -> None:
    receipt = Receipt(3, low, high, 5, 3, 1, 1, size, checksum, version)
    assert decode_receipt(encode_receipt(receipt)) == receipt


@given(st.text(max_size=5), st.none() | st.binary(max_size=5), st.text(max_size=9), st.text(max_size=9))
def test_a_reject_is_read_as_it_was_written(key: str, document: bytes | None, kind: str, reason: str) -> None:
    reject = Reject(key, document, "index", kind, reason, "topic", 3, 17)
    headers = [(name, value) for name, value in reject.headers() if isinstance(value, bytes)]
    assert Reject.of(key.encode(), document, headers) == reject
