"""What an abort comes to, by where the alias is."""

from __future__ import annotations

import pytest

from reshelve.abort import Ending, ending


@pytest.mark.parametrize(
    ("at_our_index", "previous", "found", "expected"),
    [
        (False, "u1", "u1", Ending.GIVE_UP),
        (False, None, None, Ending.GIVE_UP),
        (True, "u1", "u1", Ending.ROLL_BACK),
        (True, "u1", None, Ending.COMPLETE),  # the index before is gone
        (True, "u1", "u2", Ending.COMPLETE),  # another index of its name
        (True, None, None, Ending.COMPLETE),  # there was none
    ],
)
def test_the_alias_is_left_at_one_of_two_whole_indexes(
    at_our_index: bool, previous: str | None, found: str | None, expected: Ending
) -> None:
    assert ending(at_our_index, previous, found) is expected
