"""A run that nobody drives is aborted: before its swap, after it, and killed anywhere on the way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from filled_run import FilledRun, fill

from reshelve.abort import Ending, abort_run
from reshelve.cli.abort import abort
from reshelve.commands import Command
from reshelve.consumers import generation
from reshelve.context import RunContext
from reshelve.control import read_control
from reshelve.errors import UsageError
from reshelve.journal import JournalWriter, create_journal, read_journal
from reshelve.live import LiveChanges
from reshelve.local.stack import Endpoints
from reshelve.plan import make_plan
from reshelve.state import RunState, fold


class Killed(Exception):
    """Where a test ends a process."""


class Undriven:
    """A filled run with a journal, left by whoever drove it."""

    def __init__(self, run: FilledRun, context: RunContext) -> None:
        self.run, self.context, self.folder = run, context, run.plan_file.parent
        create_journal(context.cluster, None)
        plan = context.plan
        self.record("planned", {"plan": plan.as_dict(), "owner": "", "why": ""})
        self.record("started", {"limits": context.spec.limits.model_dump(mode="json")})
        self.record("created", {"index": plan.index, "uuid": run.uuid, "topics": []})

    def record(self, kind: str, data: dict[str, Any]) -> None:
        JournalWriter(self.context.cluster, self.context.run).append(kind, data)

    @property
    def state(self) -> RunState:
        events = read_journal(self.context.cluster, run=self.context.run)
        return fold(events)[str(self.context.run)]

    @property
    def alias(self) -> tuple[str, ...]:
        return generation.alias_targets(self.context.opensearch, self.context.plan.alias).indexes

    def swap(self) -> None:
        """As a driver does that is killed before it can say so."""
        plan = self.context.plan
        self.record("cutover_began", {"alias": plan.alias, "from": plan.previous_index, "to": plan.index})
        generation.swap(self.context.opensearch, plan.alias, plan.index, plan.previous_index)

    def abort(self, *, clean: bool = False) -> None:
        bootstrap = self.context.spec.kafka.bootstrap
        name, reports = str(self.context.run), self.folder / "reports"
        abort(name, "not wanted", "jane", clean, True, reports, False, bootstrap, None)


class Dying:
    """A process that is killed when it wants to write more entries than so many."""

    def __init__(self, left: Undriven, writes: int) -> None:
        self._left, self._writes, self.state = left, writes, left.state
        self._journal = JournalWriter(left.context.cluster, left.context.run)

    def record(self, kind: str, data: dict[str, Any]) -> None:
        if self._writes == 0:
            raise Killed
        self._writes -= 1
        self.state.take(self._journal.append(kind, data))


def undriven(
    endpoints: Endpoints, database: str, namespace: str, folder: Path, *, previous: bool = False, changes: str = "none"
) -> Undriven:
    run = fill(endpoints, database, namespace, folder, rows=20, changes=changes)
    context = run.context
    if previous:
        older = f"{namespace}-older"
        generation.create(run.client, older, f"{older}.write", {})
        generation.swap(run.client, context.plan.alias, older, None)
        now = make_plan(context.spec)
        plan = replace(context.plan, previous_index=now.previous_index, previous_uuid=now.previous_uuid)
        context = RunContext(plan, context.spec)
    return Undriven(run, context)


@pytest.fixture(autouse=True)
def environment(endpoints: Endpoints, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_URL", database)
    monkeypatch.setenv("OPENSEARCH_URL", endpoints.opensearch_url)
    monkeypatch.setenv("KAFKA_BOOTSTRAP", endpoints.kafka_bootstrap)


def test_before_the_swap_its_slot_goes_and_its_index_stays(
    endpoints: Endpoints, database: str, namespace: str, tmp_path: Path
) -> None:
    left = undriven(endpoints, database, namespace, tmp_path, changes="replication")
    driver = Dying(left, writes=1)
    LiveChanges(left.context, driver.state, driver.record, lambda text: None).begin()
    left.abort()
    state = left.state
    assert (state.state, state.rolled_back, state.facts["aborted"]["by"]) == ("aborted", False, "jane")
    told = read_control(left.context.cluster, left.context.run, timeout=10).aborted
    assert told is not None and told.why == "not wanted"  # to its workers elsewhere
    with psycopg.connect(database) as connection:
        slots = "select from pg_replication_slots where database = current_database()"
        assert connection.execute(slots).fetchall() == []
        assert connection.execute("select from pg_publication").fetchall() == []
    assert left.alias == () and generation.uuid(left.run.client, left.run.index) == left.run.uuid
    entries = state.events
    left.abort()  # again: there is nothing left to do
    assert left.state.events == entries
    left.abort(clean=True)
    assert left.state.cleaned and generation.uuid(left.run.client, left.run.index) is None
    assert left.context.cluster.topics(left.context.run.prefix) == {}


def test_killed_anywhere_the_alias_is_at_one_of_two_whole_indexes(
    endpoints: Endpoints, database: str, namespace: str, tmp_path: Path
) -> None:
    left = undriven(endpoints, database, namespace, tmp_path, previous=True)
    left.swap()
    plan, asked = left.context.plan, Command("abort", 0, "jane", "not wanted")
    found = None
    for writes in range(10):
        dying = Dying(left, writes)
        try:
            found = abort_run(left.context, dying.state, asked, dying.record, lambda text: None)
            break
        except Killed:
            assert left.alias in ((plan.index,), (plan.previous_index,))
    assert found is Ending.ROLL_BACK and writes >= 3
    assert left.alias == (plan.previous_index,)
    assert (left.state.state, left.state.rolled_back) == ("aborted", True)


def test_without_a_way_back_the_run_is_completed(
    endpoints: Endpoints, database: str, namespace: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left = undriven(endpoints, database, namespace, tmp_path)
    left.swap()
    left.abort()
    assert left.alias == (left.run.index,)
    assert (left.state.state, left.state.rolled_back) == ("completed", False)
    assert "there is no index before it to go back to" in capsys.readouterr().out
    with pytest.raises(UsageError, match="can't be aborted") as refused:
        left.abort()
    assert "reshelve rollback" in refused.value.remedy
