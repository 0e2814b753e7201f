"""Drift that comes of what befalls servers, in one index of a run made by hand: found, classed, and repaired with
exactly as many writes. What clients do to an index, and to the source of a stopped follower: test_repair.py."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filled_run import FilledRun, fill
from load import wait_for
from opensearchpy.exceptions import ConflictError
from pipeline import Pipeline
from proxy import Fault, FaultProxy

from reshelve.consumers.foreign import forget_deletes
from reshelve.errors import TargetRefused
from reshelve.journal import JournalWriter, create_journal, read_journal
from reshelve.local.stack import Endpoints
from reshelve.restored import find_restored
from reshelve.state import RunState, fold
from reshelve.worker import require_generation

_QUERY = "select id, name, weight, tags from public.things"
_UPDATED, _DELETED, _INSERTED = ("31", "32", "33"), ("34", "35"), ("901", "902")
_BURIED = "40"


@dataclass
class _Completed:
    """A run that has completed, and that nobody follows."""

    run: FilledRun
    pipeline: Pipeline

    @property
    def state(self) -> RunState:
        run = self.run.context.run
        return fold(read_journal(self.run.context.cluster, run=run))[str(run)]

    def change(self, statement: str, *keys: str) -> None:
        """SQL on the source; these keys are read again, into topic and index."""
        version = self.run.execute(statement)
        self.run.change(*keys)
        self.run.read_again(version, *keys)

    @contextmanager
    def snapshot(self) -> Iterator[str]:
        """The index in a repository of its own, which is gone afterwards."""
        snapshots, name = self.run.client.snapshot, self.pipeline.name
        snapshots.create_repository(repository=name, body={"type": "fs", "settings": {"location": name}})
        body = {"indices": self.run.index, "include_global_state": False}
        snapshots.create(repository=name, snapshot="old", body=body, params={"wait_for_completion": "true"})
        try:
            yield f"{name}/old"
        finally:
            snapshots.delete(repository=name, snapshot="old")
            snapshots.delete_repository(repository=name)

    def restore(self, snapshot: str) -> None:
        repository, name = snapshot.split("/")
        body = {"indices": self.run.index, "include_global_state": False}
        params = {"wait_for_completion": "true"}
        self.run.client.snapshot.restore(repository=repository, snapshot=name, body=body, params=params)

    def writes(self) -> int:
        """Documents indexed and deleted; those that were refused for their version are none."""
        stats = self.run.client.indices.stats(index=self.run.index, metric="indexing")
        totals = stats["_all"]["primaries"]["indexing"]
        return int(totals["index_total"]) + int(totals["delete_total"])

    def repair(self, *options: str) -> dict[str, Any]:
        run = self.run.context.run
        return self.pipeline.reshelve("repair", run, "--yes", "--json", *options).expect(0).json

    def assert_equal(self) -> None:
        self.pipeline.assert_equal(self.run.client, _QUERY, run=self.run.context.run, changed=True)


@pytest.fixture
def completed(endpoints: Endpoints, database: str, namespace: str, tmp_path: Path) -> _Completed:
    run = fill(endpoints, database, namespace, tmp_path, rows=300)
    create_journal(run.context.cluster, None)
    journal = JournalWriter(run.context.cluster, run.context.run)
    journal.append("planned", {"plan": run.context.plan.as_dict()})
    journal.append("created", {"uuid": run.uuid})
    journal.append("completed", {})
    run.drain()
    return _Completed(run, Pipeline(tmp_path, namespace, database, endpoints))


@pytest.mark.timeout(300)
def test_restored_resurrected_and_unanswered(completed: _Completed) -> None:
    _an_older_snapshot_is_restored(completed)
    _a_forgotten_delete_lets_an_old_document_back(completed)
    before = completed.writes()
    repaired = completed.repair("--level", "checksums")
    assert repaired["keys"] == {"extra": 3, "missing": 2, "stale": 3}
    assert completed.writes() - before == 8
    assert (repaired["writes"], repaired["made_way"], repaired["left"]) == ({"document": 5, "tombstone": 3}, 0, {})
    drifted = {key: one.drift for key, one in completed.run.drifted(repaired["check"]).items()}
    assert drifted == dict.fromkeys(_UPDATED, "stale") | dict.fromkeys(_INSERTED, "missing") | dict.fromkeys(
        (*_DELETED, _BURIED), "extra"
    )
    completed.assert_equal()
    assert find_restored(completed.run.context, completed.state) is None

    _answers_are_lost_and_then_the_indexer(completed)
    before = completed.writes()
    assert completed.repair("--level", "checksums")["keys"] == {}
    assert completed.writes() == before
    completed.assert_equal()


def _an_older_snapshot_is_restored(completed: _Completed) -> None:
    """The index is dropped and restored, with another UUID: repair asks first, and nobody else writes to it."""
    run, client, alias = completed.run, completed.run.client, completed.run.context.plan.write_alias
    with completed.snapshot() as snapshot:
        completed.change("update things set name = 'new' where id in (31, 32, 33)", *_UPDATED)
        completed.change("delete from things where id in (34, 35)", *_DELETED)
        completed.change("insert into things values (901, 'born', 0, null), (902, 'born', 1, '{}')", *_INSERTED)
        client.indices.delete(index=run.index)
        with pytest.raises(TargetRefused, match="gone"):
            find_restored(run.context, completed.state)
        completed.restore(snapshot)
    with pytest.raises(TargetRefused) as refused:
        require_generation(client, run.index, run.uuid, "")
    assert "reshelve repair" in refused.value.remedy
    restored = find_restored(run.context, completed.state)
    assert restored is not None
    assert (restored.was, restored.snapshot) == (run.uuid, snapshot)
    client.indices.delete_alias(index=run.index, name=alias)
    with pytest.raises(TargetRefused, match="not the one"):
        find_restored(run.context, completed.state)
    client.indices.put_alias(index=run.index, name=alias, body={"is_write_index": True})


def _a_forgotten_delete_lets_an_old_document_back(completed: _Completed) -> None:
    """A writer that hung for longer than `index.gc_deletes` writes what it has read before the delete."""
    run = completed.run
    old = run.documents[_BURIED.encode()]
    completed.change(f"delete from things where id = {_BURIED}", _BURIED)
    with pytest.raises(ConflictError):
        run.write(_BURIED, old, run.version)
    forget_deletes(run.client, run.index, run.context.plan.definition, followed=False)
    run.write(_BURIED, old, run.version)


def _answers_are_lost_and_then_the_indexer(completed: _Completed) -> None:
    """An indexer writes, gets no answer, writes the same again, and is killed before it has committed anything."""
    run, keys = completed.run, [str(n) for n in range(1, 21)]
    version = run.execute("update things set name = 'unanswered' where id <= 20")
    documents = run.now()
    run.change(*keys)
    run.commit("keys", "changes")
    run.produce([(key.encode(), documents[key.encode()]) for key in keys], version)
    with FaultProxy(completed.pipeline.endpoints.opensearch_url).serving() as proxy:
        proxy.plan = lambda request: Fault.ANSWER_LOST if request.is_bulk else None
        process = completed.pipeline.start(
            "worker", "indexer", str(run.context.run), environ={"OPENSEARCH_URL": proxy.url}
        )
        try:
            wait_for("the request is sent again", lambda: process.poll() is not None or proxy.resent > 0)
            assert process.poll() is None, completed.pipeline.finish(process).output
        finally:
            process.kill()
            process.communicate()
