"""A standby takes over in the middle: the run is Blocked, and a new one holds nothing of what was lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from faulty import Victim, wait_for
from opensearchpy import OpenSearch
from own_source import Sources, ask, await_indexed, leftovers, require_blocked, require_equal, started, url_of

from reshelve.local.postgres import PostgresServer

pytestmark = pytest.mark.timeout(600)

_ANOTHER = "another history"
_SYNCED = {"hot_standby_feedback": "on", "sync_replication_slots": "on", "primary_slot_name": "standby"}


def promote(standby: PostgresServer) -> None:
    assert ask(standby.url, "select pg_promote()")


def await_received(primary: PostgresServer, standby: PostgresServer) -> None:
    """Until the standby has replayed what the primary has written."""
    written = ask(primary.url, "select pg_current_wal_flush_lsn()::text")
    wait_for(
        "the standby has it all", lambda: bool(ask(standby.url, f"select pg_last_wal_replay_lsn() >= '{written}'"))
    )


def test_a_planned_switchover_during_the_copy(sources: Sources, opensearch: OpenSearch, tmp_path: Path) -> None:
    """Nothing is lost. The slot has gone with it to the promoted server, which would keep WAL for it for ever."""
    with started(tmp_path / "primary") as primary:
        ask(primary.url, "select pg_create_physical_replication_slot('standby', true)")
        with started(tmp_path / "standby", standby_of=primary, settings=_SYNCED) as standby:
            p = sources.docs(primary, 3_000, standby)
            p.write(limits={"documents_per_second": 150})
            run = p.start("run", p.spec, "--json")
            p.await_receipts(run, 3)
            first = p.last_run
            assert ask(primary.url, f"select failover from pg_replication_slots where slot_name = '{first.slot}'")
            p.execute("update docs set name = 'changed' where id = 1")
            await_indexed(p, opensearch, first.index, "1", "changed")
            synced = f"select count(*) from pg_replication_slots where slot_name = '{first.slot}' and not temporary"
            wait_for("the slot is synchronized", lambda: ask(standby.url, synced) == 1)
            primary.stop()
            promote(standby)
            error = p.finish(run).expect(3).json["error"]
            require_blocked(p, error, _ANOTHER)
            assert not opensearch.indices.exists_alias(name=p.alias)
            assert leftovers(p.database) == [first.slot, first.slot]
            listed = p.reshelve("runs", "--json").expect(0).json["slots"]
            assert [one["left"] for one in listed if one["slot"] == first.slot] == [True]
            again = p.reshelve("run", p.spec, "--json").expect(3).json["error"]
            assert "source timeline (1 → 2)" in again["why"] and "--new" in again["remedy"]
            p.write()
            done = p.reshelve("run", p.spec, "--new").expect(0)
            assert f"run {first} given up" in done.stderr
            require_equal(p, opensearch)
            assert leftovers(p.database) == []


def test_lost_transactions_leave_no_phantoms(sources: Sources, opensearch: OpenSearch, tmp_path: Path) -> None:
    """What had been indexed was never replicated: first while a run copies, then while a completed one is followed."""
    with started(tmp_path / "first") as first, started(tmp_path / "second", standby_of=first) as second:
        p = sources.docs(first, 3_000, second)
        p.write(limits={"documents_per_second": 150})
        run = p.start("run", p.spec, "--json")
        p.await_receipts(run, 1)
        copying = p.last_run
        lose(p, first, second, opensearch, copying.index)
        require_blocked(p, p.finish(run).expect(3).json["error"], _ANOTHER)
        assert not opensearch.indices.exists_alias(name=p.alias)

        p.write(follow="always")
        with started(tmp_path / "third", standby_of=second) as third:
            p.environ["SOURCE_URL"] = p.database = url_of(p.name, second, third)
            run = p.start("run", p.spec, "--json", "--new")
            p.await_stage("follow")
            require_equal(p, opensearch)
            followed = p.last_run
            lose(p, second, third, opensearch, followed.index)
            require_blocked(p, p.finish(run).expect(3).json["error"], _ANOTHER)
            assert list(opensearch.indices.get_alias(name=p.alias)) == [followed.index]
            refused = p.reshelve("follow", str(followed), "--json").expect(3).json["error"]
            assert _ANOTHER in refused["why"] or _ANOTHER in refused["what"]
            p.write()
            p.reshelve("run", p.spec, "--new").expect(0)
            require_equal(p, opensearch)
            assert "phantom" not in {one.document["name"] for one in p.indexed(opensearch).values()}
            p.reshelve("retire", str(followed)).expect(0)
            assert leftovers(p.database) == []


def lose(p: Victim, primary: PostgresServer, standby: PostgresServer, search: OpenSearch, index: str) -> None:
    """Changes that are in the index already, and that only the primary has, which dies."""
    await_received(primary, standby)
    standby.stop()
    p.execute(
        "insert into docs values (1000001, 'phantom'); update docs set name = 'phantom' where id = 1;"
        "delete from docs where id = 2"
    )
    await_indexed(p, search, index, "1000001", "phantom")
    await_indexed(p, search, index, "1", "phantom")
    primary.kill()
    standby.start()
    standby.wait_healthy()
    promote(standby)
