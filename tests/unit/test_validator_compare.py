from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reshelve.validator.compare import (
    PartitionSums,
    Reading,
    add_sums,
    buckets_for,
    classify,
    classify_sample,
    differing_buckets,
    digest,
)

_U64 = st.integers(0, 2**64 - 1)


@pytest.mark.parametrize(
    ("topic", "target", "expected"),
    [
        (5, 5, None),
        (None, None, None),
        (5, None, "missing"),
        (None, 5, "extra"),
        (5, 4, "stale"),
        (5, 6, "foreign"),
    ],
)
def test_a_key_is_classed_by_its_versions(topic: int | None, target: int | None, expected: str | None) -> None:
    assert classify(topic, target) == expected


_READ = Reading(7, b"read")


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        (b"read", Reading(7, b"read"), None),
        (None, None, None),
        (b"read", None, "missing"),
        (b"moved on", Reading(7, b"read"), "stale"),
        (None, Reading(7, b"read"), "stale"),  # deleted since it was read
        (None, Reading(9, b"made up"), "extra"),
        (b"read", Reading(7, b"broken"), "different"),
        (b"read", Reading(8, b"by others"), "foreign"),
        (b"read", Reading(6, b"older"), "stale"),
        (b"new", Reading(8, b"new"), None),  # equal to the source; that its version is foreign, checksums say
    ],
)
def test_a_sample_is_classed_by_three_sides(source: bytes | None, target: Reading | None, expected: str | None) -> None:
    assert classify_sample(source, target, _READ) == expected


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        (None, None, None),
        (b"born again", None, "missing"),  # and no change of it came
        (None, Reading(5, b"read"), "extra"),  # resurrected
        (b"born again", Reading(5, b"read"), "extra"),
    ],
)
def test_a_sampled_tombstone_is_classed_too(source: bytes | None, target: Reading | None, expected: str | None) -> None:
    assert classify_sample(source, target, None) == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b'{"a": 1, "b": [1.50, null]}', b'{"b":[1.5,null],"a":1.0}'),
        (b'{"n": 100}', b'{"n": 1e2}'),
        (b'{"n": 0}', b'{"n": -0.0}'),
        ('{"t": "é"}'.encode(), b'{"t": "\\u00e9"}'),
    ],
)
def test_equal_documents_have_one_digest(one: bytes, other: bytes) -> None:
    assert digest(one) == digest(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b'{"a": 1}', b'{"a": true}'),
        (b'{"a": 0}', b'{"a": false}'),
        (b'{"a": 1}', b'{"a": "1"}'),
        (b'{"a": null}', b"{}"),
        (b'{"a": [1, 2]}', b'{"a": [2, 1]}'),
        (b'{"a": 9007199254740993}', b'{"a": 9007199254740992}'),
        (b'{"a": 0.12345678901234567890123456789012345}', b'{"a": 0.12345678901234567890123456789012346}'),
        (b'{"a": 10}', b'{"a": 1}'),
        (b'{"a": -1}', b'{"a": 1}'),
    ],
)
def test_unequal_documents_differ_in_digest(one: bytes, other: bytes) -> None:
    assert digest(one) != digest(other)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(_JSON)
def test_digest_survives_another_way_of_writing(value: Any) -> None:
    written = json.dumps(value).encode()
    rewritten = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=True).encode()
    assert digest(written) == digest(rewritten)


@given(st.lists(st.tuples(_U64, _U64), min_size=1, max_size=20))
def test_sums_survive_the_record(pairs: list[tuple[int, int]]) -> None:
    sums = PartitionSums(tuple(p[0] for p in pairs), tuple(p[1] for p in pairs))
    assert PartitionSums.decode(sums.encode()) == sums


def test_sums_of_slices_add_up_modulo_2_64() -> None:
    total = add_sums([PartitionSums((1, 2), (2**64 - 1, 5)), PartitionSums((3, 0), (3, 0))])
    assert total == PartitionSums((4, 2), (2, 5))
    assert (total.documents, total.checksum) == (6, 7)


def test_only_what_is_asked_for_differs() -> None:
    topic, target = PartitionSums((1, 1, 1), (5, 6, 7)), PartitionSums((1, 2, 1), (5, 6, 8))
    assert differing_buckets(topic, target, counts=True, checksums=True) == {1, 2}
    assert differing_buckets(topic, target, counts=True, checksums=False) == {1}
    assert differing_buckets(topic, target, counts=False, checksums=True) == {2}
    assert differing_buckets(topic, target, counts=False, checksums=False) == set()


@pytest.mark.parametrize(("partitions", "buckets"), [(1, 256), (64, 256), (128, 128), (10_000, 1), (100_000, 1)])
def test_a_result_fits_a_record(partitions: int, buckets: int) -> None:
    assert buckets_for(partitions) == buckets
