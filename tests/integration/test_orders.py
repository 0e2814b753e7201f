"""A worker's consumer, told by the run's topic when to take work; on a real broker."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer
from load import wait_for

from reshelve.control import ControlReader, ControlWriter, read_control
from reshelve.kafka import KafkaCluster
from reshelve.local.stack import Endpoints
from reshelve.model import RunId
from reshelve.orders import Orders
from reshelve.reporter import Reporter
from reshelve.spec import Limits
from reshelve.throttle import Throttle

_PARTITIONS = 2
_RECORDS = 20


class Worker:
    """As each role does it: admitted, it takes what comes; else it polls all the same."""

    def __init__(self, cluster: KafkaCluster, run: RunId, name: str) -> None:
        self.throttle = Throttle(100.0, None)
        self.reporter = Reporter(cluster, run, "pages", name, stop=threading.Event())
        limits = Limits(documents_per_second=100.0)
        self.orders = Orders.of_run(cluster, run, limits, self.throttle, self.reporter)
        self.consumer: Consumer = cluster.consumer(run.group("pages"))
        self.consumer.subscribe([run.topic("pages")], on_assign=self.orders.on_assign)
        self.taken = 0

    def work(self, seconds: float = 0.1) -> None:
        self.orders.admit(self.consumer)
        messages = self.consumer.consume(5, seconds)
        self.taken += sum(message.error() is None for message in messages)

    def held(self) -> int:
        return len(self.consumer.assignment())

    def close(self) -> None:
        self.consumer.close()
        self.orders.close()
        self.reporter.close()


@pytest.fixture
def cluster(endpoints: Endpoints) -> KafkaCluster:
    return KafkaCluster(endpoints.kafka_bootstrap)


@pytest.fixture
def run(cluster: KafkaCluster, namespace: str) -> RunId:
    run = RunId(namespace, "1")
    for name, partitions in (("pages", _PARTITIONS), ("control", 1), ("progress", 1)):
        cluster.create_topic(run.topic(name), partitions, {}, None)
    cluster.start_group(run.group("pages"), run.topic("pages"), _PARTITIONS)
    producer = cluster.producer()
    for number in range(_RECORDS):
        producer.produce(run.topic("pages"), str(number).encode(), partition=number % _PARTITIONS)
    assert producer.flush(30) == 0
    return run


@pytest.fixture
def workers(cluster: KafkaCluster, run: RunId) -> Iterator[list[Worker]]:
    made: list[Worker] = []
    yield made
    for worker in made:
        worker.close()


def test_what_was_said_before_a_worker_started_holds_for_it(
    cluster: KafkaCluster, run: RunId, workers: list[Worker]
) -> None:
    said = ControlWriter(cluster, run)
    said.send("throttle", "jane", "", {"documents_per_second": 7.0})
    said.send("pause", "jane", "the cluster is moved")
    first = Worker(cluster, run, "a")
    workers.append(first)
    assert first.orders.paused and first.throttle.documents_per_second == 7.0

    def all_at(number: int) -> bool:
        for worker in workers:
            worker.work()
        return sum(worker.held() for worker in workers) == _PARTITIONS and len(workers) == number

    wait_for("it is in its group", lambda: all_at(1))
    workers.append(Worker(cluster, run, "b"))
    wait_for("both are", lambda: all_at(2) and all(worker.held() for worker in workers))
    for _ in range(10):  # their partitions have come while the run was paused, and bring nothing
        all_at(2)
    assert [worker.taken for worker in workers] == [0, 0]

    said.send("resume", "joe", "")
    said.send("throttle", "joe", "", {"reset": True})
    wait_for("all is taken", lambda: all_at(2) and sum(worker.taken for worker in workers) == _RECORDS)
    assert [worker.throttle.documents_per_second for worker in workers] == [100.0, 100.0]

    said.send("abort", "jane", "not wanted")
    wait_for("both stop", lambda: all_at(2) and all(worker.reporter.stop.is_set() for worker in workers))


def test_a_reader_that_starts_later_knows_all_that_was_said(cluster: KafkaCluster, run: RunId) -> None:
    said = ControlWriter(cluster, run)
    assert read_control(cluster, run, timeout=10).pause is None
    for kind in ("pause", "resume", "pause"):
        said.send(kind, "jane", kind)
    reader = ControlReader(cluster, run)
    state = reader.catch_up()
    assert [command.kind for command in reader.commands] == ["pause", "resume", "pause"]
    assert [command.offset for command in reader.commands] == [0, 1, 2]
    assert state == read_control(cluster, run, timeout=10)
    said.post("resume", "jane", "")
    wait_for("it follows", lambda: reader.poll().pause is None)
    assert reader.poll() is reader.poll() and reader.commands == []
    reader.close()
