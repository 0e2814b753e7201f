from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reshelve.model import add_checksums, document_checksum, partition_of
from reshelve.validator.measure import Accumulator, Reservoir, bucket_of

_DOCUMENTS = st.lists(st.tuples(st.binary(max_size=40), st.integers(1, 2**53 - 1)), max_size=200)


@given(_DOCUMENTS, st.integers(1, 9), st.integers(1, 16))
def test_sums_fall_where_the_partitioner_puts_the_key(
    documents: list[tuple[bytes, int]], partitions: int, buckets: int
) -> None:
    sums = Accumulator(partitions, buckets)
    for key, version in documents:
        assert sums.add(key, version) == partition_of(key, partitions) == bucket_of(key, partitions, buckets)[0]
    for partition in range(partitions):
        mine = [(k, v) for k, v in documents if partition_of(k, partitions) == partition]
        part = sums.partition(partition)
        assert part.documents == len(mine)
        assert part.checksum == add_checksums(document_checksum(k, v) for k, v in mine)


def _sample(size: int, length: int, seed: str) -> list[int]:
    reservoir: Reservoir[int] = Reservoir(size, seed)
    for number in range(length):
        if number == reservoir.next:
            reservoir.take(number)
    return reservoir.items


@pytest.mark.parametrize(("size", "length", "taken"), [(0, 10, 0), (5, 0, 0), (5, 3, 3), (5, 5, 5), (5, 10_000, 5)])
def test_a_sample_has_the_size_asked_for_and_no_place_twice(size: int, length: int, taken: int) -> None:
    items = _sample(size, length, "seed")
    assert len(items) == len(set(items)) == taken


def test_the_same_seed_takes_the_same_sample() -> None:
    assert _sample(10, 5_000, "a") == _sample(10, 5_000, "a") != _sample(10, 5_000, "b")


def test_every_place_is_equally_likely() -> None:
    taken = Counter(number // 10 for trial in range(4_000) for number in _sample(5, 100, str(trial)))
    # 20,000 draws over 10 tenths: 2,000 each, standard deviation about 42.
    assert all(1_800 < taken[tenth] < 2_200 for tenth in range(10)), taken
