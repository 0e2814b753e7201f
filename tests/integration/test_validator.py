from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from filled_run import FilledRun, fill

from reshelve.errors import BlockedError
from reshelve.local.stack import Endpoints
from reshelve.schemas.reject import Reject
from reshelve.validator.coordinator import validate
from reshelve.validator.recomputation import recompute
from reshelve.validator.tasks import CheckResult, check_of, decode
from reshelve.validator.verdict import Validation

Fill = Callable[..., FilledRun]


@pytest.fixture
def filled(endpoints: Endpoints, database: str, namespace: str, tmp_path: Path) -> Fill:
    def make(**options: object) -> FilledRun:
        run = fill(endpoints, database, namespace, tmp_path, **options)  # type: ignore[arg-type]
        run.drain()
        return run

    return make


def _validate(run: FilledRun, timeout: float = 40) -> Validation:
    return validate(run.context, run.tiling, timeout=timeout, report=logging.getLogger(__name__).warning)


def _drifted(found: Validation) -> dict[str, str]:
    return {key: drift for verdict in found.partitions for key, drift in verdict.drifted}


def test_an_equal_index_is_clean_and_the_results_are_served(filled: Fill) -> None:
    run = filled(rows=3_000, shards=2)
    with run.validator() as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        found = _validate(run)
        assert found.clean, found.summary()
        assert found.topic_documents == found.target_documents == found.expected == 3_000
        assert [v.samples for v in found.partitions] == [200, 200, 200]
        served = json.load(urllib.request.urlopen(url))
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(url.replace("checks", "table"))
    results = {(one["kind"], one["number"]): one for one in served["results"]}
    assert set(results) == {("target", 0), ("target", 1), ("partition", 0), ("partition", 1), ("partition", 2)}
    assert results["partition", 0]["data"]["topic_documents"] == found.partitions[0].topic_documents
    assert process.returncode == 0
    assert Validation.from_dict(json.loads(json.dumps(found.as_dict()))) == found
    topics = set(run.context.cluster.topics(""))
    assert all(t.startswith(("reshelve.", "__")) for t in topics if run.context.run.reindex in t)


def test_drift_of_every_class_is_found_by_key(filled: Fill, database: str) -> None:
    run = filled(rows=2_000, shards=1)
    plain = b'{"id": 1, "name": "somebody else"}'
    missing, reject, stale, foreign, different = (run.key_of_partition(0, skip) for skip in range(5))
    moved = run.key_of_partition(1)
    run.delete(missing)
    run.delete(reject)
    run.write("999999", plain, run.version)
    run.client.delete(index=run.index, id=stale)
    run.client.indices.put_settings(index=run.index, body={"index.gc_deletes": "0s"})
    time.sleep(1.1)  # deleted versions are forgotten on the engine's next look at its clock
    run.client.indices.refresh(index=run.index)
    run.write(stale, run.documents[stale.encode()], run.version - 1)
    run.write(foreign, run.documents[foreign.encode()], run.version + 1)
    run.write(different, plain, run.version)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("update things set name = 'moved on' where id = %s", [moved])
    _reject(run, reject)
    with run.validator():
        run = replace(run, context=_with_samples(run, 2_000))
        found = _validate(run)
    assert not found.clean
    assert _drifted(found) == {
        missing: "missing",
        reject: "missing",
        "999999": "extra",
        stale: "stale",
        foreign: "foreign",
        different: "different",
        moved: "stale",
    }
    assert found.drift == {"missing": 2, "extra": 1, "stale": 2, "different": 1, "foreign": 1}
    assert found.rejected == 1
    records = run.drifted(found.check)
    assert {key: one.drift for key, one in records.items()} == _drifted(found)
    version = run.version
    assert {key: (one.level, one.expected, one.found) for key, one in records.items()} == {
        missing: ("checksums", version, None),
        reject: ("checksums", version, None),
        "999999": ("checksums", None, version),
        stale: ("checksums", version, version - 1),
        foreign: ("checksums", version, version + 1),
        different: ("samples", version, version),
        moved: ("samples", None, version),
    }
    again = recompute(run.context)
    assert again.topic_documents == 2_000 == again.target_documents + 1
    assert again.differing


def _with_samples(run: FilledRun, samples: int):  # type: ignore[no-untyped-def]
    spec = run.context.spec
    validation = spec.validation.model_copy(update={"samples_per_partition": samples})
    return replace(run.context, spec=spec.model_copy(update={"validation": validation}))


def _reject(run: FilledRun, key: str) -> None:
    document = run.documents[key.encode()]
    reject = Reject(key, document, "index", "mapper_parsing_exception", "the server's reason")
    producer = run.context.cluster.producer()
    producer.produce(run.context.run.topic("rejects"), reject.document, key, headers=reject.headers())
    assert producer.flush(30) == 0


