from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reshelve.throttle import Throttle, TokenBucket


class Clock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


_RATE = st.floats(0.5, 1e6)
_WORK = st.lists(st.tuples(st.integers(1, 100_000), st.floats(0, 3)), min_size=1, max_size=40)


@given(_RATE, _WORK)
def test_on_the_long_run_no_more_than_the_limit(rate: float, work: list[tuple[int, float]]) -> None:
    """Whatever is done beside the waiting, and however large a piece: when the next may begin, what was done
    before has been paid for; what may be saved up is a second's worth."""
    clock = Clock()
    bucket, done, began = TokenBucket(rate, clock=clock), 0, clock.now
    for tokens, seconds in work:
        clock.now += bucket.wait_s()
        assert bucket.wait_s() < 1e-6
        assert done <= rate * (clock.now - began) * (1 + 1e-9) + 1e-3
        clock.now += seconds
        bucket.take(tokens)
        done += tokens


@given(_RATE, st.floats(0, 1e6))
def test_a_long_rest_saves_up_one_second(rate: float, rest: float) -> None:
    clock = Clock()
    bucket = TokenBucket(rate, clock=clock)
    clock.now += rest
    bucket.take(rate * 11)
    assert 10 - 1e-6 <= bucket.wait_s() <= 11 + 1e-6


def test_it_begins_empty() -> None:
    bucket = TokenBucket(10, clock=Clock())
    bucket.take(10)
    assert bucket.wait_s() == pytest.approx(1)


def test_a_change_of_rate_keeps_what_is_owed() -> None:
    clock = Clock()
    bucket = TokenBucket(10, clock=clock)
    bucket.take(100)
    clock.now += 5
    bucket.set_rate(100)
    assert bucket.wait_s() == pytest.approx(0.5)


def test_no_limit_never_waits() -> None:
    bucket = TokenBucket(None, clock=Clock())
    bucket.take(1e12)
    assert bucket.wait_s() == 0


def test_a_rate_that_falls_takes_no_longer_to_pay_what_is_owed() -> None:
    bucket = TokenBucket(10_000, clock=Clock())
    bucket.take(5_000)
    bucket.set_rate(10)
    assert bucket.wait_s() == pytest.approx(0.5)


def test_limits_change_on_the_way() -> None:
    clock = Clock()
    throttle = Throttle(None, None, clock=clock)
    throttle.set_share(1, 2)
    throttle.set_limits(100, None)
    throttle.take(100, 10**9)
    assert throttle.wait_s() == pytest.approx(2)
    throttle.set_limits(None, None)
    assert throttle.wait_s() == 0
    assert throttle.documents_per_second is None


@pytest.mark.parametrize("rate", [0, -1])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="not positive"):
        TokenBucket(rate)


@given(_RATE, st.lists(st.integers(0, 6), min_size=1, max_size=6))
def test_the_shares_of_all_workers_add_up_to_the_limit(limit: float, held: list[int]) -> None:
    partitions = sum(held)
    workers = [Throttle(limit, None, clock=Clock()) for _ in held]
    for worker, number in zip(workers, held, strict=True):
        worker.set_share(number, partitions)
    shares = [w.documents_per_second or 0 for w, number in zip(workers, held, strict=True) if number]
    assert sum(shares) == pytest.approx(limit if partitions else 0)


def test_the_tighter_limit_binds() -> None:
    clock = Clock()
    throttle = Throttle(100, 1, clock=clock)
    throttle.take(10, 5_000_000)
    assert throttle.wait_s() == pytest.approx(5)
    clock.now += 5  # the documents have saved up their second's worth meanwhile
    throttle.take(300, 10)
    assert throttle.wait_s() == pytest.approx(2)


def test_half_the_partitions_are_half_the_rate() -> None:
    throttle = Throttle(100, 1, clock=Clock())
    throttle.set_share(2, 4)
    throttle.take(100, 0)
    assert throttle.wait_s() == pytest.approx(2)
    throttle.set_share(0, 4)  # it holds nothing now, and keeps what it owes
    assert throttle.wait_s() == pytest.approx(2)
