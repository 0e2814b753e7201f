"""Rankings compared, and what becomes of searches that fail."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reshelve.errors import UsageError
from reshelve.spec.validation import Queries
from reshelve.validator.queries import QueriesVerdict, judge, read_queries, summarize
from reshelve.validator.ranking import overlap, rank_biased_overlap

_RANKING = st.lists(st.integers(0, 12), max_size=10, unique=True)


@pytest.mark.parametrize(
    ("here", "there", "expected"),
    [
        ("abc", "abc", 1.0),
        ("", "", 1.0),
        ("abc", "", 0.0),
        ("abc", "def", 0.0),
        # (1-p)/p * (0.9 + 0.81 / 2 + 0.729 + 0.6561) + 0.6561
        ("abcd", "acbd", 0.9 + 0.055),
        # Of lengths 2 and 4, p = 0.9: X is 1, 1, 1, 2 at the depths 1 to 4
        ("ab", "acdb", 0.1 / 0.9 * (0.9 + 0.405 + 0.243 + 0.32805 + 0.1215 + 0.164025) + (0.25 + 0.5) * 0.6561),
        # A ranking and its beginning: what is seen agrees everywhere.
        ("ab", "abcd", 1.0),
    ],
)
def test_rank_biased_overlap(here: str, there: str, expected: float) -> None:
    assert rank_biased_overlap(here, there) == pytest.approx(expected)
    assert rank_biased_overlap(there, here) == pytest.approx(expected)


@given(_RANKING, _RANKING)
def test_both_measures_stay_between_0_and_1_and_know_no_direction(here: list[int], there: list[int]) -> None:
    for measure in (overlap, rank_biased_overlap):
        assert -1e-9 <= measure(here, there) <= 1 + 1e-9
        assert measure(here, there) == pytest.approx(measure(there, here))
        assert measure(here, here) == pytest.approx(1)


def test_a_difference_at_the_top_weighs_more_than_one_at_the_bottom() -> None:
    assert rank_biased_overlap("abcdefghij", "xbcdefghij") < rank_biased_overlap("abcdefghij", "abcdefghix")


def test_overlap_is_of_the_longer_ranking() -> None:
    assert overlap("abcd", "ab") == 0.5
    assert overlap("", "") == 1


def test_a_search_that_fails_on_the_new_index_counts_as_nothing_found() -> None:
    asked = Queries.model_construct(file="f", k=2, min_overlap=0.5, min_rbo=None)
    results = [
        judge("same", ("a", "b"), ("a", "b")),
        judge("fails", ("a", "b"), "no such field"),
        judge("was broken", "no such field", ("a",)),
    ]
    found = summarize(results, asked, "old", "new")
    assert (found.number, found.compared, found.failed) == (3, 2, 1)
    assert (found.overlap, found.rbo) == (0.5, 0.5)
    assert found.clean
    assert [(one.name, one.error) for one in found.worst] == [
        ("was broken", "fails on the previous index: no such field"),
        ("fails", "fails on the new index: no such field"),
    ]
    assert QueriesVerdict.from_dict(found.as_dict()) == found
    assert "1 fail on the new index" in found.summary()


def test_what_vanished_and_what_came_is_told() -> None:
    found = judge("search", ("a", "b", "c"), ("c", "d"))
    assert (found.vanished, found.came) == (("a", "b"), ("d",))


def test_a_minimum_is_not_reached_when_nothing_could_be_compared() -> None:
    asked = Queries.model_construct(file="f", k=2, min_overlap=None, min_rbo=0.1)
    assert not summarize([judge("one", "broken", "broken")], asked, "old", "new").clean


def test_a_line_that_is_no_search_is_named(tmp_path: Path) -> None:
    file = tmp_path / "searches.jsonl"
    file.write_text('{"name": "one", "body": {}}\n\n{"name": "two"}\n')
    with pytest.raises(UsageError) as raised:
        read_queries(file)
    assert raised.value.where == f"{file}:3"
    file.write_text('{"name": "one", "body": {"query": {"match_all": {}}}}\n')
    assert [one.name for one in read_queries(file)] == ["one"]
