"""Level `full`: every document, source against index; each class of drift, and none where a change is under way."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest
from filled_run import FilledRun, fill
from load import Load, applied_version, version_now, write_spec
from opensearchpy import OpenSearch
from pipeline import Pipeline

from reshelve.context import RunContext
from reshelve.journal import JournalWriter
from reshelve.local.stack import Endpoints
from reshelve.model import RunId
from reshelve.producers.segments import tile
from reshelve.state import RunState
from reshelve.validator.coordinator import validate
from reshelve.validator.full_check import BEGAN, CheckBegan, read_results
from reshelve.validator.levels import Levels
from reshelve.validator.tasks import CheckResult, Kind
from reshelve.validator.verdict import FullVerdict, Validation

# The server's clock goes on meanwhile, for the sake of others' transactions: a watermark so much later covers them.
_LATER = 1_000_000_000
_PATIENCE_S = 120.0

Fill = Callable[..., FilledRun]
Results = Mapping[tuple[Kind, int], CheckResult]


@pytest.fixture
def filled(endpoints: Endpoints, database: str, namespace: str, tmp_path: Path) -> Fill:
    def make(**options: object) -> FilledRun:
        run = fill(endpoints, database, namespace, tmp_path, **({"rows": 1_000} | options))  # type: ignore[arg-type]
        run.drain()
        return run

    return make


def _compare(run: FilledRun, began: CheckBegan | None = None, live: bool | None = None) -> Validation:
    """With the validator that there is."""
    levels = Levels.named(["full"], run.context.spec.validation)
    return validate(run.context, run.tiling, levels=levels, live=live, began=began, timeout=200)


def _full(found: Validation) -> FullVerdict:
    assert found.full is not None
    return found.full


def test_where_nothing_differs_nothing_is_found_and_extras_are_not_looked_for(filled: Fill) -> None:
    run = filled()
    began = CheckBegan.now(["full"], tile([(str(n),) for n in range(100, 1_000, 100)]))
    with run.validator():
        found = _compare(run, began)
    assert found.clean, found.summary()
    assert (_full(found).ranges, _full(found).documents, _full(found).slices) == (10, 1_000, None)
    assert run.drifted(found.check) == {}


def test_each_class_of_drift_is_found_and_a_change_under_way_is_none(filled: Fill) -> None:
    run = filled(changes="replication")
    keys = sorted(run.documents)[:9]
    names = ("missing", "different", "stale", "unread", "ahead", "foreign", "deleted", "pending", "unsettled")
    key = {name: one.decode() for name, one in zip(names, keys, strict=True)}
    other = orjson.dumps({"id": 0, "name": "another"})
    changed = ", ".join(key[name] for name in ("stale", "unread", "pending", "unsettled"))
    version = run.execute(
        f"update things set name = name || ' new' where id in ({changed});"
        f"delete from things where id = {key['deleted']}"
    )
    now = run.now()
    run.delete(key["missing"])
    run.write(key["different"], other, run.version)
    run.produce([(key["stale"].encode(), now[key["stale"].encode()])], version)  # and nobody indexes it
    run.write(key["ahead"], run.documents[key["ahead"].encode()], version + _LATER)
    run.write(key["foreign"], other, run.version + 1)
    for ghost in ("ghost", "007", "8" * 30):
        run.write(ghost, other, run.version)
    run.drain()
    run.commit("keys", "changes")
    run.produce([(key["unsettled"].encode(), now[key["unsettled"].encode()])], version)
    run.change(key["pending"])
    run.watermark("changes", version + _LATER)
    with run.validator():
        found = _compare(run)
        again = _compare(run)
    expected = {
        key["missing"]: "missing", key["different"]: "different", key["stale"]: "stale", key["unread"]: "stale",
        key["ahead"]: "foreign", key["foreign"]: "foreign", key["deleted"]: "extra",
        "ghost": "extra", "007": "extra", "8" * 30: "extra",
    }  # fmt: skip
    assert dict(_full(found).drifted) == dict(_full(again).drifted) == expected
    assert not found.clean and found.drift == {"missing": 1, "extra": 4, "stale": 2, "different": 1, "foreign": 2}
    assert _full(found).pending == 2
    records = run.drifted(found.check)
    assert {one.key: one.drift for one in records.values()} == expected
    assert {one.level for one in records.values()} == {"full"}
    stale = records[key["stale"]]
    assert (stale.expected, stale.found) == (version, run.version)


def test_a_validator_that_is_killed_leaves_its_ranges_to_the_next(filled: Fill) -> None:
    run = filled(rows=6_000)
    run.delete("4711")
    began = CheckBegan.now(["full"], tile([(str(n),) for n in range(100, 6_000, 100)]))
    found: list[Validation] = []
    coordinator = threading.Thread(target=lambda: found.append(_compare(run, began)))
    with run.validator() as first:
        coordinator.start()
        _wait_for("a range is compared", lambda: bool(read_results(run.context, began.check)))
        first.kill()
        first.wait()
        known = read_results(run.context, began.check)
        with run.validator():
            coordinator.join(200)
    assert found and dict(_full(found[0]).drifted) == {"4711": "missing"}
    assert (_full(found[0]).ranges, _full(found[0]).documents) == (60, 6_000)
    _assert_kept(known, read_results(run.context, began.check), run.context.partitions)


@pytest.mark.timeout(400)
def test_a_check_that_is_killed_is_gone_on_with(docs: Callable[[int], Pipeline], opensearch: OpenSearch) -> None:
    p = docs(4_000)
    p.write(changes="none", limits={"documents_per_second": 1_000})
    p.run("--until", "validated").expect(0)
    run = p.last_run
    opensearch.delete(index=run.index, id="3999", params={"refresh": "true"})
    began = CheckBegan.now(["full"], tile([(str(n),) for n in range(200, 4_000, 200)]))
    JournalWriter(p.cluster, run).append(BEGAN, began.as_dict())
    context = RunContext(_state(p).plan, _state(p).plan.resolve(p.environ))

    def results() -> Results:
        return read_results(context, began.check)

    process = p.start("validate", run, "--level", "full")
    _wait_for("three ranges are compared", lambda: len(results()) >= 3 or process.poll() is not None)
    process.kill()
    process.communicate()
    before = results()
    assert 3 <= len(before) < 20

    ended = p.reshelve("validate", run, "--level", "full", "--json", timeout=200).expect(3)
    found = ended.lines[0]
    assert found["check"] == began.check and found["levels"] == ["full"]
    assert found["full"]["drifted"] == [["3999", "missing"]]
    assert (found["full"]["ranges"], found["full"]["documents"]) == (20, 4_000)
    assert f"going on with check {began.check}" in ended.stderr
    _assert_kept(before, results(), context.partitions)
    assert _state(p).facts["validated"]["check"] == began.check


@pytest.mark.timeout(300)
def test_scope_and_transform_say_what_is_expected(docs: Callable[[int], Pipeline], opensearch: OpenSearch) -> None:
    p = docs(600)
    (p.folder / "hook.py").write_text(
        "def shape(row):\n    return None if row['id'] % 5 == 0 else row | {'upper': row['name'].upper()}\n"
    )
    p.write(changes="none", transform="hook:shape", scope={"where": "id <= 500"}, validation={"full": True})
    p.run("--until", "validated").expect(0)
    run = p.last_run
    validation = _state(p).facts["validated"]
    assert (validation["full"]["documents"], validation["full"]["drift"]) == (400, {})
    document, later = {"id": 1, "name": "document 1"}, {"version": "1" * 15, "version_type": "external"}
    for key in ("5", "501", "2"):  # left out, out of scope, not transformed
        opensearch.index(index=run.index, id=key, body=document, params=later)
    found = p.reshelve("validate", run, "--level", "full", "--json").expect(3).lines[0]
    assert dict(found["full"]["drifted"]) == {"5": "foreign", "501": "foreign", "2": "foreign"}


@pytest.mark.timeout(600)
def test_under_load_there_is_no_false_alarm_and_nothing_is_missed(pipeline: Pipeline, opensearch: OpenSearch) -> None:
    load = Load(pipeline, 3_000, 7, rate=300)
    load.prepare()
    # No transaction of the load comes by these: their country is none of its countries.
    pipeline.execute("insert into items select n, 0, 'calm ' || n, 0 from generate_series(900001, 900010) n")
    write_spec(pipeline, documents_per_second=10_000)
    with _following(pipeline) as run, load.running():
        for _ in range(2):
            found = pipeline.reshelve("validate", run, "--level", "full", "--json").expect(0).lines[0]
            assert found["full"]["documents"] > 2_000 and found["full"]["drift"] == {}
        opensearch.delete(index=run.index, id="900001")
        calm = opensearch.get(index=run.index, id="900002")
        as_it_was = {"version": str(calm["_version"]), "version_type": "external_gte"}
        opensearch.index(index=run.index, id="900002", body=calm["_source"] | {"n": 1}, params=as_it_was)
        opensearch.index(index=run.index, id="900099", body={}, params=as_it_was)
        opensearch.index(index=run.index, id="ghost", body={}, params=as_it_was)
        found = pipeline.reshelve("validate", run, "--level", "full", "--json").expect(3).lines[0]
        expected = {"900001": "missing", "900002": "different", "900099": "extra", "ghost": "extra"}
        assert dict(found["full"]["drifted"]) == expected


@contextmanager
def _following(p: Pipeline) -> Iterator[RunId]:
    """`reshelve run` of the spec, from when it follows; its slot is dropped with the database."""
    log = p.folder / "run.log"
    with log.open("w") as out:
        process = p.spawn(["run", p.spec], None, stdout=out, stderr=out)
    try:

        def follows() -> bool:
            assert process.poll() is None, log.read_text()
            return any(state.following for state in p.states())

        _wait_for("the run follows", follows)
        version = version_now(p)
        _wait_for("it has caught up", lambda: applied_version(p, p.last_run) >= version)
        yield p.last_run
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _assert_kept(before: Results, after: Results, partitions: int) -> None:
    """What was done once was not done again, but for what each partition's validator had not acknowledged yet."""
    again = [at for at, one in before.items() if (one.worker, one.seconds) != (after[at].worker, after[at].seconds)]
    assert len(again) <= partitions


def _state(p: Pipeline) -> RunState:
    return p.states()[-1]


def _wait_for(what: str, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {_PATIENCE_S:.0f} s: {what}"
        time.sleep(0.1)
