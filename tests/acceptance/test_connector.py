"""A rebuild that follows a Debezium connector's topics instead of a slot of its own."""

from __future__ import annotations

import random
import time
from pathlib import Path

import psycopg
from connect import Connector, running
from opensearchpy import OpenSearch
from pipeline import Pipeline

_ROWS = 2_000
_SEED = 7


def _write(connection: psycopg.Connection[object], chance: random.Random) -> None:
    """One transaction: an insert, an update, a delete or a change of the key."""
    some, other = (chance.randrange(2 * _ROWS) for _ in range(2))
    match chance.randrange(4):
        case 0:
            connection.execute("insert into docs values (%s, 'new') on conflict do nothing", [some])
        case 1:
            connection.execute("update docs set name = name || '.' where id = %s", [some])
        case 2:
            connection.execute("delete from docs where id = %s", [some])
        case _:
            connection.execute(
                "update docs set id = %(other)s where id = %(some)s"
                " and not exists (select from docs where id = %(other)s)",
                {"some": some, "other": other},
            )


def test_a_rebuild_follows_a_connector(pipeline: Pipeline, opensearch: OpenSearch, tmp_path: Path) -> None:
    p, chance = pipeline, random.Random(_SEED)
    p.execute(
        "create table docs (id bigint primary key, name text not null);"
        f"insert into docs select n, 'document ' || n from generate_series(1, {_ROWS}) n; analyze docs"
    )
    connector = Connector(tmp_path / "connect", p.database, p.endpoints.kafka_bootstrap, p.name, ["public.docs"])
    with running(connector):
        debezium = {"topics": list(connector.topics), "slot": connector.name}
        p.write(changes={"debezium": debezium}, limits={"documents_per_second": 1000})
        with psycopg.connect(p.database, autocommit=True) as writer:
            process = p.start("run", p.spec, "--until", "validated")
            try:
                while process.poll() is None:
                    _write(writer, chance)
                    time.sleep(0.002)  # the processor is for others, too
            finally:
                p.finish(process, 240).expect(0)
            for _ in range(100):
                _write(writer, chance)
        p.reshelve("cutover", str(p.last_run), timeout=240).expect(0)
        indexed = {key: found.document for key, found in p.indexed(opensearch).items()}
        assert indexed == p.source()
