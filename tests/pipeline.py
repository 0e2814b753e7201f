"""A reindex of a test's own, driven through the command line as an operator would, and what to compare it with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import psycopg
import yaml
from opensearchpy import OpenSearch
from opensearchpy.helpers import scan
from psycopg import sql

from reshelve.journal import read_journal
from reshelve.kafka import KafkaCluster, header_items
from reshelve.local.stack import Endpoints
from reshelve.model import WATERMARK_KEY, Receipt, RunId
from reshelve.schemas.codec import RECEIPT, decode_receipt, schema_of
from reshelve.schemas.envelope import VERSION_HEADER, EnvelopeReader
from reshelve.state import RunState, fold

DEFINITION: Mapping[str, Any] = {
    "settings": {"number_of_shards": 1, "number_of_replicas": 0},
    "mappings": {"properties": {"id": {"type": "long"}, "name": {"type": "text"}}},
}
_SPEC_FILE = "reindex.yaml"


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        return f"exit code {self.code}\n--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"

    @property
    def lines(self) -> list[dict[str, Any]]:
        """stdout as JSON, an object a line."""
        return [json.loads(line) for line in self.stdout.splitlines()]

    @property
    def json(self) -> dict[str, Any]:
        """The last JSON object on stdout."""
        return self.lines[-1]

    def expect(self, code: int) -> Result:
        """Itself, if it ended with that exit code; else the test fails with the output."""
        assert self.code == code, self.output
        return self


@dataclass(frozen=True)
class Indexed:
    """A document as the index holds it."""

    version: int
    document: dict[str, Any]


@dataclass(frozen=True)
class Record:
    """A committed record of `documents`; its document is None when it is a tombstone."""

    key: str
    version: int
    document: dict[str, Any] | None
    partition: int
    offset: int


@dataclass
class Pipeline:
    """One reindex: a folder with its spec, a database, and a name that nobody else uses.

    Give it a table first (`execute`), then `write` a spec, then `run`. The alias is `<name>-alias`."""

    folder: Path
    name: str
    database: str
    endpoints: Endpoints
    environ: dict[str, str] = field(default_factory=dict)
    kafka_config: dict[str, str] = field(default_factory=dict)  # for what the tests themselves ask Kafka

    def __post_init__(self) -> None:
        self.environ = {
            "SOURCE_URL": self.database,
            "OPENSEARCH_URL": self.endpoints.opensearch_url,
            "KAFKA_BOOTSTRAP": self.endpoints.kafka_bootstrap,
            "COLUMNS": "200",
            **self.environ,
        }
        self.folder.mkdir(parents=True, exist_ok=True)

    # --- the spec and the commands

    @property
    def alias(self) -> str:
        return f"{self.name}-alias"

    @property
    def spec(self) -> Path:
        """The file that `write` writes."""
        return self.folder / _SPEC_FILE

    @property
    def reports(self) -> Path:
        return self.folder / "reports"

    def write(
        self,
        *,
        query: str = "select * from public.docs",
        key: str | Sequence[str] = "id",
        definition: Mapping[str, Any] = DEFINITION,
        partitions: int = 2,
        **sections: Any,
    ) -> Path:
        """Write the spec and the index definition. `sections` are top-level fields (limits={...},
        transform="module:function"); a mapping is laid over what the section has already."""
        (self.folder / "index.json").write_text(json.dumps(definition))
        keys: str | list[str] = key if isinstance(key, str) else list(key)
        spec: dict[str, Any] = {
            "reindex": self.name,
            "source": {"postgres": {"url": "${SOURCE_URL}", "key": keys, "query": query}},
            "target": {"opensearch": {"url": "${OPENSEARCH_URL}", "alias": self.alias, "index": "index.json"}},
            "kafka": {"bootstrap": "${KAFKA_BOOTSTRAP}", "partitions": partitions},
        }
        self.spec.write_text(yaml.safe_dump(_laid_over(spec, sections), sort_keys=False, allow_unicode=True))
        return self.spec

    def reshelve(
        self, *arguments: str | Path, timeout: float = 120, environ: Mapping[str, str] | None = None
    ) -> Result:
        """Run `reshelve` with these arguments to its end. One that hangs is ended, and the test fails."""
        process = self.start(*arguments, environ=environ)
        return self.finish(process, timeout)

    def start(self, *arguments: str | Path, environ: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start `reshelve` in the folder; to be ended with `finish`, or by `running`."""
        return self.spawn(arguments, environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def spawn(
        self, arguments: Sequence[str | Path], environ: Mapping[str, str] | None, *, stdout: Any, stderr: Any
    ) -> subprocess.Popen[str]:
        """Start `reshelve` in the folder, its output as `subprocess.Popen` takes it."""
        return subprocess.Popen(
            [sys.executable, "-m", "reshelve", *map(str, arguments)],
            cwd=self.folder,
            env=self.environment(environ),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            text=True,
        )

    def environment(self, environ: Mapping[str, str] | None = None) -> dict[str, str]:
        """What a command is started with."""
        return {**_clean_environment(), **self.environ, **(environ or {})}

    def finish(self, process: subprocess.Popen[str], timeout: float = 120) -> Result:
        """Wait for the end of a command."""
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)  # so that its workers end with it
            try:
                stdout, stderr = process.communicate(timeout=40)
            except subprocess.TimeoutExpired:
                process.kill()
                stdout, stderr = process.communicate()
            raise AssertionError(f"not ended within {timeout} s\n{stdout}\n{stderr}") from None
        return Result(process.returncode, stdout, stderr)

    @contextmanager
    def running(self, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
        """A command in the background, ended at the end of the block if it has not been already."""
        process = self.start(*arguments)
        try:
            yield process
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
                self.finish(process)

    def run(self, *arguments: str | Path, timeout: float = 120, environ: Mapping[str, str] | None = None) -> Result:
        """`reshelve run` of the spec."""
        return self.reshelve("run", self.spec, *arguments, timeout=timeout, environ=environ)

    # --- what is there

    def execute(self, statements: str) -> None:
        """SQL, committed."""
        with psycopg.connect(self.database, autocommit=True) as connection:
            connection.execute(statements)

    def source(self, query: str = "select * from public.docs", key: str = "id::text") -> dict[str, dict[str, Any]]:
        """What the source holds now, by document key (an SQL expression over the query's columns)."""
        with psycopg.connect(self.database, autocommit=True, options="-c TimeZone=UTC") as connection:
            rows = connection.execute(f"select {key}, row_to_json(q)::text from ({query}) q")
            return {found: orjson.loads(document) for found, document in rows}

    def indexed(self, client: OpenSearch, index: str | None = None) -> dict[str, Indexed]:
        """What an index holds, by `_id`; what searches see behind the alias when no index is named."""
        client.indices.refresh(index=index or self.alias)
        hits = scan(client, index=index or self.alias, query={"version": True, "sort": "_doc"}, size=5_000)
        return {hit["_id"]: Indexed(hit["_version"], hit["_source"]) for hit in hits}

    @property
    def cluster(self) -> KafkaCluster:
        return KafkaCluster(self.endpoints.kafka_bootstrap, self.kafka_config)

    def states(self) -> list[RunState]:
        """The reindex's runs as the journal has them, oldest first."""
        return list(fold(read_journal(self.cluster, reindex=self.name)).values())

    @property
    def last_run(self) -> RunId:
        return self.states()[-1].run

    def receipts(self) -> list[tuple[float, Receipt]]:
        """The newest run's receipts, each with the time (seconds since 1970) at which it was written."""
        states = self.states()
        if not states or states[-1].run.topic("progress") not in self.topics():
            return []
        messages = self.cluster.read(states[-1].run.topic("progress"), [0])
        found = [(message.timestamp()[1] / 1000, message.value() or b"") for message in messages]
        return [(at, decode_receipt(value)) for at, value in found if schema_of(value) is RECEIPT]

    def await_receipts(self, process: subprocess.Popen[str], number: int = 1) -> None:
        """Wait until the run has read so many pages. The test fails when its process ends before."""
        while len(self.receipts()) < number:
            if process.poll() is not None:
                raise AssertionError(f"ended before it had read {number} pages\n{self.finish(process).output}")
            time.sleep(0.2)

    def topics(self) -> list[str]:
        return sorted(self.cluster.topics(f"reshelve.{self.name}."))

    def records(self, run: RunId | None = None) -> list[Record]:
        """Every committed document and tombstone of a run, in the order of each partition; no watermarks."""
        topic = (run or self.last_run).topic("documents")
        cluster, reader = self.cluster, EnvelopeReader()
        records = []
        for message in cluster.read(topic, range(cluster.topics(topic)[topic])):
            key, value = (message.key() or b"").decode(), message.value()
            place = message.partition() or 0, message.offset() or 0
            if value is None:
                records.append(Record(key, int(dict(header_items(message))[VERSION_HEADER]), None, *place))
            elif key != WATERMARK_KEY.decode():
                version, document = reader.open(value)
                records.append(Record(key, version, orjson.loads(document), *place))
        return records

    def written_text(self) -> str:
        """All that the reindex has left in writing: reports, workers' logs and answers, and its journal."""
        files = [file.read_text(errors="replace") for file in self.reports.rglob("*") if file.is_file()]
        entries = [repr(event) for event in read_journal(self.cluster, reindex=self.name)]
        return "\n".join(files + entries)

    def assert_equal(
        self,
        client: OpenSearch,
        query: str = "select * from public.docs",
        key: str = "id::text",
        *,
        run: RunId | None = None,
        changed: bool = False,
    ) -> None:
        """Topic and index hold exactly what the source holds now, by key, version and whole document.

        run      whose topic and index; by default the newest run's, and what searches see behind the alias
        changed  the source was written to meanwhile: then the newest record of each key counts, and is the one with its
                 highest version. Else each document is in the topic once"""
        expected = self.source(query, key)
        found = self.indexed(client, run.index if run else None)
        records = self.records(run)
        newest = {record.key: record for record in records}
        documents = {key: record for key, record in newest.items() if record.document is not None}
        if changed:
            highest: dict[str, int] = {}
            for record in records:
                highest[record.key] = max(record.version, highest.get(record.key, 0))
            _assert_same("highest version", highest, {key: record.version for key, record in newest.items()})
        else:
            assert len(records) == len(documents), "a document is in the topic twice"
        _assert_same("index", expected, {key: one.document for key, one in found.items()})
        _assert_same("topic", expected, {key: record.document for key, record in documents.items()})
        versions = {key: record.version for key, record in documents.items()}
        _assert_same("versions", versions, {key: one.version for key, one in found.items()})


def _assert_same(what: str, expected: Mapping[str, object], found: Mapping[str, object]) -> None:
    """Of thousands of documents a difference is told in a few lines."""
    keys = sorted(key for key in {**expected, **found} if expected.get(key) != found.get(key))
    told = [f"{key}: expected {expected.get(key)}, found {found.get(key)}" for key in keys[:5]]
    assert not keys, f"{what}: {len(keys)} of {len(expected)} differ\n" + "\n".join(told)


def drop_database(url: str, name: str) -> None:
    """Drop a database with the replication slots that tests left in it. `url` is of another one."""
    with psycopg.connect(url, autocommit=True) as connection:
        deadline = time.monotonic() + 30
        while slots := connection.execute(
            "select slot_name, active_pid from pg_replication_slots where database = %s", [name]
        ).fetchall():
            for slot, active in slots:
                try:
                    connection.execute("select pg_terminate_backend(%s)", [active])
                    connection.execute("select pg_drop_replication_slot(%s)", [slot])
                except (psycopg.errors.ObjectInUse, psycopg.errors.UndefinedObject):
                    assert time.monotonic() < deadline, f"slot {slot} is still read"
                    time.sleep(0.05)  # its reader is ending, or has dropped it itself
        connection.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    both = {**below}
    for name, value in above.items():
        under = both.get(name)
        both[name] = _laid_over(under, value) if isinstance(value, Mapping) and isinstance(under, Mapping) else value
    return both


def _clean_environment() -> dict[str, str]:
    """Ours without what would change how a command looks or where it finds its servers."""
    foreign = {"RESHELVE_KAFKA", "KAFKA_CONFIG", "FORCE_COLOR", "NO_COLOR", "PGPASSWORD", "PGOPTIONS"}
    return {name: value for name, value in os.environ.items() if name not in foreign}
