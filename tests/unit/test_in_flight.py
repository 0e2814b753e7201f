from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reshelve.applied import Applied
from reshelve.consumers.in_flight import Batch, InFlight, Place
from reshelve.model import Watermark


@dataclass(frozen=True)
class Written:
    version: int


def batch(*keys: bytes, **offsets: int) -> Batch[Written]:
    made = Batch[Written](offsets={int(name[1:]): offset for name, offset in offsets.items()})
    for key in keys:
        made.add(key, Written(1))
    return made


def mark(version: int) -> Watermark:
    return Watermark(version, version * 1000, 0)


def test_of_one_key_the_newest_version_is_written() -> None:
    made = batch()
    for version in (3, 7, 7, 5):
        made.add(b"k", Written(version))
    made.add(b"j", Written(1))
    assert made.items == {b"k": Written(7), b"j": Written(1)}
    assert made.superseded == 3


def test_a_batch_waits_for_room_and_for_its_keys() -> None:
    under_way = InFlight[Batch[Written]](2)
    under_way.submit(batch(b"a", b"b", p0=2))
    assert not under_way.may_submit(batch(b"b", p0=3))
    with pytest.raises(ValueError, match="under way"):
        under_way.submit(batch(b"b", p0=3))
    under_way.submit(batch(b"c", p0=3))
    assert not under_way.may_submit(batch(p0=4))
    under_way.finish()
    assert under_way.may_submit(batch(b"b", p0=4))


def test_a_clock_that_was_committed_before_outlives_commits_without_a_watermark() -> None:
    under_way = InFlight[Batch[Written]](2)
    under_way.submit(batch(b"a", p0=8))
    under_way.finish()
    assert under_way.unrecalled() == [0]
    assert under_way.to_commit() == {}
    under_way.recall(0, Applied(5, 5000))
    assert under_way.to_commit() == {0: Place(8, Applied(5, 5000))}
    under_way.committed()
    assert under_way.to_commit() == {}
    older = batch(p0=9)
    older.mark(0, mark(4))  # of a tailer that was thought dead
    under_way.submit(older)
    under_way.finish()
    assert under_way.to_commit() == {0: Place(9, Applied(5, 5000))}


def test_what_is_another_workers_is_not_committed_nor_its_clock_kept() -> None:
    under_way = InFlight[Batch[Written]](3)
    done, on_its_way = batch(b"a", p0=5, p1=5), batch(b"b", p0=6, p1=6)
    on_its_way.mark(0, mark(2))
    for each in (done, on_its_way):
        under_way.submit(each)
    under_way.finish()
    under_way.recall(0, None)
    under_way.recall(1, None)
    under_way.forget([0])
    under_way.finish()
    assert under_way.to_commit() == {1: Place(6, None)}
    under_way.submit(batch(b"c", p0=9))
    under_way.finish()
    assert under_way.unrecalled() == [0]
    under_way.disown()
    assert under_way.unrecalled() == []


@dataclass
class Partition:
    """A partition's records: a key with a version, or the version of a watermark."""

    records: list[tuple[bytes | None, int]] = field(default_factory=list)
    committed: int = 0
    clock: int = 0


class Simulation:
    """Workers that come and go over a topic of two partitions, whose requests complete in any order, some of them
    after their worker's death. What a sink that keeps the highest version holds must bear out every commit."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.topic = {p: self._partition(p) for p in (0, 1)}
        self.sink: dict[bytes, int] = {}
        self._start()

    def _partition(self, number: int) -> Partition:
        clock, made = 0, Partition()
        for _ in range(self.random.randrange(1, 40)):
            clock += self.random.randrange(2)
            key = b"%d.%d" % (number, self.random.randrange(6))
            made.records.append((None, clock) if self.random.random() < 0.3 else (key, clock + 1))
        return made

    def _start(self) -> None:
        self.in_flight = InFlight[Batch[Written]](self.random.randrange(1, 5))
        self.unsent: list[Batch[Written]] = []
        self.place = {p: partition.committed for p, partition in self.topic.items()}

    def _read(self) -> Batch[Written]:
        made = Batch[Written]()
        for _ in range(self.random.randrange(1, 8)):
            p = self.random.randrange(2)
            if self.place[p] == len(self.topic[p].records):
                continue
            key, version = self.topic[p].records[self.place[p]]
            self.place[p] += 1
            made.offsets[p] = self.place[p]
            if key is None:
                made.mark(p, mark(version))
            else:
                made.add(key, Written(version))
        return made

    def _complete(self, request: Batch[Written]) -> None:
        self.unsent.remove(request)
        for key, item in request.items.items():
            self.sink[key] = max(item.version, self.sink.get(key, 0))

    def step(self) -> None:
        match self.random.choice(("read", "read", "answer", "finish", "commit", "die")):
            case "read":
                made = self._read()
                while not self.in_flight.may_submit(made):
                    self._finish()
                self.in_flight.submit(made)
                self.unsent.append(made)
            case "answer" if self.unsent:
                self._complete(self.random.choice(self.unsent))
            case "finish" if self.in_flight:
                self._finish()
            case "commit":
                self._commit()
            case "die" if self.random.random() < 0.3:
                for request in list(self.unsent):
                    if self.random.random() < 0.5:
                        self._complete(request)
                self._start()

    def _finish(self) -> None:
        if any(request is self.in_flight.oldest for request in self.unsent):
            self._complete(self.in_flight.oldest)
        self.in_flight.finish()

    def _commit(self) -> None:
        for p in self.in_flight.unrecalled():
            clock = self.topic[p].clock
            self.in_flight.recall(p, Applied(clock, clock * 1000) if clock else None)
        for p, place in self.in_flight.to_commit().items():
            partition = self.topic[p]
            assert partition.committed <= place.offset
            passed = partition.records[: place.offset]
            for key, version in passed:
                assert key is None or self.sink.get(key, 0) >= version, "committed before it was durable"
            clocks = [version for key, version in passed if key is None]
            clock = place.applied.version if place.applied else 0
            assert clock == max(clocks, default=0), "the applied clock is the newest watermark in the prefix"
            partition.committed, partition.clock = place.offset, clock
        self.in_flight.committed()

    def drain(self) -> None:
        while any(self.place[p] < len(partition.records) for p, partition in self.topic.items()) or self.in_flight:
            if not self.in_flight:
                made = self._read()
                self.in_flight.submit(made)
                self.unsent.append(made)
            self._finish()
        self._commit()
        assert all(partition.committed == len(partition.records) for partition in self.topic.values())


def test_of_watermarks_of_one_version_the_latest_counts() -> None:
    made = batch()
    for at in (1, 2):
        made.mark(0, Watermark(7, at, 0))
    assert made.watermarks[0].at == 2


@given(st.integers(min_value=0))
def test_commits_are_borne_out_by_the_sink_whatever_happens(seed: int) -> None:
    simulation = Simulation(seed)
    for _ in range(80):
        simulation.step()
    simulation.drain()
