"""What the demo calls a failure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from reshelve.cli.demo import summary
from reshelve.demo.comparison import Comparison, compare
from reshelve.demo.facts import Built, Facts, Found, Hit
from reshelve.demo.searcher import Searches, fault
from reshelve.demo.servers import given_endpoints
from reshelve.demo.source import Loaded
from reshelve.demo.writer import Written
from reshelve.errors import UsageError

V1 = Built("cities.a", "cities-a", 1000, 1.0, 2.0, 4, 0, "reports/cities.a/report.md")
V2 = replace(V1, run="cities.b", index="cities-b")
SEARCHES = Searches(30, 0, {"cities-a": 20, "cities-b": 10}, 4.0, 20.0, 3.0, ())
WRITTEN = Written(transactions=90, updated=80, vanished=10, returned=4, founded=3, renamed=1, renamed_cities=12)
COMPARED = Comparison(997, 0, 0, 0, 0.4, ())
FACTS = Facts(
    loaded=Loaded(1000, 252, ("Munich",), 1.0),
    v1=V1,
    v2=V2,
    searches=SEARCHES,
    written=WRITTEN,
    compared=COMPARED,
    before=Found(0, ()),
    after=Found(1, (Hit("Munich", "Germany", 1_505_005),)),
    seconds=9.0,
    home=None,
)


def answer(*, total: int = 1, failed: int = 0, timed_out: bool = False) -> dict[str, Any]:
    return {"_shards": {"total": 2, "failed": failed}, "timed_out": timed_out, "hits": {"total": {"value": total}}}


def test_an_answer_that_is_whole_and_finds_something_is_no_failure() -> None:
    assert fault(answer()) is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (answer(total=0), "nothing found"),
        (answer(failed=1), "1 of 2 shards failed"),
        (answer(timed_out=True), "timed out in the cluster"),
    ],
)
def test_an_answer_that_lacks_something_is_a_failure(given: dict[str, Any], expected: str) -> None:
    assert fault(given) == expected


def test_promises_kept() -> None:
    assert FACTS.broken_promises() == []
    assert FACTS.as_dict()["v2"]["documents_per_second"] == 1000
    assert FACTS.as_dict()["written"]["writes"] == 98
    said = summary(FACTS)
    assert "30 during the rebuild, 0 failures" in said
    assert "98 during the rebuild, in 90 transactions" in said
    assert "0 missing, 0 resurrected, 0 different" in said


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (replace(FACTS, searches=replace(SEARCHES, failures=2, examples=("503",))), "2 of 30 searches failed: 503"),
        (replace(FACTS, searches=replace(SEARCHES, answered={"cities-a": 30})), "not by both"),
        (replace(FACTS, v1=replace(V1, documents=999)), "v1 has 999 documents of 1,000 cities"),
        (replace(FACTS, compared=replace(COMPARED, documents=998)), "v2 has 998 documents of 997 cities"),
        (replace(FACTS, compared=replace(COMPARED, missing=1, examples=("missing: 7",))), "differ: missing: 7"),
        (replace(FACTS, compared=replace(COMPARED, extra=1, examples=("extra: 8",))), "differ: extra: 8"),
        (replace(FACTS, compared=replace(COMPARED, different=1, examples=("different: 9",))), "differ: different: 9"),
        (replace(FACTS, v1=replace(V1, drift=3)), "differs from its source in 3 documents"),
        (replace(FACTS, before=Found(1, ())), "1 hits in v1"),
        (replace(FACTS, after=Found(0, ())), "0 in v2"),
    ],
)
def test_a_broken_promise_is_named(broken: Facts, words: str) -> None:
    (said,) = broken.broken_promises()
    assert words in said


def test_a_comparison_tells_what_is_lost_from_what_is_resurrected() -> None:
    found = compare({"1": b"a", "2": b"b", "3": b"c"}, [("1", b"a"), ("3", b"C"), ("4", b"d")], 0.5)

    assert found == Comparison(3, 1, 1, 1, 0.5, ("missing: 2", "extra: 4", "different: 3"))
    assert found.differences == 3


def test_endpoints_are_given_all_or_none() -> None:
    every = {"SOURCE_URL": "a", "OPENSEARCH_URL": "b", "KAFKA_BOOTSTRAP": "c"}
    assert given_endpoints(every | {"HOME": "/"}) == every
    assert given_endpoints({"SOURCE_URL": ""}) is None
    with pytest.raises(UsageError, match="KAFKA_BOOTSTRAP is not set"):
        given_endpoints(every | {"KAFKA_BOOTSTRAP": ""})
