"""What the driver of a run has against work: its window, unless somebody has said that it does not count this once."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from reshelve.commands import Command, ControlState
from reshelve.spec.window import Window
from reshelve.steering import WindowWatch

_WINDOW = Window.model_validate({"zone": "UTC", "open": [{"start": "22:00", "end": "05:00"}]})
_CLOSED = ("window", "closed until Mon 2026-03-02 22:00 (UTC)")


def at(text: str) -> datetime:
    return datetime.fromisoformat(f"2026-03-{text}").replace(tzinfo=UTC)


def resumed(moment: datetime, **values: Any) -> ControlState:
    return ControlState().take(Command("resume", int(moment.timestamp() * 1000), "jane", "", values))


def test_a_closed_window_holds_until_it_opens() -> None:
    watch, nothing = WindowWatch(_WINDOW), ControlState()
    assert watch.hold(at("02 12:00"), nothing) == _CLOSED
    assert watch.hold(at("02 21:59:59"), nothing) == _CLOSED
    assert watch.hold(at("02 22:00"), nothing) is None
    assert watch.hold(at("03 05:00"), nothing) == ("window", "closed until Tue 2026-03-03 22:00 (UTC)")
    assert watch.hold(at("02 12:00"), nothing) == _CLOSED, "a clock that was set back"


def test_a_person_may_ignore_it_once() -> None:
    watch = WindowWatch(_WINDOW)
    assert watch.hold(at("02 13:00"), resumed(at("02 12:00"))) == _CLOSED
    ignoring = resumed(at("02 12:00"), ignore_window=True)
    assert watch.hold(at("02 13:00"), ignoring) is None
    assert watch.hold(at("02 23:00"), ignoring) is None
    assert watch.hold(at("03 13:00"), ignoring) is not None
