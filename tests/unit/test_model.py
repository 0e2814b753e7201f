from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from reshelve.model import (
    CLOCK_BITS,
    MAX_EPOCH,
    RunId,
    add_checksums,
    document_checksum,
    join_key,
    make_version,
    partition_of,
    split_key,
)

# Texts full of what the key's syntax means something by.
_PART = st.text(st.sampled_from("ab|\\ é\n\U0001f600") | st.characters(exclude_categories=["Cs"]), max_size=8)
_PARTS = st.lists(_PART, min_size=1, max_size=4)


@given(_PARTS)
def test_a_key_comes_apart_into_what_it_was_joined_from(parts: Sequence[str]) -> None:
    assert split_key(join_key(parts), len(parts)) == tuple(parts)


@given(st.integers(1, 3).flatmap(lambda n: st.tuples(*[st.lists(_PART, min_size=n, max_size=n)] * 2)))
def test_keys_of_as_many_columns_never_collide(pair: tuple[list[str], list[str]]) -> None:
    one, other = pair
    assume(one != other)
    assert join_key(one) != join_key(other)


def test_a_single_column_stands_for_itself() -> None:
    assert join_key(["a|b\\c"]) == "a|b\\c"
    assert join_key(["a|b", "c\\d", ""]) == "a\\|b|c\\\\d|"


@given(_PARTS, st.integers(2, 5))
def test_a_key_of_other_columns_is_refused(parts: Sequence[str], columns: int) -> None:
    assume(len(parts) != columns and len(parts) > 1)
    with pytest.raises(ValueError, match=f"not a key of {columns} columns"):
        split_key(join_key(parts), columns)


@given(st.integers(0, MAX_EPOCH), st.integers(1, (1 << CLOCK_BITS) - 1))
def test_versions_order_by_epoch_then_clock_and_survive_doubles(epoch: int, clock: int) -> None:
    version = make_version(epoch, clock)
    assert divmod(version, 1 << CLOCK_BITS) == (epoch, clock)
    assert int(float(version)) == version


@pytest.mark.parametrize(("epoch", "clock"), [(-1, 1), (MAX_EPOCH + 1, 1), (0, 0), (0, 1 << CLOCK_BITS)])
def test_a_version_out_of_range_is_refused(epoch: int, clock: int) -> None:
    with pytest.raises(ValueError, match="is not in"):
        make_version(epoch, clock)


@given(st.lists(st.tuples(st.binary(max_size=5), st.integers(0, 1 << 52)), max_size=20), st.randoms())
def test_checksums_do_not_depend_on_the_order(documents: list[tuple[bytes, int]], random: object) -> None:
    sums = [document_checksum(key, version) for key, version in documents]
    assert add_checksums(sums) == add_checksums(reversed(sums)) < 1 << 64
    assert add_checksums([add_checksums(sums[:7]), add_checksums(sums[7:])]) == add_checksums(sums)


@given(st.binary(max_size=8), st.integers(0, 1 << 52), st.integers(0, 1 << 52))
def test_another_version_is_another_checksum(key: bytes, one: int, other: int) -> None:
    assume(one != other)
    assert document_checksum(key, one) != document_checksum(key, other)


@given(st.binary(max_size=20), st.integers(1, 100))
def test_every_key_has_a_partition(key: bytes, partitions: int) -> None:
    assert 0 <= partition_of(key, partitions) < partitions


def test_a_run_is_written_as_it_is_read() -> None:
    run = RunId("my-index_2", "20260102-030405-k3xq")
    assert RunId.parse(str(run)) == run
    assert run.topic("pages") == "reshelve.my-index_2.20260102-030405-k3xq.pages"
    for text in ("", "name", ".name", "reindex."):
        with pytest.raises(ValueError, match="not a run"):
            RunId.parse(text)
