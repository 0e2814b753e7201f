"""The indexer on real servers: live changes in `documents`, and the applied clock that goes with its offsets."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from confluent_kafka import ConsumerGroupState
from filled_run import FilledRun, fill

from reshelve.applied import Applied
from reshelve.consumers.rejects import read_ledger
from reshelve.journal import JournalWriter, create_journal
from reshelve.local.stack import Endpoints

_PARTITIONS = 3
_TIMEOUT_S = 90


class Indexed:
    """A filled run whose topic is indexed by workers of the test's."""

    def __init__(self, run: FilledRun, folder: Path) -> None:
        self.run, self.context, self._folder = run, run.context, folder
        cluster = self.context.cluster
        create_journal(cluster, None)
        journal = JournalWriter(cluster, self.context.run)
        journal.append("planned", {"plan": self.context.plan.as_dict()})
        journal.append("created", {"uuid": run.uuid})
        cluster.start_group(self.group, self.topic, _PARTITIONS)

    @property
    def group(self) -> str:
        return self.context.run.group("indexer")

    @property
    def topic(self) -> str:
        return self.context.run.topic("documents")

    @contextmanager
    def worker(self, name: str) -> Iterator[subprocess.Popen[bytes]]:
        """An indexer, with its part of the partitions."""
        before = len(self._members())
        command = [sys.executable, "-m", "reshelve", "worker", "indexer", str(self.context.run), "--with-parent"]
        with (self._folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [*command, "--name", name], env=os.environ | self.run.environ, stdin=subprocess.PIPE, stderr=log
            )
        try:
            self.wait(lambda: len(self._members()) == before + 1 and all(self._members().values()), process)
            yield process
        finally:
            process.terminate()
            process.wait(30)
            assert process.stdin is not None
            process.stdin.close()

    def _members(self) -> dict[str, int]:
        """Partitions that each member of the stable group holds."""
        found = self.context.cluster.admin.describe_consumer_groups([self.group])[self.group].result()
        if found.state != ConsumerGroupState.STABLE:
            return {}
        return {member.member_id: len(member.assignment.topic_partitions) for member in found.members}

    def wait(self, done: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _TIMEOUT_S
        while not done():
            assert process.poll() is None, "the indexer has ended"
            assert time.monotonic() < deadline, "it takes too long"
            time.sleep(0.05)

    def await_end(self, process: subprocess.Popen[bytes]) -> None:
        """Until everything that is in the topic now is committed."""
        ends = self.context.cluster.stable_ends(self.topic, _PARTITIONS)
        self.wait(lambda: self.context.cluster.committed(self.group, self.topic, _PARTITIONS) == ends, process)

    def clocks(self) -> list[Applied | None]:
        places = self.context.cluster.committed_places(self.group, self.topic, _PARTITIONS)
        return [Applied.decode(place.metadata) for place in places.values()]

    def found(self) -> dict[str, object]:
        """What the index holds."""
        self.run.client.indices.refresh(index=self.run.index)
        hits = self.run.client.search(index=self.run.index, params={"size": "1000"})["hits"]["hits"]
        return {hit["_id"]: hit["_source"] for hit in hits}


@pytest.fixture
def indexed(endpoints: Endpoints, database: str, namespace: str, tmp_path: Path) -> Indexed:
    run = fill(endpoints, database, namespace, tmp_path, rows=30, partitions=_PARTITIONS)
    return Indexed(run, tmp_path)


def test_repeated_keys_tombstones_and_watermarks(indexed: Indexed) -> None:
    run, first = indexed.run, indexed.run.version
    run.produce([(b"1", b'{"name":"one"}'), (b"2", None), (b"3", b'{"name":"three"}')], first + 1)
    run.watermark("documents", first + 1)
    run.produce([(b"1", b'{"name":"newest"}'), (b"3", None), (b"4", None), (b"4", None)], first + 3)
    run.produce([(b"1", b'{"name":"stale"}'), (b"3", b'{"name":"stale"}'), (b"4", b'{"name":"stale"}')], first + 2)
    run.produce([(b"4", b'{"name":"back"}'), (b"nowhere", None)], first + 4)
    run.watermark("documents", first + 4)
    with indexed.worker("a") as worker:
        indexed.await_end(worker)
        run.watermark("documents", first + 5)
        indexed.await_end(worker)
    assert indexed.clocks() == [Applied(first + 5, 0)] * _PARTITIONS
    expected = {key.decode(): orjson.loads(document) for key, document in run.documents.items()}
    expected |= {"1": {"name": "newest"}, "4": {"name": "back"}}
    del expected["2"], expected["3"]
    assert indexed.found() == expected
    assert not list(read_ledger(indexed.context.cluster, indexed.context.run))


def test_the_applied_clock_survives_a_rebalance_and_a_kill(indexed: Indexed) -> None:
    run, clock = indexed.run, Applied(indexed.run.version + 1, 0)
    keys = [f"{n}".encode() for n in range(30)]  # some of every partition
    run.watermark("documents", clock.version)
    with indexed.worker("a") as first:
        indexed.await_end(first)
        assert indexed.clocks() == [clock] * _PARTITIONS
        with indexed.worker("b") as second:
            run.produce([(key, b'{"name":"two workers"}') for key in keys], clock.version + 1)
            indexed.await_end(second)
            assert indexed.clocks() == [clock] * _PARTITIONS
            first.kill()
            run.produce([(key, b'{"name":"one worker"}') for key in keys], clock.version + 2)
            indexed.await_end(second)
            assert indexed.clocks() == [clock] * _PARTITIONS
            run.watermark("documents", clock.version + 2)
            indexed.await_end(second)
    assert indexed.clocks() == [replace(clock, version=clock.version + 2)] * _PARTITIONS
    assert all(document == {"name": "one worker"} for key, document in indexed.found().items() if key.encode() in keys)
