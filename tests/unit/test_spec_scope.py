"""Scope and phases: what is wrong with them is told at its place, and they lie end to end."""

from __future__ import annotations

from pathlib import Path

import pytest

from reshelve.errors import SpecError
from reshelve.spec import Spec, parse
from reshelve.spec.scope import describe_range, in_key_order, needed_phases, phase_range

BASE = """\
reindex: cities
source: {postgres: {url: "postgresql://h/d", key: [id, lang], query: select 1}}
target: {opensearch: {url: "http://h:9200", alias: cities, index: i.json}}
kafka: {bootstrap: "h:9092"}
"""


def a_spec(text: str) -> Spec:
    return parse(BASE + text, name="s.yaml", folder=Path(), environ={}, definition={})


def test_bounds_are_texts_of_key_columns() -> None:
    keys = a_spec("scope: {keys: {low: 5, high: [9, de]}}").scope.keys
    assert (keys.low, keys.high) == (("5",), ("9", "de"))
    assert a_spec("scope: {keys: {low: [2026-01-02, x]}}").scope.keys.low == ("2026-01-02", "x")
    assert a_spec("scope: {keys: {low: 2026-01-02T03:04:05Z}}").scope.keys.low == ("2026-01-02 03:04:05+00:00",)


@pytest.mark.parametrize(
    ("scope", "partial", "text"),
    [
        ("", False, "everything the query returns"),
        ("scope: {keys: }", False, "everything the query returns"),
        ("scope: {where: a > 1}", True, "a > 1"),
        ("scope: {where: a > 1, keys: {low: 5, high: [9, de]}}", True, "a > 1; keys after 5 up to 9, de"),
    ],
)
def test_full_or_partial_is_derived(scope: str, partial: bool, text: str) -> None:
    found = a_spec(scope).scope
    assert (found.partial, str(found)) == (partial, text)


def test_phases_cover_the_scope_in_any_order() -> None:
    spec = a_spec(
        "scope: {keys: {low: 5, high: 90}}\n"
        "phases: [{name: new, keys: {low: 50}}, {name: old, keys: {high: [7, a]}},"
        " {name: mid, keys: {low: [7, a], high: 50}, depends_on: new}]"
    )
    assert in_key_order(spec.scope.keys, spec.phases) == [1, 2, 0]
    assert [phase_range(spec.scope.keys, phase) for phase in spec.phases] == [
        (("50",), ("90",)),
        (("5",), ("7", "a")),
        (("7", "a"), ("50",)),
    ]
    assert [needed_phases(spec.phases, n) for n in range(3)] == [(), ("new",), ("new",)]


def test_a_phase_that_needs_none() -> None:
    spec = a_spec("phases: [{name: a, keys: {high: 5}}, {name: b, keys: {low: 5}, depends_on: []}]")
    assert needed_phases(spec.phases, 1) == ()


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        ("scope: {keys: {low: [1, 2, 3]}}", "s.yaml:5:21", "has 3 values, and the key 2 (id, lang)"),
        ("scope: {keys: {low: []}}", "s.yaml:5:21", "is empty"),
        ("scope: {keys: {low: [1, no]}}", "s.yaml:5:21", "put it in quotes"),
        ("scope: {keys: {from: 1}}", "s.yaml:5:16", "unknown field 'from'"),
        ("phases: x", "s.yaml:5:9", "should be a list"),
        ("phases: [{name: a, keys: {high: 7}}, {name: b, keys: {low: 8}}]", "s.yaml:5:9", "none begins after 7"),
        ("phases: [{name: a, keys: {low: 7}}]", "s.yaml:5:9", "none begins where the scope begins"),
        ("phases: [{name: a, keys: {high: 7}}]", "s.yaml:5:9", "none begins after 7"),
        ("phases: [{name: a}, {name: b}]", "s.yaml:5:21", "phase 'b' overlaps"),
        (
            "phases: [{name: a, keys: {high: 7}}, {name: b, keys: {low: 7}}, {name: c, keys: {low: 7, high: 9}}]",
            "s.yaml:5:81",
            "phase 'c' overlaps",
        ),
        (
            "phases: [{name: a, keys: {high: 7}}, {name: a, keys: {low: 7}}]",
            "s.yaml:5:45",
            "there are two phases 'a'",
        ),
        (
            "phases: [{name: a, keys: {high: 7}, depends_on: b}, {name: b, keys: {low: 7}}]",
            "s.yaml:5:37",
            "'b' does not come before it",
        ),
        (
            "phases: [{name: a, keys: {high: 7}}, {name: b, keys: {low: 7}, depends_on: [a, q]}]",
            "s.yaml:5:80",
            "there is no phase 'q'",
        ),
        ("why: {reference: T-1}", "s.yaml:5:6", "needs a kind or a text"),
        ("why: {kind: whim}", "s.yaml:5:13", "schema_change"),
        ("rollback: {grace_hours: 0}", "s.yaml:5:25", "greater than 0"),
    ],
)
def test_what_is_wrong(text: str, place: str, what: str) -> None:
    with pytest.raises(SpecError) as caught:
        a_spec(text)
    (found,) = caught.value.problems
    assert (found.place, what in found.what) == (place, True), found


def test_why_as_text_or_mapping() -> None:
    assert str(a_spec("why: prefix search").why) == "prefix search"
    why = "why: {kind: data_fix, reference: T-1, text: wrong names}"
    assert str(a_spec(why).why) == "data fix: wrong names (T-1)"
    assert a_spec("delegates: bob").delegates == ("bob",)


def test_ranges_for_people() -> None:
    assert describe_range(None, ("7", "a")) == "keys up to 7, a"
    assert describe_range(None, None) == "keys from the first to the last"
