from __future__ import annotations

from reshelve.plan_difference import facts_differences


def _texts(before: dict[str, object], after: dict[str, object]) -> list[str]:
    return [str(one) for one in facts_differences(before, after)]


def test_each_field_that_differs_is_named_with_both_values() -> None:
    before = {"spec": {"limits": {"max_rejects": 10}, "owner": "a"}, "tables": [{"oid": 1}], "alias": "x"}
    after = {"spec": {"limits": {"max_rejects": 20}, "owner": "a"}, "tables": [{"oid": 2}], "alias": None}
    assert _texts(before, after) == [
        "alias: x → (nothing)",
        "spec.limits.max_rejects: 10 → 20",
        "tables.0.oid: 1 → 2",
    ]
    assert _texts(before, before) == []


def test_of_a_text_that_means_the_same_only_the_text_is_told() -> None:
    assert _texts({"spec_text": "a: 1", "spec": {"a": 1}}, {"spec_text": "a:  1 # one", "spec": {"a": 1}}) == [
        "spec_text: a: 1 → a: 1 # one"
    ]
    assert _texts({"spec_text": "a: 1", "spec": {"a": 1}}, {"spec_text": "a: 2", "spec": {"a": 2}}) == ["spec.a: 1 → 2"]


def test_long_texts_are_shown_from_where_they_part() -> None:
    query = "select " + "column, " * 20
    (found,) = facts_differences({"query": query + "one"}, {"query": query + "two"})
    assert found.before.endswith("one") and found.after.endswith("two") and len(found.before) < 60
