"""OpenSearch that takes no more than so much: the run finds its way below that, and finishes."""

from __future__ import annotations

from conftest import Victims
from opensearchpy import OpenSearch
from proxy import Fault, FaultProxy, Request

from reshelve.commands import OF_THE_DRIVER
from reshelve.local.stack import LocalStack
from reshelve.throttle import TokenBucket

_CAPACITY = 1_000
_FLOOR = 500


class BusyCluster:
    """Takes so many documents a second, and turns away the requests that come beyond. `turned_away`: of each request in
    turn, whether it was."""

    def __init__(self) -> None:
        self._bucket = TokenBucket(_CAPACITY)
        self.turned_away: list[bool] = []

    def __call__(self, request: Request) -> Fault | None:
        if not request.is_bulk:
            return None
        busy = self._bucket.wait_s() > 0
        self.turned_away.append(busy)
        if not busy:
            self._bucket.take(request.body.count(b"\n") // 2)
        return Fault.BUSY if busy else None


def test_a_busy_target_is_given_way_to(victims: Victims, servers: LocalStack, search: OpenSearch) -> None:
    victim, cluster = victims(5_000), BusyCluster()
    with FaultProxy(servers.endpoints.opensearch_url).serving() as proxy:
        proxy.plan = cluster
        victim.environ["OPENSEARCH_URL"] = proxy.url
        # Fewer documents at a time than the target takes in a second, as with a cluster that is larger than a test's.
        victim.write(
            limits={"documents_per_second": 3 * _CAPACITY},
            throttle={"cooldown": 3, "floor": _FLOOR, "heap": None, "write_queue": None},
        )
        run = victim.start("run", victim.spec, "--json")
        victim.await_stage("copy")
        victim.await_said('"adaptive throttle: rejections')
        ended = victim.finish(run).expect(0)
    victim.assert_equal(search)
    half = len(cluster.turned_away) // 2
    first, second = sum(cluster.turned_away[:half]), sum(cluster.turned_away[half:])
    assert first >= 2 and second <= first, cluster.turned_away
    limits = [line["limit"] for line in ended.lines if line["event"] == "progress"]
    rates = {one["documents_per_second"] for one in limits if one["source"].startswith("adaptive")}
    assert rates and all(_FLOOR <= rate < 3 * _CAPACITY for rate in rates)
    state = victim.states()[-1]
    journaled = {one["kind"] for one in state.commands}
    assert not OF_THE_DRIVER & journaled, "a change of the rate is no entry of its own"
    assert state.facts["checkpoint"]["rejects"] == 0
