"""OpenSearch behind a proxy that refuses, delays, cuts and loses answers: nothing is lost, nothing is twice."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator

import pytest
from conftest import Victims
from faulty import Victim
from opensearchpy import OpenSearch
from proxy import AMBIGUOUS, Fault, FaultProxy, Request

from reshelve.local.stack import LocalStack

_PASSING = (
    Fault.BUSY,
    Fault.UNAVAILABLE,
    Fault.SOME_BUSY,
    Fault.NEVER_ARRIVES,
    Fault.ANSWER_LOST,
    Fault.ANSWER_CUT,
    Fault.SLOW,
)


@pytest.fixture
def proxy(servers: LocalStack) -> Iterator[FaultProxy]:
    with FaultProxy(servers.endpoints.opensearch_url).serving() as proxy:
        yield proxy


def _behind(proxy: FaultProxy, victim: Victim) -> Victim:
    victim.environ["OPENSEARCH_URL"] = proxy.url
    # Small pages, so that there are many bulk requests.
    victim.write(partitions=2, limits={"documents_per_second": 4_000})
    return victim


def _assert_whole(victim: Victim, search: OpenSearch) -> None:
    victim.assert_equal(search)
    assert victim.states()[-1].facts["checkpoint"]["rejects"] == 0


def test_each_fault_in_turn(victims: Victims, search: OpenSearch, proxy: FaultProxy) -> None:
    victim = _behind(proxy, victims(12_000))
    faults = iter(_PASSING)

    def plan(request: Request) -> Fault | None:
        # One between two that pass, so that each is seen by itself; then the answer to the swap is lost too.
        if request.is_bulk and request.number % 2:
            return next(faults, None)
        return Fault.ANSWER_LOST if request.path.startswith("/_aliases") else None

    proxy.plan = plan
    victim.finish(victim.start_run()).expect(0)
    assert proxy.applied == Counter(_PASSING) + Counter([Fault.ANSWER_LOST])
    assert proxy.resent >= len(AMBIGUOUS)
    _assert_whole(victim, search)


def test_a_mix_of_faults(victims: Victims, search: OpenSearch, proxy: FaultProxy) -> None:
    victim = _behind(proxy, victims(12_000))
    dice, size_limit = random.Random(7), 150_000

    def plan(request: Request) -> Fault | None:
        if not request.is_bulk:
            return dice.choice((Fault.SLOW, None))
        if len(request.body) > size_limit:
            return Fault.TOO_LARGE
        return dice.choice(_PASSING) if dice.random() < 0.25 else None

    proxy.plan = plan
    victim.finish(victim.start_run()).expect(0)
    assert proxy.applied[Fault.TOO_LARGE] and proxy.largest > size_limit
    assert AMBIGUOUS & proxy.applied.keys()
    _assert_whole(victim, search)


def test_a_refusal_blocks_in_the_words_of_the_server(victims: Victims, search: OpenSearch, proxy: FaultProxy) -> None:
    victim = _behind(proxy, victims(6_000))
    for fault, words in ((Fault.DENIED, "no permissions for"), (Fault.UNKNOWN_USER, "missing or wrong credentials")):
        begun = threading.Event()

        def plan(request: Request, fault: Fault = fault, begun: threading.Event = begun) -> Fault | None:
            if request.is_bulk and begun.is_set():
                return fault
            begun.set() if request.is_bulk else None
            return None

        proxy.plan = plan
        result = victim.finish(victim.start_run()).expect(3)
        assert words in result.stderr
        assert result.json["error"]["code"] == "access"
    proxy.plan = lambda _request: None
    victim.finish(victim.start_run()).expect(0)
    _assert_whole(victim, search)


def test_the_cluster_is_away_during_the_cutover(victims: Victims, search: OpenSearch, proxy: FaultProxy) -> None:
    victim = _behind(proxy, victims(3_000))
    left = iter([Fault.UNAVAILABLE, Fault.NEVER_ARRIVES])

    def plan(request: Request) -> Fault | None:
        finishing = request.method == "PUT" and request.path.endswith("/_settings")
        return next(left, None) if finishing else None

    proxy.plan = plan
    result = victim.finish(victim.start_run()).expect(0)
    assert "the cut-over starts anew" in result.stdout
    _assert_whole(victim, search)
