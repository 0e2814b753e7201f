from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from confluent_kafka import TopicPartition
from filled_run import FilledRun, fill

from reshelve.applied import Applied
from reshelve.consumers import generation
from reshelve.context import RunContext
from reshelve.cutover import GateFacts, LiveFacts, cut_over, gates, gather, roll_back
from reshelve.errors import GateClosed, TargetRefused
from reshelve.local.stack import Endpoints
from reshelve.plan import make_plan
from reshelve.producers.slot import create_publication, create_slot, drop_slot
from reshelve.validator.recomputation import recompute
from reshelve.validator.verdict import PartitionVerdict, Validation

_CLEAN = Validation("check", "2026-01-02T03:04:05+00:00", 1.0, 100, (PartitionVerdict(0, 100, "0", 100, True, True),))


@pytest.fixture
def run(endpoints: Endpoints, database: str, namespace: str, tmp_path: Path) -> FilledRun:
    return fill(endpoints, database, namespace, tmp_path, rows=100)


def _facts(run: FilledRun) -> GateFacts:
    return gather(run.context, run.tiling, _CLEAN, run.uuid)


def _alias(run: FilledRun) -> tuple[str, ...]:
    return generation.alias_targets(run.client, run.context.plan.alias).indexes


def _behind_an_older_generation(run: FilledRun) -> FilledRun:
    """The run as planned when the alias pointed to another index already."""
    older = f"{run.context.run.reindex}-older"
    generation.create(run.client, older, f"{older}.write", {})
    generation.swap(run.client, run.context.plan.alias, older, None)
    planned = make_plan(run.context.spec)
    plan = replace(run.context.plan, previous_index=planned.previous_index, previous_uuid=planned.previous_uuid)
    assert plan.previous_index == older
    return replace(run, context=RunContext(plan, run.context.spec))


def test_the_first_generation_is_published_and_cannot_be_rolled_back(run: FilledRun) -> None:
    run.drain()
    facts = _facts(run)
    assert [gate.name for gate in gates(facts) if not gate.open] == []
    health = cut_over(run.context, facts)
    assert (health.active, health.note) == (2, "")
    assert _alias(run) == (run.index,)
    assert run.client.count(index=run.context.plan.alias)["count"] == 100
    settings = run.client.indices.get_settings(index=run.index)[run.index]["settings"]["index"]
    assert settings["refresh_interval"] == "5s"
    cut_over(run.context, _facts(run))  # again, as after a crash between the swap and its record
    with pytest.raises(TargetRefused, match="no generation before"):
        roll_back(run.context, None, None)


def test_swap_and_roll_back(run: FilledRun) -> None:
    run = _behind_an_older_generation(run)
    run.drain()
    plan = run.context.plan
    cut_over(run.context, _facts(run))
    assert _alias(run) == (run.index,)
    with pytest.raises(TargetRefused, match="another index of the same name"):
        roll_back(run.context, plan.previous_index, "another")
    roll_back(run.context, plan.previous_index, plan.previous_uuid)
    assert _alias(run) == (plan.previous_index,)
    roll_back(run.context, plan.previous_index, plan.previous_uuid)
    cut_over(run.context, _facts(run))
    assert plan.previous_index is not None
    run.client.indices.delete(index=plan.previous_index)
    with pytest.raises(TargetRefused, match="is gone"):
        roll_back(run.context, plan.previous_index, plan.previous_uuid)
    assert _alias(run) == (run.index,)


def _closed(run: FilledRun) -> str:
    facts = _facts(run)
    before = _alias(run)
    with pytest.raises(GateClosed) as caught:
        cut_over(run.context, facts)
    assert _alias(run) == before
    return caught.value.where


def test_an_undrained_topic_keeps_the_gate_closed(run: FilledRun) -> None:
    assert _closed(run) == "topic drained, counts and checksums, recomputed"
    run.drain()
    run.produce([(b"1", run.documents[b"1"])], run.version)
    assert _closed(run) == "topic drained, counts and checksums, recomputed"


def test_a_write_by_somebody_else_after_the_validation_keeps_the_gate_closed(run: FilledRun) -> None:
    run.drain()
    run.write("1", b"{}", run.version + 1)
    assert _closed(run) == "counts and checksums, recomputed"


