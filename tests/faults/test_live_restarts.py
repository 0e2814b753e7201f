"""Each server goes away while pgbench writes, during the copy and after the swap: index and topic equal the source."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from conftest import Victims
from faulty import Victim, wait_for
from load import QUERY, SCALE, SEEDS, Load, applied_version, version_now, write_spec
from opensearchpy import OpenSearch

from reshelve.local.server import Server
from reshelve.local.stack import LocalStack

_ROWS = 12_000
_COPIED_PER_SECOND = 2_500  # more than the load changes: the limit is for the indexers, too
_TRANSACTIONS = 8_000 * SCALE


@pytest.mark.timeout(300 + 300 * SCALE)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("go_away", "durable", "stages"),
    # Killed with synchronous_commit=off, PostgreSQL loses transactions that others have seen: the index must not know
    # them.
    [(Server.kill, False, ("copy", "follow") if SCALE > 1 else ("copy",)), (Server.stop, True, ("follow",))],
    ids=["crash", "shutdown"],
)
def test_servers_restart_under_load(
    victims: Victims,
    servers: LocalStack,
    search: OpenSearch,
    go_away: Callable[[Server], None],
    durable: bool,
    stages: tuple[str, ...],
    seed: int,
    record_property: Callable[[str, object], None],
) -> None:
    victim = victims(0)
    load = Load(victim, _ROWS, seed, rate=300, durable=durable)
    load.prepare()
    write_spec(victim, documents_per_second=_COPIED_PER_SECOND)
    with load.running():
        process = victim.start_run()
        for stage in stages:
            victim.await_stage(stage)
            for _ in range(min(SCALE, 3)):
                victim.await_more_indexed(300)
                _restart_each(victim, servers, go_away)
        victim.await_stage("follow")
        load.finish(_TRANSACTIONS)
    run, version = victim.last_run, version_now(victim)
    wait_for("the applied clock has passed the end of the load", lambda: applied_version(victim, run) >= version)
    victim.assert_equal(search, QUERY, run=run, changed=True)
    victim.reshelve("retire", run, "--yes").expect(0)
    victim.finish(process).expect(0)
    assert load.outages > 0
    record_property("transactions", load.committed)
    record_property("outages", load.outages)


def _restart_each(victim: Victim, servers: LocalStack, go_away: Callable[[Server], None]) -> None:
    for server, reason in (
        (servers.postgres, "PostgreSQL ("),
        (servers.kafka, servers.kafka.address),
        (servers.opensearch, "OpenSearch ("),
    ):
        before = victim.said().count(reason)
        go_away(server)
        try:
            victim.await_said(reason, before + 1)
        finally:
            server.start()
            server.wait_healthy()
