from __future__ import annotations

from reshelve.reject_limit import RejectLimit


def test_nothing_is_counted_before_the_limit_may_be_passed() -> None:
    limit = RejectLimit(10)
    assert not limit.due(10)
    assert limit.due(11)


def test_what_was_superseded_makes_room_for_as_many_records() -> None:
    limit = RejectLimit(10)
    assert not limit.counted(11, 4)
    assert not limit.due(17)
    assert limit.due(18)
    assert not limit.counted(18, 10)
    assert not limit.due(18)
    assert limit.due(19)


def test_more_than_the_limit_are_too_many() -> None:
    assert RejectLimit(10).counted(50, 11)
    assert not RejectLimit(0).counted(1, 0)
    assert RejectLimit(0).due(1)
