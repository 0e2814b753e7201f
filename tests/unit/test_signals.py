from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from reshelve.adaptive import OwnSignals, merged
from reshelve.progress import Progress
from reshelve.signals import Nodes
from reshelve.spec.throttle import AdaptiveThrottle, Band, public_url


def stats(**nodes: tuple[int, int, int, int]) -> dict[str, Any]:
    """Of each node: heap, CPU, queue, rejected."""
    return {
        "nodes": {
            name: {
                "jvm": {"mem": {"heap_used_percent": heap}},
                "os": {"cpu": {"percent": cpu}},
                "thread_pool": {"write": {"queue": queue, "rejected": rejected}},
            }
            for name, (heap, cpu, queue, rejected) in nodes.items()
        }
    }


def test_the_fullest_node_counts_and_rejections_are_those_since_the_last_look() -> None:
    nodes = Nodes()
    first = nodes.take(stats(a=(80, 20, 3, 100), b=(60, 90, 5, 7)), 10.0)
    assert first == {"heap": 80, "cpu": 90, "write_queue": 5}
    second = nodes.take(stats(a=(80, 20, 3, 110), b=(60, 90, 5, 1)), 12.0)
    assert second["rejections"] == 5, "node b has started anew"


def test_garbage_on_the_heap_does_not_count() -> None:
    nodes = Nodes()
    looks = [
        nodes.take(stats(a=(heap, 0, 0, 0)), 10.0 + n)["heap"] for n, heap in enumerate((90, 95, 40, 93, 94, 95, 96))
    ]
    assert looks == [90, 90, 40, 40, 40, 40, 40]
    assert nodes.take(stats(a=(97, 0, 0, 0)), 20.0)["heap"] == 93


def test_what_a_node_does_not_tell_is_not_known() -> None:
    assert Nodes().take({"nodes": {"a": {"os": {"cpu": {"percent": -1}}}}}, 1.0) == {}


def test_indexers_count_what_they_are_answered() -> None:
    own = OwnSignals(_at=0.0)

    def report(worker: str, **counts: int) -> Progress:
        return cast(Progress, SimpleNamespace(workers=[{"role": "indexer", "worker": worker, "counts": counts}]))

    own.take(report("a", busy=5, requests=10, request_ms=1000))
    assert own.look(1.0) == {"rejections": 0}, "what was before is no news"
    own.take(report("a", busy=9, requests=20, request_ms=6000))
    assert own.look(3.0) == {"rejections": 2, "bulk_seconds": 0.5}
    own.take(report("a", busy=1, requests=1, request_ms=100))  # it has started anew
    assert own.look(4.0) == {"rejections": 1, "bulk_seconds": 0.1}


def test_the_worse_of_both_counts_of_what_is_looked_at() -> None:
    settings = AdaptiveThrottle(heap=None, cpu=Band(low=50, high=80, limit=95))
    found = merged(settings, {"rejections": 1, "heap": 99, "cpu": 10}, {"rejections": 4, "bulk_seconds": 3})
    assert found == {"rejections": 4, "cpu": 10}


def test_a_url_is_shown_without_what_may_be_secret() -> None:
    assert public_url("https://me:pw@host:8080/ready?token=secret") == "https://host:8080/ready"
