from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reshelve.validator.compare import (
    PartitionSums,
    Reading,
    Written,
    add_sums,
    buckets_for,
    classify,
    classify_changed,
    differing_buckets,
    digest,
    expected_version,
    judge,
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


@pytest.mark.parametrize(
    ("target", "topic", "expected"),
    [
        (Reading(7, b"read"), Reading(7, b"read"), "stale"),  # the source moved on, and nobody told
        (Reading(6, b"older"), Reading(7, b"read"), "stale"),
        (Reading(6, b"older"), Reading(7, None), "stale"),
        (Reading(7, b"broken"), Reading(7, b"read"), "different"),
        (Reading(8, b"by others"), Reading(7, b"read"), "foreign"),
        (Reading(8, b"by others"), None, "foreign"),
    ],
)
def test_a_whole_document_is_classed_by_the_topic(target: Reading, topic: Reading | None, expected: str) -> None:
    assert classify_changed(target, topic) == expected


# --- keys whose newest records may or may not have come

_VERSION = st.integers(1, 6)
# Of a key, one version is one content: whether it is a document follows from the version.
_GONE = st.sets(_VERSION)


def _reachable(before: list[int], open_: list[int], gone: set[int]) -> set[int | None]:
    """All that an index may hold once `before` has come: brute force over what else came, in which order, how often."""

    def written(index: tuple[int, bool], version: int) -> tuple[int, bool]:
        return (version, version in gone) if version >= index[0] else index

    start = (0, True)
    for version in before:
        start = written(start, version)
    reached = {start}
    while True:
        more = reached | {written(index, version) for index in reached for version in (*before, *open_)}
        if more == reached:
            return {None if is_gone else version for version, is_gone in reached}
        reached = more


@settings(max_examples=500)
@given(st.lists(_VERSION, max_size=3), st.lists(_VERSION, min_size=1, max_size=4), _GONE)
def test_an_unsettled_key_may_hold_exactly_what_an_interleaving_leads_to(
    before: list[int], open_: list[int], gone: set[int]
) -> None:
    lower = Written(max(before), max(before) in gone) if before else None
    candidates = [Written(version, version in gone) for version in open_]
    fine = {found for found in (None, *range(9)) if judge(lower, candidates, found) is None}
    assert fine == _reachable(before, open_, gone)


_DOCUMENT, _TOMBSTONE = Written(5, False), Written(5, True)


@pytest.mark.parametrize(
    ("lower", "candidates", "found", "drift", "expected"),
    [
        (_DOCUMENT, [Written(7, False)], None, "missing", 7),
        (_DOCUMENT, [Written(7, False)], 4, "stale", 7),
        (_DOCUMENT, [Written(7, False)], 6, "foreign", 7),
        (_DOCUMENT, [Written(7, False)], 8, "foreign", 7),
        (_DOCUMENT, [Written(7, True)], 7, "foreign", None),
        (_DOCUMENT, [Written(3, False)], 3, "stale", 5),  # a page that came late
        (_TOMBSTONE, [Written(7, True)], 4, "extra", None),
        (_TOMBSTONE, [Written(7, False)], 4, "stale", 7),
        (None, [Written(7, True)], 3, "extra", None),
        (None, [Written(7, False)], 3, "foreign", 7),
    ],
)
def test_an_unsettled_key_that_drifted_is_classed(
    lower: Written | None, candidates: list[Written], found: int | None, drift: str, expected: int | None
) -> None:
    assert judge(lower, candidates, found) == drift
    assert expected_version(lower, candidates) == expected


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
