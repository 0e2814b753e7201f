"""When a watermark is due."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reshelve.model import Watermark
from reshelve.producers.watermarks import Watermarks, format_lsn, parse_lsn


def test_a_watermark_is_due_when_the_log_is_passed_and_only_once() -> None:
    marks = Watermarks()
    assert marks.reached(10) is None
    marks.offer(5, 1000, 100)
    assert marks.awaited == 100
    assert marks.reached(99) is None
    assert marks.reached(120) == Watermark(5, 1000, 120)
    assert marks.reached(130) is None


def test_while_one_snapshot_waits_no_other_is_taken() -> None:
    marks = Watermarks()
    marks.offer(5, 1000, 100)
    marks.offer(6, 2000, 200)
    assert marks.reached(300) == Watermark(5, 1000, 300)
    assert marks.reached(300) is None


def test_an_older_snapshot_is_left_out_and_an_equal_one_is_taken() -> None:
    marks = Watermarks()
    marks.offer(5, 1000, 100)
    marks.reached(100)
    marks.offer(4, 2000, 200)
    assert marks.awaited is None
    marks.offer(5, 3000, 100)
    assert marks.reached(100) == Watermark(5, 3000, 100)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20), st.integers(0, 50))))
def test_watermarks_never_go_back_nor_ahead_of_the_log(steps: list[tuple[bool, int, int]]) -> None:
    """A source whose snapshots and log only go forward, and a feed that follows at its own pace."""
    marks, version, insert, passed = Watermarks(), 1, 0, 0
    needed: dict[int, int] = {}
    newest = 0
    for takes_snapshot, transactions, pace in steps:
        if takes_snapshot:
            version, insert = version + transactions, insert + transactions * 10
            needed.setdefault(version, insert)
            marks.offer(version, 0, insert)
        passed = max(passed, min(insert, passed + pace))
        mark = marks.reached(passed)
        if mark is not None:
            assert mark.version >= newest
            assert needed[mark.version] <= mark.lsn == passed
            newest = mark.version


@pytest.mark.parametrize(("text", "lsn"), [("0/0", 0), ("0/16B3748", 0x16B3748), ("1A/FFFFFFFF", 0x1AFFFFFFFF)])
def test_positions_in_text(text: str, lsn: int) -> None:
    assert parse_lsn(text) == lsn
    assert format_lsn(lsn) == text
