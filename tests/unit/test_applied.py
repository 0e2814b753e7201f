from __future__ import annotations

import pytest

from reshelve.applied import Applied, newest, oldest

_OLD, _NEW = Applied(5, 100), Applied(1 << 52, 1_800_000_000_000)


@pytest.mark.parametrize("clock", [_OLD, _NEW])
def test_it_survives_as_metadata(clock: Applied) -> None:
    assert Applied.decode(clock.encode()) == clock


@pytest.mark.parametrize("metadata", [None, "", "applied 5", "applied 5 -1", "applied 5 100 ", "reset by hand"])
def test_metadata_that_is_not_ours_says_nothing(metadata: str | None) -> None:
    assert Applied.decode(metadata) is None


def test_newest_and_oldest() -> None:
    assert newest([None, _OLD, _NEW]) == _NEW
    assert newest([None]) is None
    assert oldest([_NEW, _OLD]) == _OLD
    assert oldest([_NEW, None]) is None
    assert oldest([]) is None


def test_time_goes_on_while_nobody_writes() -> None:
    """The version of an idle source stays, and its changes are not getting older for it."""
    later = Applied(_OLD.version, _OLD.at + 1)
    assert newest([_OLD, later]) == newest([later, _OLD]) == later
    assert oldest([_OLD, later]) == oldest([later, _OLD]) == _OLD
