"""Replays on real servers: into a new index and into the run's own, stopped, killed, of a topic with gaps, and beside
the writers of live changes."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
from filled_run import FilledRun, fill
from opensearchpy import OpenSearch
from pipeline import Indexed, Pipeline, Result

from reshelve.consumers.replay import Start
from reshelve.errors import BlockedError
from reshelve.journal import JournalWriter, create_journal, read_journal
from reshelve.local.stack import Endpoints
from reshelve.replay.drive import Replay
from reshelve.replay.request import Request
from reshelve.replay.work import ReplayProgress, WorkOptions
from reshelve.schemas.envelope import EnvelopeReader

_ROWS = 300
_PARTITIONS = 3
_TIMEOUT_S = 120.0


@dataclass
class _Completed:
    """A run that has completed, made by hand; its pipeline compares and runs commands."""

    run: FilledRun
    pipeline: Pipeline
    said: list[str] = field(default_factory=list)
    on_progress: Callable[[ReplayProgress], None] = lambda _progress: None

    # --- a display

    def progress(self, progress: ReplayProgress) -> None:
        self.on_progress(progress)

    def say(self, text: str) -> None:
        self.said.append(text)

    # --- what the tests do

    @property
    def copy(self) -> str:
        return f"{self.pipeline.name}-copy"

    def replay(self, request: Request, options: WorkOptions | None = None) -> dict[str, Any]:
        """In this process."""
        context = self.run.context
        journal = JournalWriter(context.cluster, context.run, shared=True)
        return Replay(
            context,
            self.run.uuid,
            request,
            options or WorkOptions(),
            lambda kind, data: (journal.append(kind, data), None)[1],
            self,
            threading.Event(),
            lambda: None,
        ).drive()

    def command(self, *arguments: str) -> Result:
        return self.pipeline.reshelve("replay", str(self.run.context.run), *arguments, timeout=_TIMEOUT_S)

    def change(self, statement: str, *keys: str) -> None:
        """SQL on the source; these keys are read again, into topic and index."""
        version = self.run.execute(statement)
        self.run.change(*keys)
        self.run.read_again(version, *keys)

    def change_much(self) -> None:
        """Updates, deletes, changes of keys, and keys that come back."""
        self.change("update things set name = 'new ' || id where id <= 20", *(str(n) for n in range(1, 21)))
        self.change("delete from things where id between 11 and 30", *(str(n) for n in range(11, 31)))
        self.change(
            "update things set id = id + 1000 where id between 31 and 40",
            *(str(n) for n in range(31, 41)),
            *(str(n) for n in range(1031, 1041)),
        )
        self.change("insert into things values (11, 'back', 1, null), (2000, 'new', 2, '{}')", "11", "2000", "3000")

    def indexed(self, index: str) -> dict[str, Indexed]:
        return self.pipeline.indexed(self.run.client, index)

    def newest(self) -> dict[str, Indexed]:
        """What the topic says."""
        found: dict[str, Indexed | None] = {}
        reader, context = EnvelopeReader(), self.run.context
        for message in context.cluster.read(context.run.topic("documents"), range(_PARTITIONS)):
            value = message.value()
            if value is None or message.key():
                version, document = (0, None) if value is None else reader.open(value)
                key = (message.key() or b"").decode()
                found[key] = None if document is None else Indexed(version, orjson.loads(document))
        return {key: one for key, one in found.items() if one is not None}

    def entries(self, kind: str) -> list[dict[str, Any]]:
        run = self.run.context.run
        return [dict(e.data) for e in read_journal(self.run.context.cluster, run=run) if e.kind == kind]

    def groups(self) -> list[str]:
        listed = self.run.context.cluster.admin.list_consumer_groups().result().valid
        return [one.group_id for one in listed if one.group_id.startswith(self.run.context.run.group("replay-"))]

    def set_own(self, **settings: object) -> None:
        body = {f"index.{name}": value for name, value in settings.items()}
        self.run.client.indices.put_settings(index=self.run.index, body=body)


@pytest.fixture
def completed(endpoints: Endpoints, database: str, namespace: str, tmp_path: Path) -> _Completed:
    run = fill(endpoints, database, namespace, tmp_path, rows=_ROWS, partitions=_PARTITIONS)
    create_journal(run.context.cluster, None)
    journal = JournalWriter(run.context.cluster, run.context.run)
    journal.append("planned", {"plan": run.context.plan.as_dict()})
    journal.append("created", {"uuid": run.uuid})
    journal.append("completed", {})
    return _Completed(run, Pipeline(tmp_path, namespace, database, endpoints))


def test_a_new_index_equals_the_old_one(completed: _Completed) -> None:
    completed.change_much()
    ended = completed.command("--to", completed.copy, "--indexers", "2", "--json").expect(0).json
    own, copy = completed.indexed(completed.run.index), completed.indexed(completed.copy)
    assert copy == own == completed.newest()
    assert len(copy) == _ROWS - 20 + 1 + 1
    assert ended["proof"]["equal"] and ended["proof"]["index_documents"] == len(copy)
    settings = completed.run.client.indices.get_settings(index=completed.copy, params={"flat_settings": "true"})
    found = settings[completed.copy]["settings"]
    assert found["index.refresh_interval"] == "5s"
    assert "index.gc_deletes" not in found
    assert [entry["uuid"] for entry in completed.entries("replayed")] == [found["index.uuid"]]
    assert completed.groups() == []
    completed.command("--to", completed.copy).expect(2)
    completed.command("--to", completed.pipeline.alias + "x", "--from-time", "2026-01-01T00:00:00Z").expect(2)


def test_the_own_index_has_no_deleted_document_at_the_end(completed: _Completed) -> None:
    completed.set_own(gc_deletes="0ms")
    completed.change_much()
    time.sleep(1)  # OpenSearch's clock for this moves five times a second; right without it, too
    result = completed.replay(Request())
    assert completed.indexed(completed.run.index) == completed.newest()
    assert result["indexed"] + result["superseded"] >= _ROWS
    assert result["proof"] is None
    assert completed.groups() == []


def test_a_delete_that_comes_while_old_documents_are_written(completed: _Completed) -> None:
    completed.set_own(gc_deletes="0ms")
    cluster = completed.run.context.cluster
    last = {
        message.partition(): message.key() or b"" for message in cluster.read(_topic(completed), range(_PARTITIONS))
    }
    keys = [key.decode() for key in last.values()]
    done: list[str] = []

    def meanwhile(progress: ReplayProgress) -> None:
        if progress.stage == "apply" and not done:
            done.extend(keys)
            completed.change(f"delete from things where id in ({', '.join(keys)})", *keys)

    completed.on_progress = meanwhile
    completed.replay(Request(), WorkOptions(documents_per_second=60))
    assert done == keys
    found = completed.indexed(completed.run.index)
    assert found == completed.newest()
    assert found.keys().isdisjoint(keys)


def test_from_an_offset_from_a_time_and_keys(completed: _Completed) -> None:
    cluster, topic = completed.run.context.cluster, _topic(completed)
    ends = cluster.stable_ends(topic, _PARTITIONS)
    newest = max(message.timestamp()[1] for message in cluster.read(topic, range(_PARTITIONS)))
    while time.time() * 1000 <= newest + 1:
        time.sleep(0.001)
    completed.change("update things set name = 'later' where id <= 7", *(str(n) for n in range(1, 8)))
    assert completed.replay(Request(Start(at=newest + 1)))["indexed"] == 7
    assert completed.replay(Request(Start(offsets=((1, ends[1] - 5),))))["indexed"] >= 5
    result = completed.replay(Request(keys=frozenset([b"1", b"100", b"none"])))
    assert (result["indexed"], result["superseded"]) == (2, 1)
    completed.command("--to", completed.copy, "--keys", "1", "--keys", "100").expect(0)
    found, own = completed.indexed(completed.copy), completed.newest()
    assert found == {"1": own["1"], "100": own["100"]}
    completed.command("--from-offset", "0:1", "--from-time", "2026-01-01").expect(2)
    completed.command("--from-offset", f"{_PARTITIONS}:0").expect(2)
    alias = completed.pipeline.alias
    completed.run.client.indices.put_alias(index=completed.run.index, name=alias)
    done = completed.command("--from-time", "2026-01-01T00:00:00Z", "--to", alias).expect(0)
    assert f"{alias} is the run's own index {completed.run.index}" in done.stderr


def test_stopped_and_killed_it_goes_on(completed: _Completed) -> None:
    completed.change_much()
    arguments = ("--to", completed.copy)
    with _started(completed, *arguments, "--documents-per-second", "60") as first:
        _await_offsets(completed, first, 10)
        first.send_signal(signal.SIGINT)
        assert completed.pipeline.finish(first).expect(130)
    (group,) = completed.groups()
    done = _passed(completed, group)
    with _started(completed, *arguments, "--documents-per-second", "60", "--indexers", "2") as second:
        _await_offsets(completed, second, done + 10)
        second.kill()
        completed.pipeline.finish(second)
    done = _passed(completed, group)
    total = sum(completed.entries("replaying")[-1]["ends"].values())
    completed.change("update things set name = 'after the beginning' where id = 200", "200")
    third = completed.command(*arguments, "--json").expect(0)
    assert any("going on with the replay" in line.get("text", "") for line in third.lines), third.output
    assert third.json["indexed"] + third.json["superseded"] <= total - done
    own, copy = completed.newest(), completed.indexed(completed.copy)
    assert own.pop("200").document["name"] == "after the beginning"
    assert copy.pop("200").document["name"] == "thing 200"
    assert copy == own
    assert completed.groups() == []
    assert len(completed.entries("replayed")) == 1


def test_an_index_that_went_while_its_replay_stood_still(completed: _Completed) -> None:
    with _started(completed, "--to", completed.copy, "--documents-per-second", "60") as first:
        _await_offsets(completed, first, 10)
        first.kill()
        completed.pipeline.finish(first)
    completed.run.client.indices.delete(index=completed.copy)
    completed.replay(Request(to=completed.copy))
    assert completed.indexed(completed.copy) == completed.newest()


def test_records_that_retention_took(completed: _Completed) -> None:
    cluster, topic = completed.run.context.cluster, _topic(completed)
    cluster.admin.delete_records([TopicPartition(topic, 0, 10)])[TopicPartition(topic, 0)].result()
    for request in (Request(), Request(to=completed.copy), Request(Start(offsets=((0, 9),)))):
        with pytest.raises(BlockedError, match="does not hold all"):
            completed.replay(request)
    assert not completed.run.client.indices.exists(index=completed.copy)
    assert completed.entries("replaying") == []
    end = cluster.stable_ends(topic, _PARTITIONS)[0]
    assert completed.replay(Request(Start(offsets=((0, 10),))))["indexed"] == end - 10
    completed.command("--to", completed.copy).expect(3)


def test_a_compacted_topic(completed: _Completed) -> None:
    completed.change_much()
    before = completed.newest()
    count = _records(completed)
    _compact(completed)
    deadline = time.monotonic() + _TIMEOUT_S
    while _records(completed) > count - 30:
        assert time.monotonic() < deadline, "the log cleaner has not come by"
        time.sleep(1)
    assert completed.newest() == before
    completed.replay(Request(to=completed.copy))
    assert completed.indexed(completed.copy) == before
    completed.replay(Request())
    assert completed.indexed(completed.run.index) == before


def test_documents_that_the_new_index_refuses(completed: _Completed, tmp_path: Path) -> None:
    file = tmp_path / "strict.json"
    file.write_text(json.dumps({"mappings": {"properties": {"name": {"type": "integer"}}}}))
    arguments = ("--to", completed.copy, "--definition", str(file), "--keys", "1", "--keys", "2")
    ended = completed.command(*arguments).expect(3)
    assert "the topic has 2 documents, the index 0" in ended.stderr
    assert "2 documents were rejected" in ended.stderr
    (entry,) = completed.entries("replayed")
    assert entry["proof"]["equal"] is False and entry["rejected"] == 2
    rejects = completed.run.context.cluster.read(completed.run.context.run.topic("rejects"), [0])
    assert {message.key() for message in rejects} == {b"1", b"2"}
    file.write_text(json.dumps({"mappings": {"enabled": False}}))
    completed.run.client.indices.delete(index=completed.copy)
    completed.command(*arguments).expect(0)
    completed.command("--definition", str(file)).expect(2)
    file.write_text(json.dumps({"aliases": {}}))
    completed.command(*arguments).expect(2)


def test_old_records_that_are_refused_and_newer_ones_that_are_not(completed: _Completed) -> None:
    run = completed.run
    ends = run.context.cluster.stable_ends(_topic(completed), _PARTITIONS)
    since, singly = Start(offsets=tuple(ends.items())), WorkOptions(documents_per_second=2)  # each in its own request
    run.produce([(b"5", b'{"id": "not a number"}'), (b"6", b'{"id": "nor this"}')], run.version)
    completed.change("update things set name = 'newest' where id = 5", "5")
    completed.change("delete from things where id = 6", "6")
    run.drain()
    assert completed.replay(Request(since), singly)["rejected"] == 2
    assert completed.indexed(run.index) == completed.newest()
    assert completed.replay(Request(to=completed.copy))["proof"]["equal"]
    run.produce([(b"7", b'{"id": "never corrected"}')], run.version)
    with pytest.raises(BlockedError, match="rejected 3 records") as refused:
        completed.replay(Request(since), singly)
    assert "1 rejected documents are open" in refused.value.why


def test_beside_a_follower(docs: Callable[[int], Pipeline], opensearch: OpenSearch) -> None:
    p = docs(_ROWS)
    p.write(follow="always")
    with p.running("run", p.spec) as follower:
        _await(p, follower, lambda: any(state.following for state in p.states()))
        run, stop = p.last_run, threading.Event()
        writer = threading.Thread(target=_write_on, args=[p, stop])
        writer.start()
        try:
            p.reshelve("replay", str(run), "--documents-per-second", "100", timeout=_TIMEOUT_S).expect(0)
            p.reshelve("replay", str(run), "--to", f"{p.name}-copy", timeout=_TIMEOUT_S).expect(0)
        finally:
            stop.set()
            writer.join()
        expected = p.source()
        _await(p, follower, lambda: {k: one.document for k, one in p.indexed(opensearch).items()} == expected)
        p.assert_equal(opensearch, changed=True)
        p.reshelve("replay", str(run), "--from-time", "2026-01-01T00:00:00Z").expect(0)
        p.assert_equal(opensearch, changed=True)
        p.reshelve("replay", str(run), "--to", f"{p.name}-copy-2").expect(0)
        assert p.indexed(opensearch, f"{p.name}-copy-2") == p.indexed(opensearch)
        p.reshelve("retire", str(run), "--yes").expect(0)
        p.finish(follower).expect(0)


def _write_on(p: Pipeline, stop: threading.Event) -> None:
    number = 0
    while not stop.is_set():
        number += 1
        p.execute(
            f"update docs set name = 'change {number}' where id % 50 = {number % 50};"
            f"delete from docs where id = {_ROWS - number}; insert into docs values ({10_000 + number}, 'new')"
        )
        stop.wait(0.1)


def _topic(completed: _Completed) -> str:
    return completed.run.context.run.topic("documents")


def _records(completed: _Completed) -> int:
    return sum(1 for _ in completed.run.context.cluster.read(_topic(completed), range(_PARTITIONS)))


def _compact(completed: _Completed) -> None:
    """Have the topic compacted: settings for a cleaner that comes soon, and a record to close the segments with."""
    wanted = {
        "cleanup.policy": "compact",
        "segment.ms": "100",
        "min.cleanable.dirty.ratio": "0.001",
        "min.compaction.lag.ms": "0",
        "delete.retention.ms": "0",
    }
    entries = [ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in wanted.items()]
    resource = ConfigResource(ResourceType.TOPIC, _topic(completed), incremental_configs=entries)
    completed.run.context.cluster.admin.incremental_alter_configs([resource])[resource].result()
    time.sleep(0.2)
    completed.run.watermark("documents", completed.run.version)
    time.sleep(0.2)
    completed.run.watermark("documents", completed.run.version)


@contextmanager
def _started(completed: _Completed, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    with completed.pipeline.running("replay", str(completed.run.context.run), *arguments) as process:
        yield process


def _passed(completed: _Completed, group: str) -> int:
    """Offsets that a replay has committed."""
    committed = completed.run.context.cluster.committed(group, _topic(completed), _PARTITIONS)
    return sum(offset or 0 for offset in committed.values())


def _await_offsets(completed: _Completed, process: subprocess.Popen[str], least: int) -> None:
    def passed() -> bool:
        return any(_passed(completed, group) >= least for group in completed.groups())

    _await(completed.pipeline, process, passed)


def _await(p: Pipeline, process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    while not condition():
        assert process.poll() is None, p.finish(process).output
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.2)
