"""The adaptive throttle's decisions: from what signals say to the rate of a run. Pure.

Additive increase and multiplicative decrease share a link fairly among strangers (Chiu and Jain, 1989). A run shares a
cluster with searches that must win: so it gives way by parts of its rate, and grows by less, as Elasticsearch's
auto-throttling of merges does. As in Netflix's concurrency-limits, a limit that is not used does not grow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from reshelve.spec.throttle import AdaptiveThrottle, Band

GROWTH: Final = 1.1
SHED: Final = 0.8
HALF: Final = 0.5
_USED: Final = 0.5
"""Share of the rate below which it is not what holds the run back."""


class Move(IntEnum):
    """What a signal asks for; the higher one wins."""

    GROW = 0
    HOLD = 1
    SHED = 2
    HALVE = 3


@dataclass(frozen=True, slots=True)
class Allowance:
    """What the run may do.

    rate     documents a second over all workers; None: what the other limits say
    because  of the signal that made it so
    since    when it was made so, in seconds of any clock that only goes forward; None: from the beginning
    """

    rate: float | None = None
    because: str = ""
    since: float | None = None


def judge(band: Band, value: float) -> Move:
    """What a signal of that value asks for."""
    if value >= band.limit:
        return Move.HALVE
    if value >= band.high:
        return Move.SHED
    return Move.GROW if value <= band.low else Move.HOLD


def worst(bands: Mapping[str, Band], values: Mapping[str, float]) -> tuple[Move, str] | None:
    """The most severe move, and the signal that asks for it; None when no signal is known."""
    known = [(judge(band, values[name]), name) for name, band in bands.items() if name in values]
    if not known:
        return None
    move, name = max(known, key=lambda pair: (pair[0], values[pair[1]] / max(bands[pair[1]].limit, 1e-9)))
    return move, f"{name} {values[name]:,.4g}"


def decide(
    now: float,
    allowed: Allowance,
    asked: tuple[Move, str] | None,
    seen: float | None,
    limit: float | None,
    settings: AdaptiveThrottle,
) -> Allowance:
    """What the run may do from now on; `allowed` itself when that does not change.

    asked  as of `worst`
    seen   documents a second that the run does now; None: not known
    limit  that an operator or the spec has set; None: none
    """
    if asked is None or (allowed.since is not None and now - allowed.since < settings.cooldown):
        return allowed
    move, why = asked
    rate = allowed.rate
    if move in (Move.SHED, Move.HALVE):
        if seen is not None and seen < 1:
            return allowed  # who does nothing can't give way
        # From what is done, where that is less than what may be done: else giving way would change nothing.
        known = [one for one in (rate, limit, seen) if one is not None]
        if not known:
            return allowed
        floor = settings.floor if limit is None else min(settings.floor, limit)
        lower = max(floor, min(known) * (SHED if move is Move.SHED else HALF))
        return allowed if rate is not None and lower >= rate else Allowance(lower, why, now)
    if move is Move.HOLD or rate is None or seen is None or seen <= 0:
        return allowed
    grown = rate * GROWTH
    if limit is not None and grown >= limit:
        return Allowance(None, "", now)
    if seen < rate * _USED:
        return allowed if limit is not None else Allowance(None, "", now)  # it is not what holds the run back
    return Allowance(grown, allowed.because, now)
