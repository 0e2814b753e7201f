"""A run that is copied, made by hand: a table, a topic that holds its documents, an index of the same.

No page reader and no indexer takes part, so that what is tested is what judges them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import orjson
import psycopg
from confluent_kafka import Producer, TopicPartition
from opensearchpy import OpenSearch

from reshelve.consumers import generation
from reshelve.context import RunContext
from reshelve.local.stack import Endpoints
from reshelve.model import (
    WATERMARK_KEY,
    DriftedKey,
    KeyTask,
    Receipt,
    Segment,
    Watermark,
    add_checksums,
    document_checksum,
    partition_of,
)
from reshelve.plan import make_plan
from reshelve.receipts import Tiling, tile
from reshelve.schemas.codec import decode_drifted_key, encode_key_task, encode_receipt, encode_watermark
from reshelve.schemas.envelope import envelope_head, seal
from reshelve.spec import parse

_SPEC = """
reindex: {namespace}
source:
  postgres:
    url: ${{SOURCE_URL}}
    key: id
    query: select id, name, weight, tags from public.things
target:
  opensearch:
    url: ${{OPENSEARCH_URL}}
    alias: {namespace}-alias
    index: index.json
kafka: {{bootstrap: "${{KAFKA_BOOTSTRAP}}", partitions: {partitions}}}
changes: {changes}
validation: {validation}
"""

_WORKER = """
import logging, sys
from pathlib import Path
from reshelve.context import RunContext
from reshelve.plan import Plan
from reshelve.validator.app import run_validator
logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
plan = Plan.from_json(Path(sys.argv[1]).read_text())
context = RunContext(plan, plan.resolve())
run_validator(context, web_port=0, stop_when_parent_dies=True, on_ready=lambda url: print(url, flush=True))
"""


@dataclass
class FilledRun:
    """A run as the copy leaves it. `documents` are what was read, as JSON by key; `version` that of all."""

    context: RunContext
    tiling: Tiling
    documents: dict[bytes, bytes]
    version: int
    uuid: str
    environ: dict[str, str]
    plan_file: Path

    @cached_property
    def _producer(self) -> Producer:
        """One for all records: each new one takes half a second to find its brokers."""
        return self.context.cluster.producer()

    @property
    def client(self) -> OpenSearch:
        return self.context.opensearch

    @property
    def index(self) -> str:
        return self.context.plan.index

    def key_of_partition(self, partition: int, skip: int = 0) -> str:
        """A key of the partition, the `skip`-th."""
        mine = [k for k in self.documents if partition_of(k, self.context.partitions) == partition]
        return sorted(mine)[skip].decode()

    def produce(self, documents: Sequence[tuple[bytes, bytes | None]], version: int) -> None:
        """Append documents to the topic; None is a tombstone."""
        producer = self._producer
        head = envelope_head(version, 0)
        for key, document in documents:
            value = None if document is None else seal(head, document)
            headers: list[tuple[str, str | bytes | None]] | None
            headers = [("version", str(version).encode())] if document is None else None
            while True:
                try:
                    producer.produce(self.context.run.topic("documents"), value, key, headers=headers)
                    break
                except BufferError:
                    producer.poll(0.1)
        assert producer.flush(30) == 0

    def write_receipts(self, receipts: Sequence[Receipt]) -> None:
        """Append to `progress`, as page readers would."""
        producer = self._producer
        for receipt in receipts:
            producer.produce(self.context.run.topic("progress"), encode_receipt(receipt))
        assert producer.flush(30) == 0

    def change(self, *keys: str) -> None:
        """Append key tasks to `changes`, as the tailer would."""
        producer = self._producer
        for key in keys:
            producer.produce(self.context.run.topic("changes"), encode_key_task(KeyTask(0, 0)), key)
        assert producer.flush(30) == 0

    def watermark(self, topic: str, version: int) -> None:
        """Append a watermark to every partition of `changes` or `documents`."""
        producer = self._producer
        value = encode_watermark(Watermark(version, 0, 0))
        for partition in range(self.context.partitions):
            producer.produce(self.context.run.topic(topic), value, WATERMARK_KEY, partition=partition)
        assert producer.flush(30) == 0

    def read_again(self, version: int, *keys: str) -> None:
        """Read the keys again into topic and index, at a version of the test's choice, as key reader and indexer would;
        and commit what there is of `changes` and `documents`."""
        _, now = _read(self.context)
        documents = [(key.encode(), now.get(key.encode())) for key in keys]
        self.produce(documents, version)
        _index(self.context, dict(documents), version)
        self.commit("keys", "changes")
        self.drain()

    def now(self) -> dict[bytes, bytes]:
        """The documents that the source has now."""
        return _read(self.context)[1]

    def put(self, documents: Mapping[bytes, bytes | None], version: int) -> None:
        """Index documents as an indexer would; None is a tombstone."""
        _index(self.context, documents, version)

    def execute(self, statement: str) -> int:
        """SQL on the source, committed; returns the version of a snapshot after it."""
        with psycopg.connect(self.environ["SOURCE_URL"], autocommit=True) as connection:
            connection.execute(statement)
        version, _ = _read(self.context)
        return version

    def write(self, key: str, document: bytes, version: int) -> None:
        """Write to the index past the topic, as somebody else would."""
        self.client.index(
            index=self.index, id=key, body=document, params={"version": str(version), "version_type": "external_gte"}
        )

    def delete(self, key: str) -> None:
        self.client.delete(index=self.index, id=key)

    def drifted(self, check: str) -> dict[str, DriftedKey]:
        """The records of a check in `drift`, by key."""
        cluster, topic = self.context.cluster, self.context.run.topic("drift")
        records = cluster.read(topic, range(self.context.partitions))
        found = [decode_drifted_key(message.key() or b"", message.value() or b"") for message in records]
        return {one.key: one for one in found if one.check == check}

    def drain(self) -> None:
        """Commit the ends of the topic for the indexers' group."""
        self.commit("indexer", "documents")

    def commit(self, role: str, name: str) -> None:
        """Commit the ends of a topic for a role's group."""
        cluster, topic, group = self.context.cluster, self.context.run.topic(name), self.context.run.group(role)
        ends = cluster.stable_ends(topic, self.context.partitions)
        cluster.place_group(group, [TopicPartition(topic, p, o) for p, o in ends.items()])

    @contextmanager
    def validator(self) -> Iterator[subprocess.Popen[str]]:
        """A validator in a process of its own; the first line of its stdout is its URL."""
        process = self.start_validator()
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()

    def start_validator(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", _WORKER, str(self.plan_file)]
        return subprocess.Popen(command, env=os.environ | self.environ, stdout=subprocess.PIPE, text=True)


def fill(
    endpoints: Endpoints,
    database: str,
    namespace: str,
    folder: Path,
    *,
    rows: int,
    partitions: int = 3,
    shards: int = 2,
    validation: str = "{}",
    changes: str = "none",
) -> FilledRun:
    """Make the table, plan a run of it, and do its copy by hand."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "create table things (id bigint primary key, name text not null, weight numeric, tags text[]);"
            "insert into things select n, 'thing ' || n, n / 7.0, array['a', md5(n::text)]"
            f" from generate_series(1, {rows}) n; analyze things"
        )
    definition = {
        "settings": {"number_of_shards": shards, "number_of_replicas": 0, "refresh_interval": "5s"},
        "mappings": {"properties": {"id": {"type": "long"}, "name": {"type": "text"}}},
    }
    (folder / "index.json").write_text(json.dumps(definition))
    environ = {
        "SOURCE_URL": database,
        "OPENSEARCH_URL": endpoints.opensearch_url,
        "KAFKA_BOOTSTRAP": endpoints.kafka_bootstrap,
    }
    text = _SPEC.format(namespace=namespace, partitions=partitions, validation=validation, changes=changes)
    spec = parse(text, name="reindex.yaml", folder=folder, environ=environ)
    plan = make_plan(spec)
    context = RunContext(plan, spec)
    for topic in plan.topics:
        context.cluster.create_topic(topic.name, topic.partitions, topic.config, None)
    uuid = generation.create(context.opensearch, plan.index, plan.write_alias, plan.definition)
    version, documents = _read(context)
    plan_file = folder / "plan.json"
    plan_file.write_text(plan.to_json())
    receipts = [_receipt(0, documents, version)]
    run = FilledRun(context, tile([Segment(0, None, None)], receipts), documents, version, uuid, environ, plan_file)
    run.produce(list(documents.items()), version)
    run.write_receipts(receipts)
    _index(context, documents, version)
    return run


def _read(context: RunContext) -> tuple[int, dict[bytes, bytes]]:
    reader = context.snapshot_reader("test")
    with reader.snapshot() as snapshot:
        rows = list(reader.page(None, None, 10_000_000))
    reader.close()
    return snapshot.version, {key: document for key, document, _ in rows if document is not None}


def _receipt(segment: int, documents: dict[bytes, bytes], version: int) -> Receipt:
    return Receipt(
        segment=segment,
        low=None,
        high=None,
        rows=len(documents),
        documents=len(documents),
        left_out=0,
        rejected=0,
        bytes=sum(map(len, documents.values())),
        checksum=add_checksums(document_checksum(key, version) for key in documents),
        version=version,
    )


def _index(context: RunContext, documents: Mapping[bytes, bytes | None], version: int) -> None:
    items = list(documents.items())
    for start in range(0, len(items), 5_000):
        lines = []
        for key, document in items[start : start + 5_000]:
            action = {"_id": key.decode(), "version": version, "version_type": "external_gte"}
            lines += [orjson.dumps({"delete" if document is None else "index": action})]
            lines += [document] if document is not None else []
        answer = context.opensearch.bulk(body=b"\n".join(lines) + b"\n", index=context.plan.index)
        failed = [item for item in answer["items"] for one in item.values() if one["status"] not in (200, 201, 404)]
        assert not failed, failed
