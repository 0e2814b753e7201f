"""OpenSearch that takes no more than so much at a time: the run finds its way below that, and finishes."""

from __future__ import annotations

from conftest import Victims
from opensearchpy import OpenSearch
from proxy import Fault, FaultProxy, Request

from reshelve.commands import OF_THE_DRIVER
from reshelve.local.stack import LocalStack

_LIMIT = 1_000
_MOST = 200
"""Documents in a request that are not too many. An indexer sends half a second's worth, so this is reached by a rate of
twice as many documents a second: however fast the machine is."""
_FLOOR = 100


class BusyCluster:
    """Turns away what is too much. `turned_away`: of each bulk request in turn, whether it was."""

    def __init__(self) -> None:
        self.turned_away: list[bool] = []

    def __call__(self, request: Request) -> Fault | None:
        if not request.is_bulk:
            return None
        busy = request.body.count(b"\n") // 2 > _MOST
        self.turned_away.append(busy)
        return Fault.BUSY if busy else None


def test_a_busy_target_is_given_way_to(victims: Victims, servers: LocalStack, search: OpenSearch) -> None:
    victim, cluster = victims(3_000), BusyCluster()
    with FaultProxy(servers.endpoints.opensearch_url).serving() as proxy:
        proxy.plan = cluster
        victim.environ["OPENSEARCH_URL"] = proxy.url
        victim.write(
            limits={"documents_per_second": _LIMIT},
            throttle={"cooldown": 3, "floor": _FLOOR, "heap": None, "write_queue": None},
        )
        run = victim.start("run", victim.spec, "--json")
        victim.await_said('"adaptive throttle: rejections')
        ended = victim.finish(run).expect(0)
    victim.assert_equal(search)
    half = len(cluster.turned_away) // 2
    first, second = sum(cluster.turned_away[:half]), sum(cluster.turned_away[half:])
    assert first > second, cluster.turned_away
    limits = [line["limit"] for line in ended.lines if line["event"] == "progress"]
    rates = {one["documents_per_second"] for one in limits if one["source"].startswith("adaptive")}
    assert rates and all(_FLOOR <= rate < _LIMIT for rate in rates)
    state = victim.states()[-1]
    journaled = {one["kind"] for one in state.commands}
    assert not OF_THE_DRIVER & journaled, "a change of the rate is no entry of its own"
    assert state.facts["checkpoint"]["rejects"] == 0
