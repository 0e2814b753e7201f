from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reshelve.controller import Allowance, Move, decide, judge, worst
from reshelve.spec.throttle import AdaptiveThrottle, Band

_BAND = Band(low=10, high=20, limit=40)
_SETTINGS = AdaptiveThrottle(floor=50, cooldown=10)


@pytest.mark.parametrize(
    ("value", "move"),
    [(0, Move.GROW), (10, Move.GROW), (10.1, Move.HOLD), (19.9, Move.HOLD), (20, Move.SHED), (40, Move.HALVE)],
)
def test_a_signal_is_judged_by_its_band(value: float, move: Move) -> None:
    assert judge(_BAND, value) is move


def test_the_most_severe_signal_wins_and_one_that_is_not_known_says_nothing() -> None:
    bands = {"heap": Band(low=75, high=90, limit=95), "cpu": _BAND, "write_queue": _BAND}
    assert worst(bands, {"heap": 96, "cpu": 30}) == (Move.HALVE, "heap 96")
    assert worst(bands, {"heap": 80, "cpu": 30}) == (Move.SHED, "cpu 30")
    assert worst(bands, {"heap": 10}) == (Move.GROW, "heap 10")
    assert worst(bands, {}) is None


def test_the_first_shed_takes_the_rate_that_is_seen() -> None:
    allowed = decide(0, Allowance(), (Move.SHED, "heap 91"), 1000, None, _SETTINGS)
    assert allowed == Allowance(800, "heap 91", 0)
    assert decide(9.9, allowed, (Move.HALVE, "heap 99"), 800, None, _SETTINGS) is allowed
    assert decide(10, allowed, (Move.HALVE, "heap 99"), 800, None, _SETTINGS).rate == 400
    assert decide(0, Allowance(), (Move.HALVE, "heap 99"), None, None, _SETTINGS) == Allowance()
    assert decide(0, Allowance(), (Move.HALVE, "heap 99"), 0, None, _SETTINGS) == Allowance(), "it does nothing"
    assert decide(0, Allowance(), (Move.HALVE, "heap 99"), 5000, 600, _SETTINGS).rate == 300


def test_it_grows_only_while_the_rate_is_used() -> None:
    allowed = Allowance(1000, "heap 91", 0)
    grown = decide(20, allowed, (Move.GROW, "heap 20"), 990, None, _SETTINGS)
    assert grown == Allowance(1100, "heap 91", 20)
    assert decide(20, allowed, (Move.GROW, "heap 20"), 0, None, _SETTINGS) is allowed
    assert decide(20, allowed, (Move.GROW, "heap 20"), 300, 5000, _SETTINGS) is allowed
    assert decide(20, allowed, (Move.GROW, "heap 20"), 300, None, _SETTINGS).rate is None, "it held nothing back"
    assert decide(20, allowed, (Move.GROW, "heap 20"), 990, 1050, _SETTINGS).rate is None, "the limit binds"
    assert decide(20, allowed, (Move.HOLD, "heap 80"), 990, None, _SETTINGS) is allowed


_STEPS = st.lists(st.tuples(st.floats(0.1, 30), st.none() | st.floats(0, 60), st.floats(0, 2)), max_size=60)


@given(st.none() | st.floats(1, 1e5), _STEPS)
def test_within_its_limits_whatever_the_signals_say(
    limit: float | None, steps: list[tuple[float, float, float]]
) -> None:
    """Never above the limit that was set, never below the floor, never two changes within the cooldown; nothing is
    taken from a run whose signals are well."""
    now, allowed = 0.0, Allowance()
    changed: list[float] = []
    for seconds, value, used in steps:
        now += seconds
        may = min(rate for rate in (allowed.rate, limit, 1e6) if rate is not None)
        asked = None if value is None else worst({"heap": _BAND}, {"heap": value})
        before, allowed = allowed, decide(now, allowed, asked, may * used, limit, _SETTINGS)
        if allowed is before:
            continue
        changed.append(now)
        assert limit is None or allowed.rate is None or allowed.rate <= limit
        assert allowed.rate is None or allowed.rate >= min(_SETTINGS.floor, limit or _SETTINGS.floor) * (1 - 1e-9)
        assert asked is not None
        gives_way = allowed.rate is not None and (before.rate is None or allowed.rate < before.rate)
        assert gives_way is (asked[0] in (Move.SHED, Move.HALVE))
    assert all(later - sooner >= _SETTINGS.cooldown for sooner, later in pairwise(changed))


@given(st.floats(60, 1e5), st.floats(40, 1000))
def test_it_recovers_once_the_signals_are_well(limit: float, bad: float) -> None:
    now, allowed = 0.0, Allowance()
    for value in [bad] * 20 + [0.0] * 200:
        now += _SETTINGS.cooldown
        may = allowed.rate or limit
        allowed = decide(now, allowed, worst({"heap": _BAND}, {"heap": value}), may, limit, _SETTINGS)
    assert allowed.rate is None


def test_off_looks_at_nothing_and_a_band_is_in_order() -> None:
    assert set(AdaptiveThrottle().bands) == {"rejections", "heap", "write_queue"}
    assert AdaptiveThrottle(enabled=False).bands == {}
    with pytest.raises(ValueError, match="low must be below high"):
        Band(low=5, high=5, limit=9)
