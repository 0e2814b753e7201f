"""A validator that stands still is started again; one that works, or has nothing to do, is let alone."""

from __future__ import annotations

from reshelve.validator.stall import PATIENCE_S, PATIENCE_WITHOUT_PARTITIONS_S, StallWatch


def test_undone_and_nothing_happens() -> None:
    watch = StallWatch(0)
    assert not watch.stalled({0: 4}, busy=False, holds=True, now=1)
    assert not watch.stalled({0: 4}, busy=False, holds=True, now=1 + PATIENCE_S)
    assert watch.stalled({0: 4}, busy=False, holds=True, now=2 + PATIENCE_S)


def test_without_partitions_it_waits_longer() -> None:
    watch = StallWatch(0)
    assert not watch.stalled({0: 0}, busy=False, holds=False, now=0)
    assert not watch.stalled({0: 0}, busy=False, holds=False, now=PATIENCE_WITHOUT_PARTITIONS_S)
    assert watch.stalled({0: 0}, busy=False, holds=False, now=PATIENCE_WITHOUT_PARTITIONS_S + 1)


def test_work_and_progress_count() -> None:
    watch = StallWatch(0)
    for now in range(0, 1000, 10):
        assert not watch.stalled({0: 4}, busy=True, holds=True, now=now)
        assert not watch.stalled({0: now}, busy=False, holds=True, now=now)
        assert not watch.stalled({}, busy=False, holds=True, now=now)