def test_an_empty_index_lacks_every_document_and_the_verdict_stays_small(filled: Fill) -> None:
    run = filled(rows=6_000, shards=2, validation="{samples_per_partition: 5}")
    run.client.indices.refresh(index=run.index)
    run.client.delete_by_query(index=run.index, body={"query": {"match_all": {}}}, params={"refresh": "true"})
    with run.validator():
        found = _validate(run)
    assert found.drift == {"missing": 6_000}
    assert found.target_documents == 0
    assert all(len(verdict.drifted) == 1_000 for verdict in found.partitions)
    assert len(json.dumps(found.as_dict())) < 20_000


def test_only_what_is_asked_for_is_checked(filled: Fill) -> None:
    run = filled(rows=500, validation="{counts: 'off', checksums: false, samples_per_partition: 3}")
    run.delete(run.key_of_partition(0))
    with run.validator():
        found = _validate(run)
    assert found.target_documents is None
    assert all(v.counts_match is None and v.checksums_match is None and v.samples == 3 for v in found.partitions)


def test_a_topic_that_is_not_what_the_receipts_say_is_a_fault(filled: Fill) -> None:
    run = filled(rows=300, validation="{samples_per_partition: 0}")
    run = replace(run, tiling=replace(run.tiling, documents=301))
    with run.validator():
        assert _validate(run).faults == ("the topic holds 300 documents of pages, the receipts 301",)
        run = replace(run, tiling=replace(run.tiling, documents=300, checksum=run.tiling.checksum ^ 1))
        assert _validate(run).faults == ("the checksum of the topic is not that of the receipts",)


def test_what_cannot_be_checked_is_an_error_and_no_difference(filled: Fill) -> None:
    run = filled(rows=50)
    run.produce([(b"1", None)], run.version + 1)
    run.drain()
    with run.validator(), pytest.raises(BlockedError, match="no key task"):
        _validate(run)


def test_without_a_validator_it_says_so_and_ends(filled: Fill) -> None:
    run = filled(rows=10)
    with pytest.raises(BlockedError, match="not finished in time"):
        _validate(run, timeout=3)


def test_a_validator_killed_at_work_leaves_its_tasks_to_the_next(filled: Fill) -> None:
    run = filled(rows=40_000, partitions=6, shards=3)
    found: list[Validation] = []
    first = run.start_validator()
    assert first.stdout is not None
    first.stdout.readline()
    check = threading.Thread(target=lambda: found.append(_validate(run, timeout=200)))
    check.start()
    time.sleep(0.7)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    first.stdout.close()
    with run.validator():
        check.join(200)
    assert found and found[0].clean and found[0].topic_documents == 40_000


def test_a_validator_stopped_at_work_gives_its_task_back(filled: Fill) -> None:
    """Faust acknowledges what it cancels; a stop in the middle of a task must not lose it."""
    run = filled(rows=60_000, partitions=2, shards=1)
    found: list[Validation] = []
    with run.validator() as first:
        assert first.stdout is not None
        first.stdout.readline()
        check = threading.Thread(target=lambda: found.append(_validate(run, timeout=100)))
        check.start()
        time.sleep(0.5)  # the scan of the only shard takes longer
        stopped = time.monotonic()
        first.send_signal(signal.SIGTERM)
        assert first.wait(20) == 0
        assert time.monotonic() - stopped < 10
    assert check.is_alive()
    with run.validator():
        check.join(100)
    assert found and found[0].clean


def test_a_validator_started_again_recovers_its_results(filled: Fill) -> None:
    run = filled(rows=100, validation="{samples_per_partition: 1}")
    urls = []
    for _ in range(2):
        with run.validator() as process:
            assert process.stdout is not None
            urls.append(process.stdout.readline().strip())
            served = json.load(urllib.request.urlopen(urls[-1]))["results"]
            assert len(served) == (0 if len(urls) == 1 else 5)
            assert _validate(run).clean


def test_two_validators_share_the_work(filled: Fill) -> None:
    run = filled(rows=2_000, partitions=8, shards=2)
    with run.validator() as one, run.validator() as two:
        for process in (one, two):
            assert process.stdout is not None
            process.stdout.readline()
        workers = set()
        for _ in range(5):  # the group settles after a while
            seen = _workers(run)
            workers |= seen
            if len(seen) == 2:
                break
    assert len(workers) == 2


def _workers(run: FilledRun) -> set[str]:
    """Validate, and say who did it."""
    found = _validate(run)
    assert found.clean
    records = (m.value() for m in run.context.cluster.read(run.context.run.topic("checks"), range(8)))
    results = (decode(record) for record in records if record is not None)
    return {r.worker for r in results if isinstance(r, CheckResult) and check_of(r.check) == found.check}
