"""What changes can't tell ends the run Blocked, with a remedy that works; nothing is swapped, and nothing is left."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from faulty import Victim, wait_for
from opensearchpy import OpenSearch
from own_source import Sources, ask, await_indexed, leftovers, require_blocked, require_equal, started

from reshelve.local.postgres import PostgresServer

pytestmark = pytest.mark.timeout(600)

_TAILER_ALONE = ("--page-readers", "0", "--key-readers", "0", "--indexers", "0")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    settings = {"max_prepared_transactions": "4", "min_wal_size": "32MB", "max_wal_size": "128MB"}
    with started(tmp_path_factory.mktemp("source"), settings=settings) as running:
        yield running


# --- what breaks the history of a run


@dataclass(frozen=True)
class Break:
    """What somebody does to the source, and what the run then says.

    meanwhile  while the change tailer works; else while the run is stopped
    undo       what the spec needs afterwards
    """

    statements: Sequence[str]
    why: str
    meanwhile: bool = True
    undo: str = "select"


_DROP = "select pg_drop_replication_slot('{run}')"
_TABLE = [
    Break(["truncate docs"], "truncated"),
    Break(["alter table docs alter column name type varchar(200) using left(name, 200)"], "altered"),
    Break(
        ["alter table docs rename column id to number", "insert into docs values (0, '')"],
        "altered|no column id",
        undo="alter table docs rename column number to id",
    ),
    Break(["alter table docs add more text"], "tables", meanwhile=False),
]
_PARTITIONS = [
    Break(["create table more partition of docs for values from (100) to (200)"], "altered"),
    Break(["alter table docs detach partition more"], "altered"),
    Break(['alter publication "{run}" drop table docs'], "was changed since the slot was made|leaves out table"),
    Break(["alter publication \"{run}\" set (publish = 'insert')"], "does not publish", meanwhile=False),
]
_SLOT = [
    Break([_DROP], "is lost|is gone"),
    Break([_DROP], "gone|lost", meanwhile=False),
    Break(
        ["insert into docs values (0, '')", "select pg_replication_slot_advance('{run}', pg_current_wal_lsn())"],
        "moved or made anew",
        meanwhile=False,
    ),
    Break(
        [
            "insert into docs values (-1, '')",
            _DROP,
            "select pg_create_logical_replication_slot('{run}', 'pgoutput')",
        ],
        "moved or made anew",
        meanwhile=False,
    ),
]


def test_what_breaks_the_history_is_blocked(server: PostgresServer, sources: Sources, opensearch: OpenSearch) -> None:
    """Each chain ends with a run that completes: what the broken ones made at the source is gone."""
    plain, parted, slotted = (sources.docs(server, 20) for _ in range(3))
    parted.execute(
        "alter table docs rename to one; create table docs (like one including all) partition by range (id);"
        "alter table docs attach partition one for values from (0) to (100)"
    )
    chains = [(plain, _TABLE), (parted, _PARTITIONS), (slotted, _SLOT)]
    with ThreadPoolExecutor(len(chains)) as pool:
        list(pool.map(lambda chain: break_and_rebuild(*chain, opensearch), chains))


def break_and_rebuild(p: Victim, breaks: Sequence[Break], search: OpenSearch) -> None:
    for number, one in enumerate(breaks):
        p.write()
        run = start_tailing(p)
        if not one.meanwhile:
            run.send_signal(signal.SIGINT)
            p.finish(run).expect(130)
            wait_for("the slot is let go", lambda: not active(p))
        for statement in one.statements:
            execute_on_slot(p, statement.format(run=p.last_run.slot))
        if not one.meanwhile:
            run = p.start("run", p.spec, "--json", *_TAILER_ALONE)
        error = p.finish(run).expect(3).json["error"]
        assert re.search(one.why, f"{error['what']}: {error['why']}"), (one, error)
        assert "--new" in error["remedy"], (one, error)
        if not number:
            require_blocked(p, error, error["what"])
        p.execute(one.undo)
    assert not search.indices.exists_alias(name=p.alias)
    p.reshelve("run", p.spec, "--new").expect(0)
    require_equal(p, search)
    assert leftovers_of(p) == []


def leftovers_of(p: Victim) -> list[str]:
    return [name for name in leftovers(p.database) if p.name in name]


def start_tailing(p: Victim) -> subprocess.Popen[str]:
    """A new run with nobody but the change tailer at work, who reads from the slot."""
    before = len(p.states())
    run = p.start("run", p.spec, "--json", "--new", *_TAILER_ALONE)

    def tails() -> bool:
        assert run.poll() is None, p.said()
        return len(p.states()) > before and active(p)

    wait_for("the tailer reads from the slot", tails)
    return run


def active(p: Victim) -> bool:
    return bool(ask(p.database, f"select active from pg_replication_slots where slot_name = '{p.last_run.slot}'"))


def execute_on_slot(p: Victim, statement: str) -> None:
    """As an administrator would: whoever reads from the slot is ended first, as often as it comes back."""
    while True:
        try:
            if "replication_slot(" in statement:
                ask(p.database, f"select pg_terminate_backend(active_pid, 1000) from pg_replication_slots"
                    f" where slot_name = '{p.last_run.slot}' and active")  # fmt: skip
            p.execute(statement)
            return
        except psycopg.errors.ObjectInUse:
            pass


def test_a_followed_run_is_blocked_and_can_be_gone_on_with_where_the_cause_can_be_undone(
    server: PostgresServer, sources: Sources, opensearch: OpenSearch
) -> None:
    """The alias stays where it is. A query that failed misses nothing once it works again; a TRUNCATE is the end."""
    view = "create view shown as select id, name from docs"
    p = sources.docs(server, 20)
    p.execute(view)
    p.write(query="select * from public.shown", follow="always")
    run = p.start("run", p.spec, "--json")
    p.await_stage("follow")
    followed = p.last_run
    p.execute("drop view shown; update docs set name = 'meanwhile' where id = 3")
    error = p.finish(run).expect(3).json["error"]
    require_blocked(p, error, "PostgreSQL refused the query")
    p.execute(view)
    run = p.start("follow", str(followed), "--json")
    await_indexed(p, opensearch, followed.index, "3", "meanwhile")
    p.execute("truncate docs")
    require_blocked(p, p.finish(run).expect(3).json["error"], "truncated")
    assert list(opensearch.indices.get_alias(name=p.alias)) == [followed.index]
    assert len(p.indexed(opensearch)) == 20
    p.reshelve("retire", str(followed), "--yes").expect(0)
    assert leftovers_of(p) == []


def test_a_source_that_was_put_back_is_blocked(sources: Sources, tmp_path: Path) -> None:
    """The disk of an hour ago: same system, same timeline, and the slot is there, before what was read already."""
    with started(tmp_path / "server") as server:
        p = sources.docs(server, 3)
        p.write()
        run = start_tailing(p)
        run.send_signal(signal.SIGINT)
        p.finish(run).expect(130)
        server.stop()
        earlier = server.data.with_name("earlier")
        subprocess.run(["cp", "-a", server.data, earlier], check=True)
        server.start()
        server.wait_healthy()
        p.execute("insert into docs values (4, 'soon lost')")
        written = ask(p.database, "select pg_current_wal_insert_lsn()::text")
        run = p.start("run", p.spec, "--json", *_TAILER_ALONE)
        confirmed = f"select confirmed_flush_lsn >= '{written}' from pg_replication_slots"
        wait_for("the change is a key task", lambda: bool(ask(p.database, confirmed)))
        run.send_signal(signal.SIGINT)
        p.finish(run).expect(130)
        server.stop()
        shutil.rmtree(server.data)
        earlier.rename(server.data)
        server.start()
        server.wait_healthy()
        error = p.reshelve("run", p.spec, "--json", *_TAILER_ALONE).expect(3).json["error"]
        require_blocked(p, error, "put back to an earlier state")
        p.reshelve("clean", p.name, "--yes").expect(0)
        assert leftovers_of(p) == []


# --- the WAL that the source keeps


@pytest.mark.parametrize("given_up_by", ["us", "the server"])
def test_a_slot_that_keeps_too_much_wal_is_given_up(
    server: PostgresServer, sources: Sources, opensearch: OpenSearch, given_up_by: str
) -> None:
    """An open transaction holds the slot's place, however fast it is read."""
    p = sources.docs(server, 20)
    p.write(limits={"max_wal_retained": "20 MB" if given_up_by == "us" else "10 GB"})
    run = start_tailing(p)
    slot = f"from pg_replication_slots where slot_name = '{p.last_run.slot}'"
    with psycopg.connect(p.database) as connection:
        connection.execute("insert into docs values (0, 'in an open transaction')")
        if given_up_by == "the server":
            ask(server.url, "alter system set max_slot_wal_keep_size = '16MB'")
            ask(server.url, "select pg_reload_conf()")
        for _ in range(4):
            ask(p.database, "select pg_logical_emit_message(true, 'test', '')")
            ask(p.database, "select pg_switch_wal()")
        if given_up_by == "the server":
            ask(p.database, "checkpoint")
        error = p.finish(run).expect(3).json["error"]
    if given_up_by == "us":
        require_blocked(p, error, "limits.max_wal_retained allows 20,000,000")
        assert ask(p.database, f"select count(*) {slot}") == 0
    else:
        ask(server.url, "alter system reset max_slot_wal_keep_size")
        ask(server.url, "select pg_reload_conf()")
        require_blocked(p, error, "lost" if "lost" in f"{error['what']}{error['why']}" else "given the slot up")
        assert ask(p.database, f"select wal_status {slot}") == "lost"
        listed = p.reshelve("runs", "--json").expect(0).json["slots"]
        assert [(one["left"], one["retained_bytes"]) for one in listed if one["slot"] == p.last_run.slot] == [
            (True, None)
        ]
    assert "--new" in error["remedy"]
    p.reshelve("clean", p.name, "--yes").expect(0)
    assert leftovers_of(p) == [] and p.topics() == []


