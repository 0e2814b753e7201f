"""A plot as SVG, to stand in a page: it takes its colours from the page, and is told in words too. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from reshelve.report.parts import Line, Plot, span

_WIDTH, _HEIGHT = 720, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 12, 22, 34
_STEPS: Final = (1, 2, 5, 10)
_TIME_STEPS: Final = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 21600, 43200, 86400)
_MOST_TICKS: Final = 6


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where values and times lie in the picture: from 0 to `longest` seconds, and from 0 to `top`."""

    longest: float
    top: float

    def x(self, at: float) -> float:
        return _LEFT + at / self.longest * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - value / self.top * (_HEIGHT - _TOP - _BOTTOM)


def plot_svg(plot: Plot, name: str) -> str:
    """`name` is unique on the page."""
    points = [point for line in plot.lines for point in line.points]
    ticks = value_ticks(max((value for _, value in points if value is not None), default=0.0))
    frame = _Frame(max((at for at, _ in points), default=0.0) or 1.0, ticks[-1])
    return "".join(
        (
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-labelledby="{name}-t {name}-d">',
            f'<title id="{name}-t">{escape(plot.title)}</title><desc id="{name}-d">{escape(in_words(plot))}</desc>',
            *_grid(frame, ticks),
            *_marks(frame, plot.marks),
            *_lines(frame, plot.lines),
            "</svg>",
        )
    )


def _grid(frame: _Frame, ticks: Iterable[float]) -> Iterator[str]:
    for tick in ticks:
        y = frame.y(tick)
        yield f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield _text(_LEFT - 6, y + 4, short(tick), "end")
    for at in time_ticks(frame.longest):
        yield _text(frame.x(at), _HEIGHT - _BOTTOM + 16, clock(at), "middle")


def _marks(frame: _Frame, marks: Sequence[tuple[float, str]]) -> Iterator[str]:
    for at, name in _apart(marks, frame.longest):
        x = frame.x(at)
        yield f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>'
        yield _text(x + 3, _TOP - 8, name, "start")


def _lines(frame: _Frame, lines: Sequence[Line]) -> Iterator[str]:
    for number, line in enumerate(lines):
        for stretch in stretches(line):
            drawn = " ".join(f"{frame.x(at):.1f},{frame.y(value):.1f}" for at, value in stretch)
            yield f'<polyline class="line l{number}" points="{drawn}"/>'


def stretches(line: Line) -> Iterator[list[tuple[float, float]]]:
    """The points between the places where the line is broken."""
    stretch: list[tuple[float, float]] = []
    for at, value in line.points:
        if value is not None:
            stretch.append((at, value))
        elif stretch:
            yield stretch
            stretch = []
    if stretch:
        yield stretch if len(stretch) > 1 else stretch * 2  # a lone point is a dot


def value_ticks(highest: float) -> list[float]:
    """From 0 in round steps to the first that is not below `highest`."""
    if not 1e-9 < highest < math.inf:
        return [0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(highest / _MOST_TICKS))
    step = next(power * one for one in (*_STEPS, 20, 50) if highest / (power * one) <= _MOST_TICKS)
    return [step * number for number in range(math.ceil(round(highest / step, 9)) + 1)]


def time_ticks(longest: float) -> list[float]:
    """Round times from 0 on."""
    step = next((one for one in _TIME_STEPS if longest / one <= _MOST_TICKS), None)
    step = step or math.ceil(longest / _MOST_TICKS / 86400) * 86400
    return [float(step * number) for number in range(int(longest // step) + 1)]


def short(value: float) -> str:
    """A number in few letters: 1500000 is 1.5M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def clock(seconds: float) -> str:
    """Time since the start, as hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def in_words(plot: Plot) -> str:
    """What the plot shows, for who can't see it."""
    said = []
    for line in plot.lines:
        values = [value for _, value in line.points if value is not None]
        if values:
            mean = sum(values) / len(values)
            said.append(
                f"{line.name}: {short(float(f'{mean:.3g}'))} {plot.unit} on average, "
                f"at most {short(float(f'{max(values):.3g}'))}, at the end {short(float(f'{values[-1]:.3g}'))}"
            )
    longest = max((at for line in plot.lines for at, _ in line.points), default=0.0)
    return f"{'; '.join(said) or 'nothing known'}; over {span(longest)}."


def _apart(marks: Sequence[tuple[float, str]], longest: float) -> Iterable[tuple[float, str]]:
    """Those whose names don't run into each other."""
    end = -math.inf
    for at, name in sorted(marks):
        place = at / longest * (_WIDTH - _LEFT - _RIGHT)
        if place >= end:
            yield at, name
            end = place + 7 * len(name) + 8


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