def test_an_index_that_was_replaced_keeps_the_gate_closed(run: FilledRun) -> None:
    run.drain()
    run.client.indices.delete(index=run.index)
    generation.create(run.client, run.index, run.context.plan.write_alias, {})
    assert _closed(run) == "counts and checksums, recomputed, index unchanged"


def test_an_alias_that_was_moved_keeps_the_gate_closed(run: FilledRun) -> None:
    run.drain()
    other = f"{run.context.run.reindex}-other"
    run.client.indices.create(index=other)
    run.client.indices.put_alias(index=other, name=run.context.plan.alias)
    assert _closed(run) == "alias where it was"


def test_an_index_with_the_name_of_the_alias_keeps_the_gate_closed(run: FilledRun) -> None:
    run.drain()
    run.client.indices.create(index=run.context.plan.alias)
    assert _closed(run) == "alias where it was"


def test_an_alias_moved_while_the_index_is_finished_is_noticed(run: FilledRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run.drain()
    facts, finish = _facts(run), generation.finish
    move: Callable[..., object] = run.client.indices.put_alias

    def finish_and_move(*args: object, **options: object) -> object:
        health = finish(*args, **options)  # type: ignore[arg-type]
        other = f"{run.context.run.reindex}-other"
        run.client.indices.create(index=other)
        move(index=other, name=run.context.plan.alias)
        return health

    monkeypatch.setattr(generation, "finish", finish_and_move)
    with pytest.raises(GateClosed, match="alias where it was"):
        cut_over(run.context, facts)
    assert run.index not in _alias(run)


@pytest.fixture
def followed(endpoints: Endpoints, database: str, namespace: str, tmp_path: Path) -> Iterator[FilledRun]:
    """A run that follows changes, with its slot, whose applied clock is that of the copy."""
    run = fill(endpoints, database, namespace, tmp_path, rows=100, changes="replication")
    changes, cluster = run.context.plan.changes, run.context.cluster
    documents, partitions = run.context.run.topic("documents"), run.context.partitions
    with psycopg.connect(database, autocommit=True) as connection:
        create_publication(connection, changes)
        create_slot(connection, changes, lambda text: None)
        run.commit("keys", "changes")
        applied = Applied(run.version, int(time.time() * 1000)).encode()
        places = [
            TopicPartition(documents, p, end, applied) for p, end in cluster.stable_ends(documents, partitions).items()
        ]
        cluster.place_group(run.context.run.group("indexer"), places)
        yield run
        drop_slot(connection, changes.slot)


def _live(run: FilledRun) -> LiveFacts:
    documents, partitions = run.context.run.topic("documents"), run.context.partitions
    return LiveFacts(
        settled=dict.fromkeys(range(partitions), 0),
        validated_version=run.version,
        ends=run.context.cluster.stable_ends(documents, partitions),
        recomputed=recompute(run.context),
    )


def _judged(run: FilledRun, live: LiveFacts | None) -> list[str]:
    return [gate.name for gate in gates(gather(run.context, run.tiling, _CLEAN, run.uuid, live)) if not gate.open]


def test_a_run_that_follows_changes_is_published_while_they_go_on(followed: FilledRun) -> None:
    run, live = followed, _live(followed)
    assert _judged(run, None) == ["topic drained", "counts and checksums, recomputed", "settled", "applied clock"]
    run.produce([(b"1", b"{}"), (b"2", None)], run.version + 1)  # changes that came after the validation
    assert _judged(run, live) == []
    assert _judged(run, replace(live, validated_version=run.version + 1)) == ["applied clock"]
    assert _judged(run, replace(live, settled={0: 1})) == ["settled"]
    cut_over(run.context, gather(run.context, run.tiling, _CLEAN, run.uuid, live))
    assert _alias(run) == (run.index,)


def test_a_slot_that_is_lost_while_the_index_is_finished_is_noticed(
    followed: FilledRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, finish = followed, generation.finish
    found = gather(run.context, run.tiling, _CLEAN, run.uuid, _live(run))

    def finish_and_lose(*args: object, **options: object) -> object:
        with psycopg.connect(run.environ["SOURCE_URL"], autocommit=True) as connection:
            drop_slot(connection, run.context.plan.changes.slot)
        return finish(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(generation, "finish", finish_and_lose)
    with pytest.raises(GateClosed, match="replication slot"):
        cut_over(run.context, found)
    assert _alias(run) == ()
