"""A load from outside: pgbench writes to tables that documents are joined from, as applications would.

RESHELVE_LOAD multiplies its transactions (10: hundreds of thousands), RESHELVE_SEEDS lists its seeds (20,21,22)."""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psycopg
from confluent_kafka import KafkaException
from pipeline import Pipeline

from reshelve.applied import Applied, oldest
from reshelve.errors import ReshelveError
from reshelve.local.postgres import postgres_bin
from reshelve.model import RunId, make_version

SCALE: Final = int(os.environ.get("RESHELVE_LOAD", "1"))
SEEDS: Final = [int(seed) for seed in os.environ.get("RESHELVE_SEEDS", "20").split(",")]
PARTITIONS: Final = 2
_BATCH: Final = 1_000  # transactions of one pgbench: how soon it can end
_CLIENTS: Final = 4
_AWAY_S: Final = 0.2
PATIENCE_S: Final = 240.0

QUERY: Final = """
select i.id, i.n, i.name, c.name as country,
       (select json_agg(json_build_object('label', p.label, 'qty', p.qty) order by p.id)
          from public.parts p where p.item = i.id) as parts
  from public.items i left join public.countries c on c.code = i.country
 where not i.hidden
"""
DEPENDS_ON: Final[list[dict[str, Any]]] = [
    {"table": "parts", "key": "item"},
    {
        "table": "countries",
        "lookup": "select id from public.items where country = any(%(values)s)",
        "columns": ["code"],
    },
]
DEFINITION: Final[dict[str, Any]] = {
    "settings": {"number_of_shards": 2, "number_of_replicas": 0},
    "mappings": {"dynamic": False, "properties": {"name": {"type": "text"}, "country": {"type": "keyword"}}},
}
_SCHEMA: Final = """
create table countries (code int primary key, name text not null);
create table items (id bigint primary key, n bigint not null, name text not null, country int not null,
                    hidden bool not null default false);
create table parts (id bigint generated always as identity primary key, item bigint not null, label text, qty int);
alter table parts replica identity full;
create index on items (country);
create index on parts (item);
insert into countries select n, 'country ' || n from generate_series(1, {countries}) n;
insert into items select n, 0, 'item ' || n || repeat(' lorem ipsum', 10), 1 + n % {countries}
  from generate_series(1, {rows}) n;
insert into parts (item, label, qty) select n, 'part ' || n, 1 from generate_series(1, {rows}, 3) n;
create function rekey(old bigint, new bigint) returns void language plpgsql as $$
begin
  update items set id = new, n = n + 1 where id = old;
  update parts set item = new where item = old;
exception when unique_violation then
  update items set n = n + 100 where id = old;
end $$;
analyze
"""
# What a transaction of pgbench does; weights are percent. With `:ids` above the rows of the beginning, about half of
# the inserts are new rows. A client that meets a deadlock tries the transaction again.
_SCRIPTS: Final[dict[str, tuple[int, str]]] = {
    "update": (34, "update items set n = n + 1, name = 'item ' || :a || ' at ' || n where id = :a;"),
    "upsert": (
        12,
        "insert into items values (:a, 1, 'new ' || :b, 1 + :b % :countries)"
        " on conflict (id) do update set n = items.n + 10;",
    ),
    "delete": (12, "delete from items where id = :a;"),
    "rekey": (8, "select rekey(:a, :b);"),
    "scope": (4, "update items set hidden = not hidden where id = :a;"),
    "part_new": (6, "insert into parts (item, label, qty) values (:a, 'part ' || :b, :r);"),
    "part_moved": (4, "update parts set item = :b, qty = qty + 1 where item = :a;"),
    "part_gone": (4, "delete from parts where item = :a;"),
    "savepoint": (
        6,
        """begin;
        update items set n = n + 1000 where id = :a;
        savepoint one;
        delete from items where id = :a;
        update parts set qty = qty + 7 where item = :b;
        rollback to one;
        savepoint two;
        update items set country = 1 + :b % :countries where id = :a;
        release two;
        commit;""",
    ),
    "again": (
        3,
        """begin;
        delete from items where id = :a;
        insert into items values (:a, 5, 'again', 1 + :b % :countries) on conflict (id) do nothing;
        commit;""",
    ),
    "rollback": (
        3,
        """begin;
        update items set n = -1 where id between :a and :a + 20;
        delete from parts where item = :b;
        rollback;""",
    ),
    "many": (
        2,
        """begin;
        update items set n = n + 3 where id between :a and :a + 50;
        update parts set qty = qty + 1 where item between :b and :b + 50;
        commit;""",
    ),
    "country": (1, "update countries set name = 'country of ' || :a where code = 1 + :b % :countries;"),
    "country_gone": (
        1,
        """begin;
        delete from countries where code = 1 + :b % :countries;
        insert into countries values (1 + :a % :countries, 'newly ' || :b) on conflict (code) do nothing;
        commit;""",
    ),
}


