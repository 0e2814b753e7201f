"""Servers that a test may kill, and reindexes that run on them long enough for something to happen to them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from faulty import Victim
from opensearchpy import OpenSearch
from own_source import Sources
from pipeline import drop_database
from psycopg import sql
from services import Services

from reshelve.local.stack import Endpoints, LocalStack

Victims = Callable[..., Victim]


@pytest.fixture(scope="session")
def servers(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """Servers of our own: those of the session where we started them, else a stack for the fault tests alone."""
    if services.stack is not None:
        yield services.stack
        return
    stack = LocalStack(tmp_path_factory.mktemp("faults"), heap="512m")
    stack.up()
    try:
        yield stack
    finally:
        stack.down()


@pytest.fixture
def search(servers: LocalStack) -> Iterator[OpenSearch]:
    """A client of these servers' OpenSearch, past any proxy."""
    client = OpenSearch(servers.endpoints.opensearch_url, timeout=60)
    yield client
    client.close()


@pytest.fixture
def victims(servers: LocalStack, tmp_path: Path) -> Iterator[Victims]:
    """Makes reindexes of a table of `rows` documents; ends what is left of their processes afterwards."""
    made: list[Victim] = []

    def make(rows: int) -> Victim:
        name = f"t{secrets.token_hex(4)}"
        url = servers.endpoints.source_url
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        database = urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
        victim = Victim(tmp_path / name, name, database, servers.endpoints)
        victim.execute(
            "create table public.docs (id bigint primary key, name text);"
            "insert into public.docs"
            f" select n, 'document ' || n || ' ' || repeat(md5(n::text), 8) from generate_series(1, {rows}) n;"
            "analyze public.docs"
        )
        made.append(victim)
        return victim

    yield make
    for victim in made:
        victim.end_all()
        drop_database(servers.endpoints.source_url, victim.name)


@pytest.fixture
def sources(tmp_path: Path, endpoints: Endpoints, namespace: str) -> Iterator[Sources]:
    """Makes reindexes on PostgreSQL servers of the test's own; ends what is left of their processes afterwards."""
    made = Sources(tmp_path, endpoints, namespace)
    yield made
    for victim in made.made:
        victim.end_all()
