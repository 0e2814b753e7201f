from __future__ import annotations

from reshelve.cleanup import rollback_target_of
from reshelve.model import RunId
from reshelve.state import RunState

OLD, NEW = RunId("docs", "1"), RunId("docs", "2")


def states(*kinds: str, cleaned: bool = False, rolled_back: bool = False) -> list[RunState]:
    """The old run, and a newer one that found the old one's index behind the alias."""
    planned = {"planned": {"plan": {"previous_uuid": "u1"}}}
    return [
        RunState(OLD, facts={"planned": {"plan": {"previous_uuid": None}}}),
        RunState(NEW, cleaned=cleaned, rolled_back=rolled_back, facts=planned | {kind: {} for kind in kinds}),
    ]


def test_an_index_that_a_newer_run_rolls_back_to_is_its_own_no_more() -> None:
    assert rollback_target_of("u1", OLD, states("cutover_began")) == NEW
    assert rollback_target_of("u1", OLD, states("cutover_began", "cutover")) == NEW


def test_it_is_left_over_before_the_swap_after_the_rollback_or_the_clean_up_and_to_the_newer_run_itself() -> None:
    assert rollback_target_of("u1", OLD, states()) is None
    assert rollback_target_of("u1", OLD, states("cutover", cleaned=True)) is None
    assert rollback_target_of("u1", OLD, states("cutover", rolled_back=True)) is None
    assert rollback_target_of("u1", NEW, states("cutover")) is None
    assert rollback_target_of("u0", OLD, states("cutover")) is None
