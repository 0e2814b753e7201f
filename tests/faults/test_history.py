"""What changes can't tell ends the run Blocked, with a remedy that works; nothing is swapped, and nothing is left."""

from __future__ import annotations

import re
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
from own_source import Sources, ask, leftovers, require_blocked, require_equal, started

from reshelve.local.postgres import PostgresServer
from reshelve.local.stack import Endpoints

_TAILER_ALONE = ("--page-readers", "0", "--key-readers", "0", "--indexers", "0")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    settings = {"max_prepared_transactions": "4", "min_wal_size": "32MB", "max_wal_size": "128MB"}
    with started(tmp_path_factory.mktemp("source"), settings=settings) as running:
        yield running


@pytest.fixture
def sources(tmp_path: Path, endpoints: Endpoints, namespace: str) -> Iterator[Sources]:
    made = Sources(tmp_path, endpoints, namespace)
    yield made
    for victim in made.made:
        victim.end_all()


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
            p.finish(run, 60).expect(130)
            wait_for("the slot is let go", lambda: not active(p))
        for statement in one.statements:
            execute_on_slot(p, statement.format(run=p.last_run.slot))
        if not one.meanwhile:
            run = p.start("run", p.spec, "--json", *_TAILER_ALONE)
        error = p.finish(run, 60).expect(3).json["error"]
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

    wait_for("the tailer reads from the slot", tails, 60)
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
