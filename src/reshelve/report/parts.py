"""What a report is made of, and how its figures are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Code:
    """A name or a text as machines write it. block: on lines of its own."""

    text: str
    block: bool = False


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True, slots=True)
class Lines:
    """A list."""

    items: tuple[str, ...]


Cell: TypeAlias = str | Code


@dataclass(frozen=True, slots=True)
class Table:
    """caption: what it is of, for who can't see it; headers: of its columns, none where the first column says it."""

    caption: str
    headers: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a plot: (seconds since the first sample, value); None: not known then, and the line is broken."""

    name: str
    points: tuple[tuple[float, float | None], ...]


@dataclass(frozen=True, slots=True)
class Plot:
    """Lines over time. unit: of the values; marks: (seconds, name) of what began then."""

    title: str
    unit: str
    lines: tuple[Line, ...]
    marks: tuple[tuple[float, str], ...] = ()


Part: TypeAlias = Code | Text | Lines | Table | Plot


@dataclass(frozen=True, slots=True)
class Section:
    """title: empty for the first one; without parts it is left out."""

    title: str
    parts: Sequence[Part]


def pairs(caption: str, *rows: tuple[str, Cell | None]) -> Table:
    """A table of names and values; None: the row is left out."""
    return Table(caption, (), tuple((name, value) for name, value in rows if value is not None))


def span(seconds: float | None) -> str:
    """A duration."""
    if seconds is None:
        return "not started"
    minutes, rest = divmod(seconds, 60)
    if not minutes:
        return f"{rest:.1f} s"
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest:.0f} s"


def megabytes(size: int) -> str:
    """Bytes, in megabytes of 10^6."""
    return f"{size / 1e6:,.1f} MB"
