"""The proof of live changes: pgbench writes before, during and after copy and swap, and source and index are equal."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from load import QUERY, SCALE, SEEDS, Load, applied_version, following, version_now, wait_for, write_spec
from opensearchpy import OpenSearch
from pipeline import Pipeline

from reshelve.model import RunId

_ROWS = 6_000
_TRANSACTIONS = 30_000 * SCALE
_COPIED_PER_SECOND = 4_000
# The second run's documents have another shape, its index another mapping.
_CHANGED = QUERY.replace("i.n, i.name", "i.n, upper(i.name) as name")


@pytest.mark.timeout(600 + 120 * SCALE)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_rebuild_under_load_equals_its_source(
    pipeline: Pipeline, opensearch: OpenSearch, seed: int, record_property: Callable[[str, object], None]
) -> None:
    load = Load(pipeline, _ROWS, seed)
    load.prepare()
    with load.running():
        write_spec(pipeline, documents_per_second=_COPIED_PER_SECOND)
        with following(pipeline, "first") as first:
            assert _searched(pipeline, opensearch) == [first.index]
            write_spec(pipeline, _CHANGED, documents_per_second=_COPIED_PER_SECOND)
            with following(pipeline, "second") as second:
                assert _searched(pipeline, opensearch) == [second.index]
                load.finish(_TRANSACTIONS)
                _assert_equal(pipeline, opensearch, {first: QUERY, second: _CHANGED})
                assert load.committed >= _TRANSACTIONS
                _roll_back_under_load(pipeline, opensearch, load, first, second)
                _retire(pipeline, second)
            _retire(pipeline, first, "--yes")  # it is searched
    _assert_nothing_is_left_at_the_source(pipeline)
    record_property("transactions", load.committed)


def _assert_equal(p: Pipeline, client: OpenSearch, runs: dict[RunId, str]) -> None:
    """The load has ended: each run's index has all of it as soon as its applied clock has passed."""
    version = version_now(p)
    for run, query in runs.items():
        wait_for(f"{run} has applied {version}", lambda run=run: applied_version(p, run) >= version)
        p.assert_equal(client, query, run=run, changed=True)


def _roll_back_under_load(p: Pipeline, client: OpenSearch, load: Load, first: RunId, second: RunId) -> None:
    """The generation before is fed all the time: going back to it loses nothing."""
    with load.running():
        p.reshelve("rollback", second).expect(0)
        load.finish(load.committed + 1_000)
    assert _searched(p, client) == [first.index]
    _assert_equal(p, client, {first: QUERY, second: _CHANGED})
    expected, found = p.source(QUERY), p.indexed(client)
    assert {key: one.document for key, one in found.items()} == expected


def _retire(p: Pipeline, run: RunId, *options: str) -> None:
    p.reshelve("retire", run, *options).expect(0)


def _searched(p: Pipeline, client: OpenSearch) -> list[str]:
    return sorted(client.indices.get_alias(name=p.alias))


def _assert_nothing_is_left_at_the_source(p: Pipeline) -> None:
    with psycopg.connect(p.database) as connection:
        slots = connection.execute("select slot_name from pg_replication_slots where database = current_database()")
        assert slots.fetchall() == []
        assert connection.execute("select pubname from pg_publication").fetchall() == []
