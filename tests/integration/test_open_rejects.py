"""A run is stopped by rejects that are open, not by those that the source has corrected since."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from filled_run import FilledRun, fill

from reshelve.errors import BlockedError
from reshelve.journal import JournalWriter, create_journal
from reshelve.local.stack import Endpoints
from reshelve.progress import Progress
from reshelve.schemas.reject import Reject
from reshelve.session import attach
from reshelve.supervision import Options, Supervision

_LIMIT = 2


class _Silent:
    def stage(self, name: str) -> None: ...
    def progress(self, stage: str, progress: Progress) -> None: ...
    def say(self, text: str) -> None: ...


def _reject(run: FilledRun, version: int) -> None:
    """One more than the limit allows, as an indexer writes them."""
    topic, producer = run.context.run.topic("rejects"), run.context.cluster.producer()
    for key in range(1, _LIMIT + 2):
        reject = Reject(str(key), b"{}", "index", "mapper_parsing_exception", "bad", "documents", 0, key, version)
        producer.produce(topic, reject.document, reject.key, headers=reject.headers())
    assert producer.flush(30) == 0


def test_only_open_rejects_count(
    endpoints: Endpoints, database: str, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = fill(endpoints, database, namespace, tmp_path, rows=10, partitions=1, shards=1)
    for name, value in run.environ.items():
        monkeypatch.setenv(name, value)
    context = run.context
    create_journal(context.cluster, None)
    journal = JournalWriter(context.cluster, context.run)
    journal.append("planned", {"plan": context.plan.as_dict()})
    journal.append("created", {"uuid": run.uuid})
    limits = context.spec.limits.model_copy(update={"max_rejects": _LIMIT})
    journal.append("started", {"limits": limits.model_dump(mode="json")})

    session = attach(context.cluster, str(context.run), lambda text: None)
    options = Options(None, 0, 0, 0, tmp_path / "reports", {})
    watch = Supervision(session, options, _Silent(), threading.Event())
    try:
        _reject(run, run.version - 1)  # the index has a newer version of each
        progress = watch.until(lambda now: now.reject_records > _LIMIT)
        assert progress.rejects > _LIMIT
        _reject(run, run.version + 1)
        with pytest.raises(BlockedError, match=f"{_LIMIT + 1} rejected documents are open"):
            watch.until(lambda now: now.reject_records > 2 * (_LIMIT + 1))
    finally:
        watch.close()
