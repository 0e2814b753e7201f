from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from reshelve.spec.window import DAYS, Opening, Window, minutes
from reshelve.spec.yaml_source import read_yaml
from reshelve.window import Standing, WindowClock

_BERLIN = ZoneInfo("Europe/Berlin")


def window(*openings: tuple[str, str], days: tuple[str, ...] = DAYS, closed: tuple[str, ...] = ()) -> WindowClock:
    described = [{"days": days, "start": start, "end": end} for start, end in openings]
    return WindowClock(Window.model_validate({"zone": "Europe/Berlin", "open": described, "closed": closed}))


def berlin(text: str, fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=_BERLIN, fold=fold).astimezone(UTC)


@pytest.mark.parametrize(
    ("now", "is_open", "until"),
    [
        ("2026-06-05 21:59", False, "2026-06-05 22:00"),  # a Friday
        ("2026-06-05 22:00", True, "2026-06-06 05:00"),
        ("2026-06-06 04:59:59", True, "2026-06-06 05:00"),
        ("2026-06-06 05:00", False, "2026-06-08 22:00"),
    ],
)
def test_a_window_passes_midnight(now: str, is_open: bool, until: str) -> None:
    nights = window(("22:00", "05:00"), days=("mon", "tue", "wed", "thu", "fri"))
    assert nights.at(berlin(now)) == Standing(is_open, berlin(until))


def test_on_a_closed_date_nothing_is_open_and_no_opening_begins() -> None:
    nights = window(("22:00", "05:00"), closed=("2026-12-24",))
    assert nights.at(berlin("2026-12-23 23:00")) == Standing(True, berlin("2026-12-24 00:00"))
    assert nights.at(berlin("2026-12-24 00:00")) == Standing(False, berlin("2026-12-25 22:00"))
    assert not nights.at(berlin("2026-12-25 02:00")).is_open


def test_a_time_that_is_leapt_over_is_the_moment_of_the_leap() -> None:
    """On 2026-03-29 the clock goes from 02:00 to 03:00."""
    early = window(("02:30", "04:00"))
    assert early.at(berlin("2026-03-29 01:59")) == Standing(False, berlin("2026-03-29 03:00"))
    late = window(("22:00", "02:30"))
    assert late.at(berlin("2026-03-29 01:59")) == Standing(True, berlin("2026-03-29 03:00"))
    within = window(("02:10", "02:50"))
    assert within.at(berlin("2026-03-29 01:00")) == Standing(False, berlin("2026-03-30 02:10"))


def test_a_time_that_comes_twice_is_meant_when_it_comes_first() -> None:
    """On 2026-10-25 the clock goes from 03:00 back to 02:00."""
    late = window(("22:00", "02:30"))
    assert late.at(berlin("2026-10-25 02:29")) == Standing(True, berlin("2026-10-25 02:30"))
    assert not late.at(berlin("2026-10-25 02:15", fold=1)).is_open
    early = window(("02:30", "04:00"))
    assert early.at(berlin("2026-10-25 02:15", fold=1)) == Standing(True, berlin("2026-10-25 04:00"))


def test_openings_that_touch_are_one_and_all_of_them_are_for_ever() -> None:
    touching = window(("08:00", "12:00"), ("12:00", "14:00"), ("13:00", "15:00"))
    assert touching.at(berlin("2026-06-05 09:00")) == Standing(True, berlin("2026-06-05 15:00"))
    assert window(("00:00", "24:00")).at(berlin("2026-06-05 09:00")) == Standing(True, None)


_TIMES = st.builds(lambda h, m: f"{h:02}:{m:02}", st.integers(0, 23), st.sampled_from((0, 15, 30, 59)))
_OPENINGS = st.builds(
    lambda days, start, end: {"days": sorted(days), "start": start, "end": end},
    st.sets(st.sampled_from(DAYS), min_size=1),
    _TIMES,
    _TIMES,
).filter(lambda one: one["start"] != one["end"])
_DATES = st.dates(date(2026, 1, 1), date(2026, 12, 31))
_WINDOWS = st.builds(
    lambda zone, openings, closed: WindowClock(
        Window.model_validate({"zone": zone, "open": openings, "closed": closed})
    ),
    st.sampled_from(("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "UTC")),
    st.lists(_OPENINGS, min_size=1, max_size=3),
    st.lists(_DATES, max_size=3),
)
_MOMENTS = st.datetimes(datetime(2026, 1, 2), datetime(2026, 12, 30), timezones=st.just(UTC))  # noqa: DTZ001


@given(_WINDOWS, _MOMENTS, st.floats(0, 0.999))
def test_it_stays_as_it_is_until_it_says_so_and_changes_then(clock: WindowClock, now: datetime, part: float) -> None:
    found = clock.at(now)
    if found.until is None:
        return
    assert found.until > now
    between = clock.at(now + (found.until - now) * part)
    assert between == found
    assert clock.at(found.until).is_open is not found.is_open


@given(_WINDOWS, _MOMENTS)
def test_on_days_without_a_change_of_the_clock_it_is_what_the_wall_says(clock: WindowClock, now: datetime) -> None:
    zone = ZoneInfo(clock.window.zone)
    local = now.astimezone(zone)
    offsets = {(local + timedelta(days=n)).utcoffset() for n in (-2, -1, 0, 1, 2)}
    assume(len(offsets) == 1)
    shown, today, yesterday = local.hour * 60 + local.minute, local.date(), local.date() - timedelta(days=1)

    def shows(opening: Opening) -> bool:
        start, end = minutes(opening.start), minutes(opening.end)
        begins = [day for day in (today, yesterday) if DAYS[day.weekday()] in opening.days]
        begins = [day for day in begins if day not in clock.window.closed]
        if end > start:
            return today in begins and start <= shown < end
        return (today in begins and shown >= start) or (yesterday in begins and shown < end)

    expected = today not in clock.window.closed and any(map(shows, clock.window.open))
    assert clock.at(now).is_open is expected


def test_to_ignore_it_holds_until_it_opens_once() -> None:
    nights = window(("22:00", "05:00"))
    asked = berlin("2026-06-05 12:00")
    assert nights.ignored_since(asked, berlin("2026-06-05 21:59"))
    assert not nights.ignored_since(asked, berlin("2026-06-05 22:30"))
    assert not nights.ignored_since(asked, berlin("2026-06-06 12:00"))
    assert not nights.ignored_since(berlin("2026-06-05 23:00"), berlin("2026-06-06 12:00"))


def test_a_bare_time_in_yaml_is_a_number_of_base_60() -> None:
    source = read_yaml("{start: 22:00, end: 05:00, closed: [2026-12-24]}", name="spec", environ={})
    assert source.value["start"] == 1320
    opening = Opening.model_validate({"start": source.value["start"], "end": source.value["end"]})
    assert (opening.start, opening.end, opening.days) == ("22:00", "05:00", DAYS)
    read = Window.model_validate({"zone": "UTC", "open": [opening.model_dump()], "closed": source.value["closed"]})
    assert read.closed == (date(2026, 12, 24),)


@pytest.mark.parametrize(
    ("zone", "start", "end", "said"),
    [
        ("Europe/Berlin", "25:00", "05:00", "should be a time of day"),
        ("Europe/Berlin", 1441, "05:00", "valid string"),
        ("Europe/Berlin", "05:00", 300, "never open"),
        ("Mars/Olympus", "05:00", "06:00", "not a time zone"),
    ],
)
def test_what_is_no_window_is_refused(zone: str, start: object, end: object, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Window.model_validate({"zone": zone, "open": [{"start": start, "end": end}]})
