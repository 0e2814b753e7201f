"""Which index can be adopted, and which run stands for one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from test_plan import a_plan

from reshelve.adopt import MOST_AHEAD, adopters_of, builder_of, meaning_changes, require_few
from reshelve.cleanup import adopted_by_others
from reshelve.consumers.adoption import FoundIndex, reasons_against
from reshelve.consumers.alias import Alias
from reshelve.errors import BlockedError, UsageError
from reshelve.model import RunId
from reshelve.spec.validation import Validation
from reshelve.state import RunState
from reshelve.validator.ahead import Ahead
from reshelve.validator.levels import Levels

FINE = FoundIndex(
    name="old",
    uuid="u",
    alias="cities",
    options={},
    mapping={"properties": {}},
    settings={"index.default_pipeline": "_none", "index.blocks.write": "false"},
    data_stream="",
    routed=0,
    private=Alias("old.write"),
)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"options": {"filter": {"term": {"a": 1}}}}, "has a filter"),
        ({"options": {"index_routing": "1", "search_routing": "1"}}, "has a routing"),
        ({"mapping": {"_routing": {"required": True}}}, "requires a routing"),
        ({"routed": 3}, "3 documents have a routing"),
        ({"mapping": {"_source": {"enabled": False}}}, "keeps no _source"),
        ({"mapping": {"_source": {"excludes": ["a"]}}}, "a part of _source"),
        ({"settings": {"index.derived_source.enabled": "true"}}, "another form"),
        ({"settings": {"index.final_pipeline": "p"}}, "index.final_pipeline is set"),
        ({"settings": {"index.blocks.write": "true"}}, "nothing can be written"),
        ({"data_stream": "logs"}, "data stream logs"),
        ({"private": Alias("old.write", ("other",))}, "old.write"),
    ],
)
def test_what_stands_against_an_index(changes: dict[str, Any], why: str) -> None:
    (reason,) = reasons_against(replace(FINE, **changes))
    assert why in reason


def test_nothing_stands_against_one_that_has_its_private_alias_already() -> None:
    assert reasons_against(FINE) == []
    assert reasons_against(replace(FINE, private=Alias("old.write", ("old",)))) == []


def test_what_a_document_is_and_not_how_a_run_goes_on() -> None:
    plan = a_plan()
    assert meaning_changes(plan, plan) == []
    moved = replace(plan, index="x", definition={}, spec=plan.spec | {"limits": {}, "owner": "ada"})
    assert meaning_changes(plan, moved) == []
    altered = replace(plan, source=replace(plan.source, timeline=2), spec=plan.spec | {"transform": "m:f"})
    assert [change.partition(":")[0] for change in meaning_changes(plan, altered)] == [
        "source.timeline", "spec.transform",
    ]  # fmt: skip


def _state(name: str, index: str, *, adopted: bool = False, uuid: str = "u", kinds: tuple[str, ...] = ()) -> RunState:
    state = RunState(RunId("cities", name))
    state.facts["planned"] = {"plan": {"index": index, "adopted": adopted}, "uuid": uuid if adopted else None}
    state.facts |= {kind: {"uuid": uuid} for kind in kinds}
    return state


def test_an_index_is_its_builder_s_until_that_is_cleaned_up() -> None:
    built, adopted = _state("1", "a", kinds=("created", "completed")), _state("2", "b", adopted=True)
    assert builder_of([built, adopted], "a") is built
    assert builder_of([built, adopted], "b") is None
    built.cleaned = True
    assert builder_of([built, adopted], "a") is None


def test_the_runs_that_adopted_an_index() -> None:
    left = _state("1", "a", adopted=True)
    done = _state("2", "a", adopted=True, kinds=("created", "completed"))
    again = _state("3", "a", adopted=True, uuid="another", kinds=("created",))  # made anew under the same name
    built = _state("4", "a", kinds=("created",))
    assert adopters_of([left, done, again, built], "cities", "u") == [left, done]
    assert adopters_of([left, done], "towns", "u") == []
    left.state, done.cleaned = "aborted", True
    assert adopters_of([left, done], "cities", "u") == []


def test_the_private_alias_stays_as_long_as_another_run_needs_it() -> None:
    one, two = (_state(name, "a", adopted=True, kinds=("created",)) for name in ("1", "2"))
    assert adopted_by_others(one, [one, two])
    two.cleaned = True
    assert not adopted_by_others(one, [one, two])
    assert not adopted_by_others(one, [one, _state("3", "a", kinds=("created",))])


def test_few_may_be_ahead_of_the_clock() -> None:
    found = Ahead(10)
    found.take({"_id": str(n), "_version": n} for n in (1, 10, 11, 12))
    assert (found.documents, found.number, found.highest, found.keys) == (4, 2, 12, ("11", "12"))
    require_few("a", found, "s.yaml")
    found.take({"_id": str(n), "_version": 13} for n in range(MOST_AHEAD))
    assert len(found.keys) == 5
    with pytest.raises(BlockedError, match="ahead of the source's clock") as refused:
        require_few("a", found, "s.yaml")
    assert f"{MOST_AHEAD + 2:,} of {MOST_AHEAD + 4:,}" in refused.value.why
    assert "the highest 13" in refused.value.why


def test_an_adopted_index_is_compared_whole_or_not_at_all() -> None:
    asked = Validation()
    assert Levels.chosen((), asked, adopted=True).names == ("full",)
    assert Levels.chosen(("full",), asked, adopted=True).names == ("full",)
    assert Levels.chosen((), asked, adopted=False) == Levels.of(asked)
    with pytest.raises(UsageError, match="counts"):
        Levels.chosen(("full", "counts"), asked, adopted=True)
