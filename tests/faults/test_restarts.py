"""Each server goes away in the middle of a run and comes back: the run waits, says so, and goes on."""

from __future__ import annotations

import pytest
from conftest import Victims
from opensearchpy import OpenSearch

from reshelve.local.server import Server, free_port
from reshelve.local.stack import LocalStack


def test_every_server_restarts_in_the_middle(victims: Victims, servers: LocalStack, search: OpenSearch) -> None:
    """Shut down, which takes other ways than a crash: that is for test_live_restarts."""
    victim = victims(16_000)
    victim.write(limits={"documents_per_second": 2_000})
    run = victim.start_run()
    victim.await_said('"stage": "copy"')
    # In this order: while the first two are away nothing is copied, so the third is in the middle as well.
    for server, reason in (
        (servers.postgres, "PostgreSQL ("),
        (servers.kafka, servers.kafka.address),
        (servers.opensearch, "OpenSearch ("),
    ):
        before = victim.said().count(reason)
        victim.await_more_indexed(500)
        assert run.poll() is None, victim.said()
        server.stop()
        try:
            victim.await_said(reason, before + 1)
        finally:
            _bring_back(server)
    victim.finish(run).expect(0)
    victim.assert_equal(search)


def test_servers_restart_during_the_validation(victims: Victims, servers: LocalStack, search: OpenSearch) -> None:
    victim = victims(3_000)
    victim.write()
    run = victim.start_run()
    for stage, server in (("validate", servers.opensearch), ("validate", servers.kafka)):
        victim.await_stage(stage)
        server.kill()
        _bring_back(server)
    victim.finish(run).expect(0)
    victim.assert_equal(search)


@pytest.mark.parametrize("variable", ["SOURCE_URL", "OPENSEARCH_URL", "KAFKA_BOOTSTRAP"])
def test_a_server_is_away_at_the_start(victims: Victims, variable: str) -> None:
    victim = victims(10)
    victim.write()
    address = f"127.0.0.1:{free_port()}"
    victim.environ[variable] = {
        "SOURCE_URL": f"postgresql://somebody:pw-4711@{address}/none",
        "OPENSEARCH_URL": f"http://{address}",
        "KAFKA_BOOTSTRAP": address,
    }[variable]
    result = victim.finish(victim.start_run()).expect(3)
    assert result.json["error"]["code"] == "unreachable"
    assert address.split(":")[1] in result.stderr
    assert "pw-4711" not in result.output


def _bring_back(server: Server) -> None:
    server.start()
    server.wait_healthy()