@dataclass
class Load:
    """pgbench on the tables of a pipeline's database, again and again until it is ended.

    rows        of `items` at the beginning
    rate        transactions a second
    seed        of the first pgbench; each further one has the next
    durable     False: with synchronous_commit=off, so that a crash of the server takes transactions away
    committed   transactions that pgbench reports as processed (a rolled-back one counts, too)
    """

    pipeline: Pipeline
    rows: int
    seed: int
    rate: int = 1_000
    durable: bool = True
    committed: int = 0
    outages: int = 0
    _least: int = 0
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _trouble: str = ""

    @property
    def countries(self) -> int:
        return max(10, self.rows // 50)

    def prepare(self) -> None:
        """Make the tables, with rows in them."""
        self.pipeline.execute(_SCHEMA.format(rows=self.rows, countries=self.countries))

    @contextmanager
    def running(self) -> Iterator[None]:
        """The load runs within the block, or until `finish`."""
        self._ended.clear()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()
        try:
            yield
        finally:
            self.finish()

    def finish(self, least: int = 0) -> None:
        """Go on until at least so many transactions are done in all, then end, with none under way."""
        self._least = least
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        assert not self._trouble, self._trouble

    def _work(self) -> None:
        scripts = self._write_scripts()
        number = 0
        while not self._ended.is_set() or self.committed < self._least:
            done = self._bench(scripts, self.seed * 1_000_000 + number)
            number += 1
            processed = re.search(r"actually processed: (\d+)", done.stdout)
            self.committed += int(processed[1]) if processed else 0
            if done.returncode == 0:
                continue
            # A backend that is killed says nothing; one that is told to end, or not up yet, does.
            if not any(words in done.stderr for words in ("connection", "terminating", "the backend died")):
                self._trouble = done.stdout + done.stderr  # a fault of the load's, not of the server's
                return
            self.outages += 1
            time.sleep(_AWAY_S)

    def _write_scripts(self) -> list[str]:
        folder = self.pipeline.folder / "load"
        folder.mkdir(exist_ok=True)
        ids = self.rows * 3 // 2
        head = f"\\set a random(1, {ids})\n\\set b random(1, {ids})\n\\set r random(1, 100)\n"
        arguments = []
        for name, (weight, script) in _SCRIPTS.items():
            file = folder / f"{name}.sql"
            file.write_text(head + script + "\n")
            arguments += ["-f", f"{file}@{weight}"]
        return [*arguments, "-D", f"countries={self.countries}"]

    def _bench(self, scripts: list[str], seed: int) -> subprocess.CompletedProcess[str]:
        command = [
            str(Path(postgres_bin()) / "pgbench"),
            *("--no-vacuum", "--protocol", "simple", "--max-tries", "100", "--random-seed", str(seed)),
            *("-c", str(_CLIENTS), "-j", "1", "-t", str(_BATCH // _CLIENTS), "-R", str(self.rate)),
            *scripts,
            self.pipeline.database,
        ]
        commit = "on" if self.durable else "off"
        environ = {**os.environ, "PGOPTIONS": f"-c synchronous_commit={commit}"}
        return subprocess.run(command, capture_output=True, text=True, env=environ, check=False)


def write_spec(pipeline: Pipeline, query: str = QUERY, *, documents_per_second: int) -> None:
    """The spec of documents joined from the load's tables, followed until retired. The limit is for the copy, so that
    it meets the load."""
    pipeline.write(
        query=query,
        partitions=PARTITIONS,
        definition=DEFINITION,
        source={"postgres": {"depends_on": DEPENDS_ON}},
        limits={"documents_per_second": documents_per_second},
        follow="always",
    )


def version_now(pipeline: Pipeline) -> int:
    """Of the source as it is now: every change committed before has a clock that is not above it."""
    with psycopg.connect(pipeline.database, autocommit=True) as connection:
        row = connection.execute(
            "select pg_snapshot_xmax(s)::text::bigint - (select count(*) from pg_snapshot_xip(s))"
            "  from (select pg_current_snapshot() s) q"
        ).fetchone()
    assert row is not None
    return make_version(0, row[0])


def applied_version(pipeline: Pipeline, run: RunId) -> int:
    """The clock up to which a run's index has the source's changes, by its committed offsets; 0 when none is known."""
    try:
        places = pipeline.cluster.committed_places(run.group("indexer"), run.topic("documents"), PARTITIONS)
    except (ReshelveError, KafkaException):
        return 0  # the brokers are away
    clock = oldest(Applied.decode(place.metadata) for place in places.values())
    return 0 if clock is None else clock.version


@contextmanager
def following(p: Pipeline, name: str) -> Iterator[RunId]:
    """`reshelve run` of the spec, from when it has swapped the alias until it has been retired."""
    log = p.folder / f"{name}.log"
    with log.open("w") as out:
        process = p.spawn(["run", p.spec], None, stdout=out, stderr=out)
    known = {str(state.run) for state in p.states()}
    try:

        def swapped() -> bool:
            assert process.poll() is None, log.read_text()
            return any(state.following and str(state.run) not in known for state in p.states())

        wait_for("the run follows", swapped)
        yield p.last_run
        assert process.wait(PATIENCE_S) == 0, log.read_text()
    finally:
        _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(what: str, condition: Callable[[], bool]) -> None:
    """The test fails when that does not come true."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE_S:.0f} s: {what}"
        time.sleep(0.3)
