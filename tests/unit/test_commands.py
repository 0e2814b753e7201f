"""What stands of the commands that a run was given."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from reshelve.commands import Command, ControlState, fold_commands

_AT = 1_700_000_000_000


def command(kind: str, by: str = "jane", why: str = "", **values: Any) -> Command:
    return Command(kind, _AT, by, why, values)


def test_a_pause_stands_until_somebody_resumes() -> None:
    paused = fold_commands([command("pause", why="the cluster is being moved")])
    assert paused.pause is not None
    assert paused.pause.text == "paused by jane since 2023-11-14T22:13:20+00:00: the cluster is being moved"
    assert paused.pause.next("docs.1") == "reshelve resume docs.1"
    assert paused.take(command("resume")).pause is None


def test_a_person_does_not_lift_what_the_driver_holds() -> None:
    both = fold_commands([command("hold", by="window", why="closed until 22:00"), command("pause")])
    assert both.pause is not None and not both.pause.held
    resumed = both.take(command("resume"))
    assert resumed.pause is not None and resumed.pause.held
    assert "--ignore-window" in resumed.pause.next("docs.1")
    assert resumed.take(command("release")).pause is None
    assert both.take(command("release")).pause == both.pause


def test_limits_stand_for_those_of_the_spec_until_they_are_reset() -> None:
    state = fold_commands([command("throttle", documents_per_second=100.0)])
    assert state.bounds(1000.0, 5.0).text == "100 documents/s and 5 MB/s (set by jane)"
    state = state.take(command("throttle", by="joe", megabytes_per_second=None))
    bounds = state.bounds(1000.0, 5.0)
    assert (bounds.documents_per_second, bounds.megabytes_per_second, bounds.source) == (100.0, None, "set by joe")
    bounds = state.take(command("throttle", reset=True)).bounds(1000.0, 5.0)
    assert (bounds.documents_per_second, bounds.megabytes_per_second) == (1000.0, 5.0)
    assert ControlState().bounds(None, None).text == "none: as fast as it goes (the spec's limits)"


def test_the_adaptive_throttle_stays_within_every_limit() -> None:
    told = command("rate", by="throttle", why="heap 93 %", documents_per_second=250.0)
    assert ControlState().take(told).bounds(None, None).source == "adaptive throttle: heap 93 %"
    assert ControlState().take(told).bounds(100.0, None).documents_per_second == 100.0
    lifted = ControlState().take(told).take(command("rate", by="throttle", documents_per_second=None))
    assert lifted.bounds(None, None).documents_per_second is None


_KINDS = ("pause", "resume", "hold", "release", "throttle", "rate", "abort", "retire", "of a newer release")
_COMMANDS = st.lists(
    st.builds(
        lambda kind, number, rate: Command(kind, number, "x", "", {"documents_per_second": rate}, number),
        st.sampled_from(_KINDS),
        st.integers(0, 10**12),
        st.none() | st.floats(0.1, 1e6),
    )
)


@given(_COMMANDS)
def test_the_newest_of_each_kind_decides(commands: list[Command]) -> None:
    newest = {one.kind: (place, one) for place, one in enumerate(commands)}
    decided = fold_commands(one for _, one in sorted(newest.values(), key=lambda pair: pair[0]))
    state = fold_commands(commands)
    assert state == decided
    assert (state.pause is not None) == (
        newest.get("pause", (-1,))[0] > newest.get("resume", (-1,))[0]
        or newest.get("hold", (-1,))[0] > newest.get("release", (-1,))[0]
    )
    assert (state.aborted is not None) == ("abort" in newest)
