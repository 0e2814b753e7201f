"""Live changes, proven by a model: whatever the order in which things happen, the index becomes the source; and it is
found out when any one of the protections is taken away.

    RESHELVE_MODEL_SEED=123 pytest tests/model -k every          replays a schedule, step by step in words
    RESHELVE_MODEL_SEED=123 pytest tests/model -k VERSION_CHECK  the same without a protection
    RESHELVE_MODEL_SCHEDULES=1000000 pytest tests/model -k every goes through more of them

What is modelled and what is not: docs/decisions/0015-live-changes-by-a-model.md.
"""

from __future__ import annotations

import os

import pytest
from live_world import Violation, World
from protections import Protection

SCHEDULES = int(os.environ.get("RESHELVE_MODEL_SCHEDULES", "10000"))
REPLAYED = os.environ.get("RESHELVE_MODEL_SEED")
# A seeded bug has to be found within so many; the rarest need some hundreds.
_MOST = 5_000


def _explain(seed: int, missing: Protection | None, violation: Violation) -> str:
    """The schedule once more, in words."""
    trace: list[str] = []
    try:
        World(seed, missing, trace.append).run()
    except Violation as again:
        assert str(again) == str(violation), f"seed {seed} is not replayed as it was"
    return "\n".join([f"seed {seed}:", *(f"{number:4} {step}" for number, step in enumerate(trace, 1)), str(violation)])


def _violation(seed: int, missing: Protection | None) -> Violation | None:
    try:
        World(seed, missing).run()
    except Violation as violation:
        return violation
    return None


def _replay(missing: Protection | None) -> None:
    """Run the one schedule that was asked for, and show it."""
    trace: list[str] = []
    try:
        World(int(REPLAYED or 0), missing, trace.append).run()
    finally:
        print(*trace, sep="\n")  # noqa: T201 - shown by pytest when it fails, or with -s


@pytest.mark.timeout(1800)
def test_every_schedule_ends_with_the_index_being_the_source() -> None:
    if REPLAYED is not None:
        _replay(None)
        return
    for seed in range(SCHEDULES):
        if (violation := _violation(seed, None)) is not None:
            pytest.fail(_explain(seed, None, violation), pytrace=False)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("protection", Protection, ids=lambda protection: protection.name)
def test_without_a_protection_a_schedule_goes_wrong(protection: Protection) -> None:
    if REPLAYED is not None:
        _replay(protection)
        return
    for seed in range(_MOST):
        if (violation := _violation(seed, protection)) is not None:
            assert f"seed {seed}:" in _explain(seed, protection, violation)  # it is replayed as it was
            print(f"without {protection.name} schedule {seed} goes wrong: {violation}")  # noqa: T201
            return
    pytest.fail(f"{_MOST} schedules have not shown what {protection.name} is for: {protection.value}")
