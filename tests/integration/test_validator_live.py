"""The validator where changes are followed. Nobody follows them here: the test does, rightly or wrongly."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from filled_run import FilledRun, fill

from reshelve.errors import BlockedError, Unreachable
from reshelve.local.stack import Endpoints
from reshelve.model import partition_of
from reshelve.validator.changed import ChangeLog
from reshelve.validator.coordinator import validate
from reshelve.validator.recomputation import recompute
from reshelve.validator.verdict import Validation

# The server's clock goes on meanwhile, for the sake of others' transactions: a watermark so much later covers them.
_LATER = 1_000_000_000

Fill = Callable[..., FilledRun]
Report = Callable[[str], None]


@pytest.fixture
def filled(endpoints: Endpoints, database: str, namespace: str, tmp_path: Path) -> Fill:
    def make(**options: object) -> FilledRun:
        asked = {"rows": 1_000, "changes": "replication", "validation": "{samples_per_partition: 2000}"}
        run = fill(endpoints, database, namespace, tmp_path, **(asked | options))  # type: ignore[arg-type]
        run.drain()
        return run

    return make


def _validate(run: FilledRun) -> Validation:
    with run.validator():
        return _validate_again(run)


def _validate_again(run: FilledRun, report: Report = lambda text: None) -> Validation:
    """With the validator that there is."""
    return validate(run.context, run.tiling, timeout=200, report=report)


def _drifted(found: Validation) -> dict[str, str]:
    return {key: drift for verdict in found.partitions for key, drift in verdict.drifted}


def _change_three(run: FilledRun) -> int:
    """Update 1, delete 2, insert 1001, all of it followed; returns the version that they were read at."""
    version = run.execute(
        "update things set name = 'new' where id = 1; delete from things where id = 2;"
        "insert into things values (1001, 'born', 0, null)"
    )
    run.change("1", "2", "1001")
    run.read_again(version, "1", "2", "1001")
    for topic in ("changes", "documents"):
        run.watermark(topic, version)
    run.drain()
    return version


def test_repeated_keys_tombstones_and_watermarks_are_no_difference(filled: Fill) -> None:
    run = filled()
    version = _change_three(run)
    run.produce([(b"1", run.documents[b"1"]), (b"2", run.documents[b"2"])], run.version)  # pages that came late
    run.change("1", "2")  # the settling
    run.read_again(version, "1", "2")
    run.watermark("documents", version - 1)
    run.drain()
    found = _validate(run)
    assert found.clean, found.summary()
    assert found.topic_documents == found.target_documents == 1_000 == found.expected
    assert (found.samples, found.pending) == (1_001, 0)  # the key that was deleted is a sample too
    assert found.version == version
    again = recompute(run.context)
    assert (again.topic_documents, again.topic_checksum) == (again.target_documents, again.target_checksum)
    assert (again.differing, again.version) == ((), version)
    ends = run.context.cluster.stable_ends(run.context.run.topic("documents"), run.context.partitions)
    assert found.ends == again.ends == ends


def test_what_the_index_missed_is_found(filled: Fill) -> None:
    run = filled()
    version = _change_three(run)
    deleted, updated, foreign = (run.key_of_partition(p, 5) for p in range(3))
    missing = run.key_of_partition(0, 20)
    run.execute(f"delete from things where id = {deleted}; update things set name = 'x' where id = {updated}")
    run.change(deleted, updated, missing)
    run.produce([(deleted.encode(), None), (updated.encode(), b'{"id": 0}')], version + 1)
    run.drain()
    run.commit("keys", "changes")
    run.watermark("changes", version + _LATER)
    run.write(foreign, run.documents[foreign.encode()], version + 2)
    run.delete(missing)
    found = _validate(run)
    assert not found.clean
    assert _drifted(found) == {deleted: "extra", updated: "stale", foreign: "foreign", missing: "missing"}
    assert found.drift == {"missing": 1, "extra": 1, "stale": 1, "foreign": 1}
    assert set(recompute(run.context).differing) == {partition_of(k.encode(), 3) for k in _drifted(found)}


def test_a_lost_change_is_drift_and_one_that_is_under_way_is_not(filled: Fill) -> None:
    run = filled()
    _change_three(run)
    lost_delete, lost_update, under_way, deleted_under_way = (run.key_of_partition(0, skip) for skip in range(5, 9))
    version = run.execute(
        f"delete from things where id in ({lost_delete}, {deleted_under_way});"
        f"update things set name = 'y' where id in ({lost_update}, {under_way});"
        "insert into things values (2, 'reborn', 0, null)"  # lost as well
    )
    run.change(under_way, deleted_under_way)
    run.watermark("changes", version + _LATER)
    run.change(lost_update, lost_delete)  # of a later change: the watermark says that they are not under way
    with run.validator():
        found = _validate_again(run)
        assert _drifted(found) == {lost_delete: "extra", lost_update: "stale", "2": "missing"}
        assert found.pending == 2
        assert "2 not judged" in found.summary()
        run.commit("keys", "changes")  # the key readers say that they have read them: then they are lost too
        run.watermark("changes", version + _LATER)
        found = _validate_again(run)
    assert set(_drifted(found)) == {lost_delete, lost_update, "2", under_way, deleted_under_way}


def test_a_document_that_nobody_meant_to_be_twice_in_the_topic_is_a_fault(filled: Fill) -> None:
    run = filled(changes="none", validation="{samples_per_partition: 0}")
    run.change("3")
    run.read_again(run.version + 1, "3")
    with run.validator():
        assert _validate_again(run).clean
        run.produce([(b"4", run.documents[b"4"])], run.version)
        run.drain()
        found = _validate_again(run)
    assert not found.clean and found.drift == {}
    partition = partition_of(b"4", 3)
    assert found.faults[-1] == f"partitions {partition}: a document stands in the topic twice, and no key task names it"
    assert recompute(run.context).differing == (partition,)


def test_where_the_beginning_of_changes_is_gone_every_key_may_be_changed(filled: Fill) -> None:
    run = filled(validation="{samples_per_partition: 0}")
    version = _change_three(run)
    topic = run.context.run.topic("changes")
    ends = run.context.cluster.stable_ends(topic, 3)
    gone = [TopicPartition(topic, p, end - 1) for p, end in ends.items()]
    for deleted in run.context.cluster.admin.delete_records(gone).values():
        deleted.result()
    found = _validate(run)
    assert found.clean and found.topic_documents == 1_000 and found.version == version
    # In a partition of one record, that was a watermark, and is still there.
    assert all((verdict.page_records == 0) == (ends[verdict.partition] > 1) for verdict in found.partitions)


def test_what_is_being_indexed_is_no_difference(filled: Fill) -> None:
    run = filled(validation="{samples_per_partition: 2000}")
    _change_three(run)
    behind, ahead, deleted, gone, born, lost, wrong = (run.key_of_partition(0, skip) for skip in range(5, 12))
    version = run.execute(
        f"update things set name = 'z' where id in ({behind}, {ahead}, {lost}, {wrong});"
        f"delete from things where id in ({deleted}, {gone}, {born})"
    )
    keys = (behind, ahead, deleted, gone, born, lost, wrong)
    run.change(*keys)
    run.commit("keys", "changes")
    run.watermark("changes", version + _LATER)
    now = run.now()
    run.produce([(key.encode(), now.get(key.encode())) for key in keys], version)
    run.produce([(born.encode(), b"{}"), (b"1002", b"{}"), (b"1002", None)], version + 1)
    for key in (ahead, gone):  # the indexers have come as far as that: neither more nor less has been committed
        run.put({key.encode(): now.get(key.encode())}, version)
    run.delete(lost)
    run.write(wrong, b"{}", version + 5)
    found = _validate(run)
    assert found.unsettled == 8
    assert _drifted(found) == {lost: "missing", wrong: "foreign"}
    assert found.pending == 3, found.summary()  # behind, deleted, and what was born again: samples that can't be judged
    again = recompute(run.context)
    assert (again.differing, again.unsettled) == ((0,), 8)


def test_without_a_watermark_samples_cannot_be_judged(filled: Fill) -> None:
    run = filled(rows=10)
    run.change("1", "2")
    changes = ChangeLog(run.context.cluster, run.context.run, partition_of(b"1", 3), 3)
    keys = frozenset((b"1", b"none"))
    with pytest.raises(Unreachable, match="change tailer"):
        changes.pending(keys, 0, 5, patience=0.5)
    assert changes.pending(keys, 0, None) == {b"1"}
    run.watermark("changes", 4)
    later = threading.Timer(0.7, lambda: run.watermark("changes", 5))
    later.start()
    assert changes.pending(keys, 0, 5) == {b"1"}
    later.join()
    run.watermark("changes", 6)
    assert (
        changes.pending(keys, run.context.cluster.stable_ends(changes._topic, 3)[changes.partition] - 1, 5)
        == frozenset()
    )


def test_a_record_in_the_wrong_partition_is_refused(filled: Fill) -> None:
    run = filled(rows=10)
    topic = run.context.run.topic("changes")
    producer = run.context.cluster.producer()
    producer.produce(topic, b"", b"1", partition=(partition_of(b"1", 3) + 1) % 3)
    producer.flush(30)
    with pytest.raises(BlockedError, match="not one of this partition"):
        recompute(run.context)