# --- transactions older than the slot


def test_older_transactions_are_waited_for_by_name(
    server: PostgresServer, sources: Sources, opensearch: OpenSearch
) -> None:
    """Stopped and killed in the wait, the run leaves no slot; then it goes on by itself."""
    p = sources.docs(server, 20)
    p.write()
    with psycopg.connect(p.database, application_name="nightly batch") as batch:
        batch.execute("update docs set name = 'by the batch' where id = 1")
        p.execute("begin; update docs set name = 'prepared' where id = 2; prepare transaction 'left-by-somebody'")
        try:
            run = p.start("run", p.spec, "--json")
            p.await_said("prepared transaction 'left-by-somebody'")
            p.await_said("application 'nightly batch'")
            run.send_signal(signal.SIGINT)
            p.finish(run).expect(130)
            wait_for("no slot is left", lambda: p.last_run.slot not in slots_of(p))

            run = p.start("run", p.spec, "--json")
            p.await_said("can't be made before older transactions end", 3)
            run.kill()
            run.wait()
        finally:
            p.execute("commit prepared 'left-by-somebody'")
        batch.commit()
    # Nobody was left to be told: the server has finished the slot that the dead run had asked for.
    wait_for("the slot is finished without anybody", lambda: not ask(p.database, _CREATING))
    assert p.last_run.slot in slots_of(p) and "slot" not in p.states()[-1].facts
    done = p.reshelve("run", p.spec).expect(0)
    assert "going on with run" in done.stderr
    require_equal(p, opensearch)
    assert p.source()["1"]["name"] == "by the batch" and p.source()["2"]["name"] == "prepared"
    assert leftovers_of(p) == []


