"""Reindexes whose PostgreSQL is the test's own: to be promoted, starved, misconfigured and killed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psycopg
from faulty import PATIENCE_S, Victim, wait_for
from opensearchpy import OpenSearch

from reshelve.local.postgres import PostgresServer
from reshelve.local.stack import Endpoints
from reshelve.producers.slot import find_publications, find_slots

_SMALL: Mapping[str, str] = {"shared_buffers": "16MB", "autovacuum": "off", "wal_writer_delay": "20ms"}


@contextmanager
def started(
    directory: Path, *, standby_of: PostgresServer | None = None, settings: Mapping[str, str] | None = None
) -> Iterator[PostgresServer]:
    """A server that is gone afterwards, whatever the test did to it."""
    server = PostgresServer(directory, settings={**_SMALL, **(settings or {})}, standby_of=standby_of)
    try:
        server.start()
        server.wait_healthy()
        yield server
    finally:
        server.kill()
        server.remove()


def url_of(database: str, *servers: PostgresServer) -> str:
    """Of several servers, a URL that connects to whichever takes writes."""
    first = servers[0]
    if len(servers) == 1:
        return first.url_of(database)
    hosts = ",".join(server.address for server in servers)
    return first.url_of(database).replace(first.address, hosts) + "?target_session_attrs=read-write"


def ask(url: str, statement: str) -> Any:
    """The first value that a statement returns; committed."""
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute(statement)
        row = found.fetchone() if found.description else None
        return row[0] if row else None


def leftovers(url: str) -> list[str]:
    """The slots and publications of runs."""
    with psycopg.connect(url, autocommit=True) as connection:
        return [slot.name for slot in find_slots(connection)] + find_publications(connection)


@dataclass
class Sources:
    """Makes reindexes of a table `docs` on servers of the test's own."""

    folder: Path
    endpoints: Endpoints
    namespace: str
    made: list[Victim] = field(default_factory=list)

    def docs(self, server: PostgresServer, rows: int, *others: PostgresServer) -> Victim:
        """A reindex of so many rows, in a database of its own. With `others` its URL names them, too, and connects to
        whichever takes writes."""
        name = f"{self.namespace}{len(self.made)}"
        ask(server.url, f"create database {name}")
        url = url_of(name, server, *others)
        victim = Victim(self.folder / name, name, url, replace(self.endpoints, source_url=url))
        self.made.append(victim)
        victim.execute(
            "create table docs (id bigint primary key, name text not null);"
            f"insert into docs select n, 'document ' || n from generate_series(1, {rows}) n; analyze docs"
        )
        return victim


def require_blocked(victim: Victim, error: Mapping[str, Any], why: str) -> None:
    """It says why and what to do, `status` says the same, and the alias is where it was."""
    assert why in f"{error['what']}: {error['why']}" and error["remedy"], error
    status = victim.reshelve("status", victim.name, "--json").expect(0).json
    assert status["state"] == "blocked", status
    assert why in status["reason"] and status["next"] == error["remedy"]


def await_indexed(victim: Victim, search: OpenSearch, index: str, key: str, name: str) -> None:
    """Until the document of that key has that name in the index."""

    def indexed() -> bool:
        found = search.get(index=index, id=key, ignore=[404])
        return bool(found.get("found")) and found["_source"]["name"] == name

    wait_for(f"{key} is {name!r} in {index}", indexed)


def require_equal(victim: Victim, search: OpenSearch) -> None:
    """What searches find is what the source holds, document by document."""
    expected = victim.source()

    def same() -> bool:
        return {key: one.document for key, one in victim.indexed(search).items()} == expected

    deadline = time.monotonic() + PATIENCE_S  # the run may follow changes, and have the newest still before it
    while not same() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert {key: one.document for key, one in victim.indexed(search).items()} == expected
