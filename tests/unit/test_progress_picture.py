from __future__ import annotations

from reshelve.applied import Applied
from reshelve.model import Receipt, Segment
from reshelve.progress import Progress
from reshelve.rates import Rate
from reshelve.receipts import tile

_RATE = Rate(None, None)
_TILING = tile([Segment(0, None, None)], [Receipt(0, None, None, 100, 100, 0, 0, 1000, 1, 1)])


def test_changes_after_the_copy_do_not_count_as_documents_of_it() -> None:
    copying = Progress(_TILING, {0: 51}, {0: 102}, 0, (), (), _RATE, _RATE)
    assert (copying.indexed, copying.lag) == (50, 51)
    later = Progress(_TILING, {0: 51}, {0: 100_000}, 0, (), (), _RATE, _RATE, copied_ends={0: 102})
    assert later.indexed == 50
    done = Progress(_TILING, {0: 90_000}, {0: 100_000}, 0, (), (), _RATE, _RATE, copied_ends={0: 102})
    assert (done.indexed, done.drained) == (100, False)


def test_seconds_behind_are_those_of_the_partition_that_is_furthest_behind() -> None:
    clocks = {0: Applied(9, 60_000), 1: Applied(8, 50_000)}
    picture = Progress(_TILING, {}, {}, 0, (), (), _RATE, _RATE, at_ms=62_500, followed=True, applied=clocks)
    assert (picture.seconds_behind, picture.applied_at) == (12.5, 50_000)
    assert picture.as_dict()["applied"] == {"0": 9, "1": 8}
    unknown = Progress(_TILING, {}, {}, 0, (), (), _RATE, _RATE, followed=True, applied={0: clocks[0], 1: None})
    assert (unknown.seconds_behind, unknown.applied_at) == (None, None)


def test_without_live_changes_nothing_is_said_of_them() -> None:
    picture = Progress(_TILING, {0: 1}, {0: 1}, 0, (), (), _RATE, _RATE)
    assert (picture.seconds_behind, picture.change_lag, dict(picture.tailer)) == (None, None, {})
    assert "seconds_behind" not in picture.as_dict()


def test_the_newest_report_of_a_tailer_counts() -> None:
    reports = tuple(
        {"role": role, "worker": role, "at": at, "counts": {"wal_retained": held}}
        for role, at, held in (("tailer", 2, 20), ("tailer", 1, 10), ("keys", 3, 30))
    )
    picture = Progress(_TILING, {}, {}, 0, reports, (), _RATE, _RATE, followed=True)
    assert picture.as_dict()["wal_retained"] == 20