_CREATING = "select count(*) from pg_stat_activity where query like '%pg_create_logical%' and pid <> pg_backend_pid()"


def slots_of(p: Victim) -> list[str]:
    with psycopg.connect(p.database, autocommit=True) as connection:
        return [name for (name,) in connection.execute("select slot_name::text from pg_replication_slots")]


# --- what can be known beforehand


def test_what_is_known_beforehand_stops_the_run_before_anything_is_made(
    server: PostgresServer, sources: Sources, tmp_path: Path
) -> None:
    keyless, unidentified, published, unprivileged, crowded = (sources.docs(server, 3) for _ in range(5))
    keyless.execute("alter table docs drop constraint docs_pkey; create unique index on docs (id)")
    unidentified.execute("alter table docs replica identity nothing")
    published.execute("create table other (id int primary key); create publication given for table other")
    published.write(changes={"replication": {"publication": "given"}})
    role = f"reader_{unprivileged.name}"
    unprivileged.execute(
        f"create role {role} login password 'opens-sesame-4711'; grant select on docs to {role};"
        f"create publication given for table docs"
    )
    unprivileged.environ["SOURCE_URL"] = re.sub("//[^@]*@", f"//{role}:opens-sesame-4711@", unprivileged.database)
    unprivileged.write(changes={"replication": {"publication": "given"}})
    expected = [
        (keyless, "replica identity is nothing: it has no primary key"),
        (unidentified, "replica identity is nothing"),
        (published, "does not contain public.docs"),
        (unprivileged, "may not use replication slots"),
    ]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda one: require_nothing_made(*one), expected))
    ask(server.url, _FILL)
    try:
        require_nothing_made(crowded, "replication slots of the source are taken")
    finally:
        ask(server.url, "select count(pg_drop_replication_slot(slot_name)) from pg_replication_slots"
            " where slot_name like 'full%'")  # fmt: skip
    with started(tmp_path / "replica", settings={"wal_level": "replica"}) as unlogged:
        require_nothing_made(sources.docs(unlogged, 3), "wal_level = replica")


_FILL = """
select count(pg_create_physical_replication_slot('full' || n))
  from generate_series(1, current_setting('max_replication_slots')::int - (select count(*) from pg_replication_slots)) n
"""


def require_nothing_made(p: Victim, why: str) -> None:
    """Both commands say so, with a remedy; there is no run, and nothing of one."""
    if not p.spec.exists():
        p.write()
    checked = p.reshelve("check", p.spec, "--json")
    found = [problem for problem in checked.json["problems"] if why in problem["what"]]
    assert checked.code in (2, 3) and found and all(problem["remedy"] for problem in found), checked.output
    refused = p.reshelve("run", p.spec).expect(checked.code)
    assert why in refused.stderr + refused.stdout, refused.output
    assert p.states() == [] and p.topics() == [] and leftovers_of(p) == []
