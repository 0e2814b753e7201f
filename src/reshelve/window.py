"""Maintenance windows: whether one is open at a moment, and until when. Pure.

An opening lasts from one moment to another: those at which the clock on the wall shows its start and its end. Where the
clock is put forward over such a time, the moment is that of the leap; where it is put back and shows it twice, the
first. So an opening over the night of a change is an hour shorter or longer than it reads, and never open twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cached_property
from typing import Final
from zoneinfo import ZoneInfo

from reshelve.spec.window import DAYS, Window, minutes

_HORIZON_DAYS: Final = 400
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Standing:
    """How a window is at a moment.

    until  when that changes; None: not within a year"""

    is_open: bool
    until: datetime | None

    def text(self, zone: str) -> str:
        """For people."""
        if self.until is None:
            return "open" if self.is_open else "closed, and opens no more within a year"
        local = self.until.astimezone(ZoneInfo(zone))
        return f"{'open' if self.is_open else 'closed'} until {local:%a %Y-%m-%d %H:%M} ({zone})"


@dataclass(frozen=True)
class WindowClock:
    """A window that is looked at again and again."""

    window: Window

    @cached_property
    def _zone(self) -> ZoneInfo:
        return ZoneInfo(self.window.zone)

    @cached_property
    def _closed(self) -> frozenset[date]:
        return frozenset(self.window.closed)

    def at(self, now: datetime) -> Standing:
        """How the window is at `now` (with a time zone)."""
        first: tuple[datetime, datetime] | None = None
        for begin, end in self._openings(now.astimezone(self._zone).date() - 2 * _DAY):
            if first is not None and begin > first[1]:
                break
            if end > now:
                first = (begin, end) if first is None else (first[0], max(first[1], end))
        if first is None:
            return Standing(False, None)
        if first[0] > now:
            return Standing(False, first[0])
        return Standing(True, first[1] if first[1] - now < (_HORIZON_DAYS - 10) * _DAY else None)

    def ignored_since(self, asked: datetime, now: datetime) -> bool:
        """Whether the window is closed at `now`, and has been since somebody asked for it not to count."""
        then, today = self.at(asked), self.at(now)
        return not then.is_open and not today.is_open and then.until == today.until

    def _openings(self, first: date) -> Iterator[tuple[datetime, datetime]]:
        """Those that begin on that day or later, without what falls on closed dates, by their beginnings."""
        for number in range(_HORIZON_DAYS):
            day = first + number * _DAY
            if day in self._closed:
                continue
            found = []
            for opening in self.window.open:
                if DAYS[day.weekday()] not in opening.days:
                    continue
                start, end = minutes(opening.start), minutes(opening.end)
                begin = self._moment(day, start)
                if end > start:
                    finish = self._moment(day, end)
                else:
                    finish = self._moment(day + _DAY, 0 if day + _DAY in self._closed else end)
                if begin < finish:
                    found.append((begin, finish))
            yield from sorted(found)

    def _moment(self, day: date, minute: int) -> datetime:
        """When the clock on the wall shows that minute of the day, in UTC."""
        day, minute = day + minute // 1440 * _DAY, minute % 1440
        local = datetime.combine(day, time(minute // 60, minute % 60), self._zone)
        moment = local.astimezone(UTC)
        if moment.astimezone(self._zone).replace(tzinfo=None) == local.replace(tzinfo=None):
            return moment
        return self._leap(moment)

    def _leap(self, behind: datetime) -> datetime:
        """The moment, within a day before `behind`, at which the clock was put forward."""
        before, after = behind - _DAY, behind
        offset = before.astimezone(self._zone).utcoffset()
        while after - before > timedelta(seconds=1):
            middle = before + (after - before) / 2
            if middle.astimezone(self._zone).utcoffset() == offset:
                before = middle
            else:
                after = middle
        return after.replace(microsecond=0)
