"""What of a topic a replay reads: where it begins, where it ends, and which records it takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from confluent_kafka import KafkaError

from reshelve.consumers.replay import Extent, Placed, Remainder, Start, Stretch, deletes, only, places
from reshelve.errors import BlockedError, UsageError

_EXTENT = Extent({0: 0, 1: 0, 2: 0}, {0: 10, 1: 20, 2: 0})


@dataclass(frozen=True)
class _Message:
    at: tuple[int, int]
    code: int | None = None

    def partition(self) -> int | None:
        return self.at[0]

    def offset(self) -> int | None:
        return self.at[1]

    def error(self) -> KafkaError | None:
        return None if self.code is None else KafkaError(self.code)


def _end_of(partition: int, offset: int) -> _Message:
    return _Message((partition, offset), KafkaError._PARTITION_EOF)


def _stretch(ends: dict[int, int], **starts: int) -> Stretch:
    return Stretch("group", dict.fromkeys(ends, 0) | {int(p[1:]): offset for p, offset in starts.items()}, ends)


def _cut(remainder: Remainder, *messages: _Message) -> tuple[list[Placed], dict[int, int]]:
    found: tuple[list[Any], dict[int, int]] = remainder.cut(messages)
    return found


def test_the_record_before_the_end_is_the_last_one() -> None:
    remainder = Remainder(_stretch({0: 2}))
    first, last, behind = _Message((0, 0)), _Message((0, 1)), _Message((0, 2))
    assert _cut(remainder, first) == ([first], {})
    assert remainder
    assert _cut(remainder, last, behind) == ([last], {0: 2})
    assert not remainder
    assert _cut(remainder, _Message((0, 3))) == ([], {})


def test_an_end_without_a_record_before_it_is_known_by_what_stands_behind() -> None:
    by_record, by_eof = Remainder(_stretch({0: 5})), Remainder(_stretch({0: 5}))
    kept = _Message((0, 3))
    assert _cut(by_record, kept, _Message((0, 7))) == ([kept], {0: 5})
    assert _cut(by_eof, kept, _end_of(0, 5)) == ([kept], {0: 5})


def test_an_end_of_partition_before_the_end_does_not_end_it() -> None:
    remainder = Remainder(_stretch({0: 5}))
    early = _end_of(0, 4)
    assert _cut(remainder, early) == ([early], {})
    assert remainder


def test_partitions_end_one_by_one_and_errors_are_handed_on() -> None:
    remainder = Remainder(_stretch({0: 1, 1: 2, 2: 4}, p2=4))  # of partition 2 nothing is left
    trouble = _Message((0, 0), KafkaError._ALL_BROKERS_DOWN)
    one, other = _Message((0, 0)), _Message((1, 0))
    assert _cut(remainder, trouble, one, other, _Message((2, 4))) == ([trouble, one, other], {0: 1})
    assert _cut(remainder, _Message((0, 1)), _end_of(1, 2)) == ([], {1: 2})
    assert not remainder


def test_from_the_beginning_without_what_is_empty_or_not_needed() -> None:
    assert places("t", Start(), _EXTENT, {}, range(3)) == {0: 0, 1: 0}
    assert places("t", Start(), _EXTENT, {}, [1, 2]) == {1: 0}


def test_from_a_time_without_partitions_that_have_nothing_since() -> None:
    assert places("t", Start(at=5), _EXTENT, {0: -1, 1: 7, 2: -1}, range(3)) == {1: 7}


def test_from_offsets_without_partitions_that_are_not_named() -> None:
    assert places("t", Start(offsets=((1, 3),)), _EXTENT, {}, range(3)) == {1: 3}
    assert places("t", Start(offsets=((1, 20),)), _EXTENT, {}, range(3)) == {}


@pytest.mark.parametrize("place", [(3, 0), (0, 11)])
def test_an_offset_that_the_topic_never_had(place: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="has no offset"):
        places("t", Start(offsets=(place,)), _EXTENT, {}, range(3))


def test_records_that_are_gone() -> None:
    extent = Extent({0: 4, 1: 0, 2: 0}, _EXTENT.ends)
    for start in (Start(), Start(offsets=((0, 3),))):
        with pytest.raises(BlockedError) as refused:
            places("t", start, extent, {}, range(3))
        assert refused.value.where == "t/0"
        assert "before offset 4" in refused.value.why
    assert places("t", Start(), extent, {}, [1]) == {1: 0}
    assert places("t", Start(offsets=((0, 4),)), extent, {}, range(3)) == {0: 4}
    assert places("t", Start(at=1), extent, {0: 4, 1: 0, 2: -1}, range(3)) == {0: 4, 1: 0}


def test_keys_and_deletes() -> None:
    assert only(None) is None
    some = only(frozenset([b"a"]))
    assert some is not None
    assert some(b"a", b"{}")
    assert some(b"a", None)
    assert not some(b"b", b"{}")
    assert deletes(None)(b"b", None)
    assert not deletes(None)(b"b", b"{}")
    assert not deletes(frozenset([b"a"]))(b"b", None)
