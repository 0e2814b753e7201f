"""How far a run is, read from a real Kafka: never further than it is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka import Producer, TopicPartition

from reshelve.applied import Applied
from reshelve.context import RunContext
from reshelve.kafka import KafkaCluster
from reshelve.local.stack import Endpoints
from reshelve.model import ChangePlan, Receipt, RunId, Segment
from reshelve.progress import Progress, ProgressReader
from reshelve.schemas.codec import encode_receipt
from reshelve.schemas.reject import Reject


class HandmadeRun:
    """A run of one segment whose page reader and indexer are the test itself."""

    def __init__(self, bootstrap: str, namespace: str, changes: ChangePlan) -> None:
        self.cluster, self.run = KafkaCluster(bootstrap), RunId(namespace, "1")
        topics = []
        for name in ("pages", "changes", "documents", "rejects", "progress", "checks"):
            self.cluster.create_topic(self.run.topic(name), 1, {}, None)
            topics.append(SimpleNamespace(name=self.run.topic(name)))
        self.cluster.start_group(self.run.group("indexer"), self.run.topic("documents"), 1)
        self.cluster.start_group(self.run.group("keys"), self.run.topic("changes"), 1)
        plan = SimpleNamespace(segments=(Segment(0, None, None),), topics=topics, changes=changes)
        context = SimpleNamespace(cluster=self.cluster, run=self.run, partitions=1, plan=plan)
        self.reader = ProgressReader(cast(RunContext, context))

    def begin(self, name: str) -> Producer:
        producer = self.cluster.producer({"transactional.id": self.run.prefix + name})
        producer.init_transactions(30)
        producer.begin_transaction()
        return producer

    def index(self, offset: int, applied: Applied | None = None) -> None:
        """What an indexer does when it has passed an offset."""
        metadata = applied.encode() if applied else ""
        group, place = self.run.group("indexer"), TopicPartition(self.run.topic("documents"), 0, offset, metadata)
        self.cluster.place_group(group, [place])

    def await_stable(self) -> int:
        """The end of `documents` once no transaction is open: its marker comes a moment after its commit."""
        topic = self.run.topic("documents")
        while (ends := self.cluster.written_ends(topic, 1)) != self.cluster.stable_ends(topic, 1):
            time.sleep(0.02)
        return ends[0]

    def await_progress(self, **wanted: Any) -> Progress:
        for _ in range(200):
            progress = self.reader.poll()
            if all(getattr(progress, name) == value for name, value in wanted.items()):
                return progress
        raise AssertionError(f"never {wanted}: {progress}")


@pytest.fixture
def handmade(endpoints: Endpoints, namespace: str) -> Iterator[HandmadeRun]:
    run = HandmadeRun(endpoints.kafka_bootstrap, namespace, ChangePlan("none"))
    yield run
    run.reader.close()


@pytest.fixture
def followed(endpoints: Endpoints, namespace: str) -> Iterator[HandmadeRun]:
    run = HandmadeRun(endpoints.kafka_bootstrap, namespace, ChangePlan("replication", "slot"))
    yield run
    run.reader.close()


def test_a_page_that_came_just_now_is_not_indexed_yet(handmade: HandmadeRun) -> None:
    """The ends of the topic were looked at a moment before its documents came."""
    run = handmade
    run.await_progress(ends={0: 0}, drained=True)
    page = run.begin("pages.a")
    page.produce(run.run.topic("documents"), b"document", b"1")
    page.produce(run.run.topic("progress"), encode_receipt(Receipt(0, None, None, 1, 1, 0, 0, 8, 5, 7)))
    page.commit_transaction(30)
    while not (progress := run.reader.poll()).tiling.complete:
        assert not progress.tiling.faults
    assert not progress.drained
    stable = run.await_stable()
    left_open = run.begin("pages.b")
    left_open.produce(run.run.topic("documents"), b"document", b"2")
    assert left_open.flush(30) == 0
    run.index(stable)
    assert not run.await_progress(committed={0: stable}).drained
    left_open.abort_transaction(30)
    run.index(run.await_stable())
    run.await_progress(drained=True)


def test_rejects_are_counted_by_key(handmade: HandmadeRun) -> None:
    """A document that was delivered twice is one; the ends of transactions are none."""
    run = handmade
    for key in ("1", "2", "1"):
        page = run.begin("pages.a")
        reject = Reject(key, None, "read", "DocumentTooLarge", "too large")
        page.produce(run.run.topic("rejects"), reject.document, key, headers=reject.headers())
        page.commit_transaction(30)
    run.await_progress(rejects=2)
    assert run.cluster.written_ends(run.run.topic("rejects"), 1)[0] > 3


def test_seconds_behind_are_those_of_the_committed_watermark(followed: HandmadeRun) -> None:
    run = followed
    assert run.await_progress(ends={0: 0}).seconds_behind is None
    changes = run.cluster.producer()
    changes.produce(run.run.topic("changes"), b"task", b"1")
    assert changes.flush(30) == 0
    run.await_progress(change_lag=1)
    hour_ago = int(time.time() * 1000) - 3_600_000
    run.index(0, Applied(7, hour_ago))
    progress = run.await_progress(applied={0: Applied(7, hour_ago)})
    assert progress.applied_at == hour_ago
    assert progress.seconds_behind is not None and progress.seconds_behind >= 3600
    assert progress.as_dict()["applied"] == {"0": 7}
