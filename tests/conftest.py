"""Fixtures that give tests real servers, and a name space of their own in them.

A test that uses any of them runs on real servers. Where these are missing it is skipped, but
fails where CI is set: there, silence would pass for success."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from confluent_kafka.admin import AdminClient
from hypothesis import settings
from opensearchpy import OpenSearch
from pipeline import Pipeline, drop_database
from psycopg import sql
from services import Services, find_services

from reshelve.errors import ReshelveError
from reshelve.local.java import VARIABLE
from reshelve.local.stack import Endpoints, LocalStack

# No deadline: how long an example takes says more of the machine than of the code.
settings.register_profile("reshelve", max_examples=50, deadline=None)
settings.load_profile("reshelve")
# Servers that live for minutes spend a third of their time on compiling what they run: the first compiler is enough.
os.environ.setdefault(VARIABLE, "-XX:TieredStopAtLevel=1")


@pytest.fixture(scope="session")
def services() -> Iterator[Services]:
    """The servers, and the handle on them where we started them."""
    found = find_services()
    try:
        entered = found.__enter__()
    except (ReshelveError, TimeoutError) as error:
        message = f"no PostgreSQL, Kafka and OpenSearch: {error}"
        if os.environ.get("CI"):
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    try:
        yield entered
    finally:
        found.__exit__(None, None, None)


@pytest.fixture(scope="session")
def endpoints(services: Services) -> Endpoints:
    """Where the servers are."""
    return services.endpoints


@pytest.fixture(scope="session")
def stack(services: Services) -> LocalStack:
    """The handle by which a test stops, kills and starts servers; such a test leaves all of them healthy."""
    if services.stack is None:
        pytest.skip(f"this test restarts servers, and these come from: {services.origin}")
    return services.stack


@pytest.fixture(scope="module")
def private_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """A second stack for the tests of one module, which may do with it what they like. Not started."""
    stack = LocalStack(tmp_path_factory.mktemp("stack"), heap="512m")
    try:
        yield stack
    finally:
        stack.down()


@pytest.fixture
def database(endpoints: Endpoints) -> Iterator[str]:
    """The URL of a fresh PostgreSQL database."""
    name = f"t{secrets.token_hex(4)}"
    with psycopg.connect(endpoints.source_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    yield urlunsplit(urlsplit(endpoints.source_url)._replace(path=f"/{name}"))
    drop_database(endpoints.source_url, name)


@pytest.fixture
def kafka_bootstrap(endpoints: Endpoints) -> str:
    """Kafka's bootstrap servers."""
    return endpoints.kafka_bootstrap


@pytest.fixture(scope="session")
def opensearch(endpoints: Endpoints) -> Iterator[OpenSearch]:
    """A client of OpenSearch."""
    client = OpenSearch(endpoints.opensearch_url, timeout=30)
    yield client
    client.close()


@pytest.fixture
def namespace(endpoints: Endpoints, opensearch: OpenSearch) -> Iterator[str]:
    """A reindex name that nobody else uses, nor any that begins with it; their topics, groups and indexes are deleted
    afterwards."""
    name = f"t{secrets.token_hex(4)}"
    yield name
    _delete_topics_and_groups(endpoints.kafka_bootstrap, f"reshelve.{name}")
    indexes = opensearch.indices.get(index=f"{name}*", expand_wildcards="all")
    for index in indexes:
        opensearch.indices.delete(index=index)


@pytest.fixture
def pipeline(endpoints: Endpoints, database: str, namespace: str, tmp_path: Path) -> Pipeline:
    """A reindex of the test's own, with an empty database."""
    return Pipeline(tmp_path / "reindex", namespace, database, endpoints)


@pytest.fixture
def docs(pipeline: Pipeline) -> Callable[[int], Pipeline]:
    """Makes a reindex whose table `docs` has so many rows (id bigint, name text)."""

    def fill(rows: int) -> Pipeline:
        pipeline.execute(
            "create table docs (id bigint primary key, name text not null);"
            f"insert into docs select n, 'document ' || n from generate_series(1, {rows}) n; analyze docs"
        )
        return pipeline

    return fill


def _delete_topics_and_groups(bootstrap: str, prefix: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    topics = [topic for topic in admin.list_topics(timeout=30).topics if topic.startswith(prefix)]
    if topics:
        for deleted in admin.delete_topics(topics, operation_timeout=30).values():
            deleted.result()
    groups = [g.group_id for g in admin.list_consumer_groups().result().valid if g.group_id.startswith(prefix)]
    if groups:
        for forgotten in admin.delete_consumer_groups(groups).values():
            forgotten.exception()  # a member that is still leaving: the group expires by itself


@pytest.fixture
def private_home(tmp_path: Path) -> Path:
    """A directory for one server of a test's own (KafkaServer with SASL, a standby, ...)."""
    return tmp_path / "server"
