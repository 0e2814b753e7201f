"""The spec's maintenance window: when a run may work."""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from reshelve.spec.fields import Section, Text

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_TIME: Final = re.compile(r"([01]?[0-9]|2[0-4]):([0-5][0-9])")
_DAY_MINUTES: Final = 24 * 60


def minutes(text: str) -> int:
    """`22:00` as minutes since midnight."""
    hours, _, rest = text.partition(":")
    return int(hours) * 60 + int(rest)


def _wall_time(value: object) -> object:
    """YAML 1.1 reads a bare 22:00 as a number of base 60, 1320: just these minutes."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _DAY_MINUTES:
        value = f"{value // 60}:{value % 60:02}"
    if not isinstance(value, str):
        return value
    match = _TIME.fullmatch(value.strip())
    if match is None or minutes(match[0]) > _DAY_MINUTES:
        raise ValueError("should be a time of day such as 22:00, from 00:00 to 24:00")
    return f"{int(match[1]):02}:{match[2]}"


def _known_zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("is not a time zone known here, such as Europe/Berlin or UTC") from None
    return value


Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
WallTime = Annotated[str, BeforeValidator(_wall_time, json_schema_input_type=str | int)]


class Opening(Section):
    """When the window is open in a week."""

    days: tuple[Day, ...] = Field(
        default=DAYS,
        min_length=1,
        description="Days on which it opens: mon, tue, wed, thu, fri, sat, sun. All, when left out.",
    )
    start: WallTime = Field(description="Time of day at which it opens, e.g. 22:00.")
    end: WallTime = Field(
        description="Time of day at which it closes; where it is not after the start, that of the next day. 24:00 is "
        "the end of the day."
    )

    @model_validator(mode="after")
    def _some_time(self) -> Opening:
        if self.start == self.end or self.start == "24:00":
            raise ValueError("an opening that is never open; the whole day is 00:00 to 24:00")
        return self


class Window(Section):
    """Maintenance windows. Outside them a run pauses by itself, and goes on in the next one."""

    zone: Annotated[Text, AfterValidator(_known_zone)] = Field(
        description="Time zone of the times, by its name in the IANA database, e.g. Europe/Berlin. A time that the "
        "clock leaps over in spring is the moment of the leap; one that comes twice in autumn is meant when it comes "
        "first."
    )
    open: tuple[Opening, ...] = Field(min_length=1, description="When it is open, week by week.")
    closed: tuple[date, ...] = Field(
        default=(),
        description="Dates, e.g. 2026-12-24, on which it is not open, and on which no opening begins that would go on "
        "the day after. Empty: none.",
    )
