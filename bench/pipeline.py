"""Ours: worker processes as an operator starts them, on a run that is made by hand so that each can be timed alone.

Timing begins when the worker has its partitions and there is work for it, so neither the start of a Python
interpreter nor the joining of a group counts: they are the same for ten thousand documents and a billion. It ends
when the work is recorded as done: every receipt committed, every offset committed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import orjson
from confluent_kafka import OFFSET_BEGINNING, ConsumerGroupState, TopicPartition

from bench.dataset import DEFINITION, KEY, QUERY
from bench.measure import Measured, Stopwatch
from reshelve import cleanup
from reshelve.consumers import generation
from reshelve.context import RunContext
from reshelve.journal import JournalWriter, create_journal
from reshelve.model import Receipt
from reshelve.plan import make_plan
from reshelve.producers.tasks import seed_pages
from reshelve.receipts import tile
from reshelve.schemas.codec import RECEIPT, decode_receipt, schema_of
from reshelve.spec import load
from reshelve.state import RunState

PARTITIONS = 4
_TIMEOUT_S = 900.0
_SPEC = f"""\
reindex: bench
source:
  postgres:
    url: ${{SOURCE_URL}}
    key: {KEY}
    query: {QUERY}
target:
  opensearch:
    url: ${{OPENSEARCH_URL}}
    alias: reshelve-bench
    index: bench.index.json
kafka:
  bootstrap: ${{KAFKA_BOOTSTRAP}}
  partitions: {PARTITIONS}
"""


class BenchRun:
    """A run with its topics, groups and index, and nobody working on it yet.

    environ  of its workers, besides ours"""

    def __init__(self, folder: Path, documents: int, environ: Mapping[str, str] | None = None) -> None:
        (folder / "bench.index.json").write_bytes(orjson.dumps(DEFINITION))
        (folder / "bench.yaml").write_text(_SPEC)
        spec = load(folder / "bench.yaml")
        plan = make_plan(spec)
        self.context, self.documents, self._folder = RunContext(plan, spec), documents, folder
        self._environ = {**os.environ, **(environ or {})}
        self._processes: list[subprocess.Popen[bytes]] = []
        cluster, run = self.context.cluster, self.context.run
        create_journal(cluster, spec.kafka.replication_factor)
        self._journal = JournalWriter(cluster, run)
        self._state = RunState(run)
        self._state.take(self._journal.append("planned", {"plan": plan.as_dict()}))
        for topic in plan.topics:
            cluster.create_topic(topic.name, topic.partitions, topic.config, spec.kafka.replication_factor)
        cluster.start_group(run.group("pages"), run.topic("pages"), PARTITIONS)
        cluster.start_group(run.group("keys"), run.topic("changes"), PARTITIONS)
        cluster.start_group(run.group("indexer"), run.topic("documents"), PARTITIONS)
        uuid = generation.create(self.context.opensearch, plan.index, plan.write_alias, plan.definition)
        self._state.take(self._journal.append("created", {"uuid": uuid}))

    def source_to_topic(self) -> Measured:
        """One page reader, from the first task to the last receipt."""
        with self._workers("pages") as pids:
            stopwatch = self._seed(pids)
            self._await_receipts()
            return stopwatch.stop(self.documents)

    def topic_to_index(self) -> Measured:
        """One indexer on a full topic, from its assignment to the last commit."""
        with self._workers("indexer") as pids:
            stopwatch = Stopwatch(pids)
            self._await_drained()
            return stopwatch.stop(self.documents)

    def end_to_end(self) -> Measured:
        """One of each, from the first task until everything is indexed and committed."""
        with self._workers("pages", "indexer") as pids:
            stopwatch = self._seed(pids)
            self._await_receipts()
            self._await_drained()
            return stopwatch.stop(self.documents)

    @property
    def index(self) -> str:
        return self.context.plan.index

    def remove(self) -> None:
        """Topics, groups and index; the run ends in the journal."""
        self._state.take(self._journal.append("aborted", {"why": "the benchmark is done"}))
        cleanup.remove(self.context, cleanup.find_leftovers(self.context, self._state))
        self._journal.append("cleaned", {})

    def _seed(self, pids: Sequence[int]) -> Stopwatch:
        seed_pages(self.context.cluster, self.context.run, self.context.plan.segments, PARTITIONS)
        return Stopwatch(pids)

    @contextmanager
    def _workers(self, *roles: str) -> Iterator[list[int]]:
        """A process of each role, up and with its partitions assigned."""
        processes: list[subprocess.Popen[bytes]] = []
        log = (self._folder / "workers.log").open("ab")
        try:
            for role in roles:
                command = [sys.executable, "-m", "reshelve", "worker", role, str(self.context.run)]
                processes.append(
                    subprocess.Popen(
                        [*command, "--with-parent", "--name", "bench"],
                        stdin=subprocess.PIPE,
                        stdout=log,
                        stderr=log,
                        env=self._environ,
                    )
                )
            self._processes += processes
            self._wait(lambda: all(self._assigned(role) for role in roles))
            yield [process.pid for process in processes]
        finally:
            self._processes = [process for process in self._processes if process not in processes]
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(60)
            log.close()

    def _wait(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _TIMEOUT_S
        while not done():
            if any(process.poll() is not None for process in self._processes):
                raise SystemExit("a worker ended: " + (self._folder / "workers.log").read_text()[-2000:])
            if time.monotonic() > deadline:
                raise SystemExit(f"not done within {_TIMEOUT_S:.0f} s")
            time.sleep(0.02)

    def _assigned(self, role: str) -> bool:
        group = self.context.run.group(role)
        found = self.context.cluster.admin.describe_consumer_groups([group])[group].result()
        held = sum(len(member.assignment.topic_partitions) for member in found.members)
        return bool(found.state == ConsumerGroupState.STABLE and held == PARTITIONS)

    def _await_receipts(self) -> None:
        topic = self.context.run.topic("progress")
        consumer = self.context.cluster.consumer("reshelve.bench", {"fetch.wait.max.ms": 10})
        consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
        receipts: list[Receipt] = []

        def complete() -> bool:
            for message in consumer.consume(500, 0.02):
                record = message.value() or b""
                if message.error() is None and schema_of(record) is RECEIPT:
                    receipts.append(decode_receipt(record))
            tiling = tile(self.context.plan.segments, receipts)
            if tiling.complete and tiling.documents != self.documents:
                raise SystemExit(f"{tiling.documents} documents instead of {self.documents}")
            return tiling.complete

        self._wait(complete)
        consumer.close()

    def _await_drained(self) -> None:
        context, topic = self.context, self.context.run.topic("documents")
        ends = context.cluster.stable_ends(topic, PARTITIONS)

        def drained() -> bool:
            committed = context.cluster.committed(context.run.group("indexer"), topic, PARTITIONS)
            return all((committed[p] or 0) >= end for p, end in ends.items())

        self._wait(drained)
