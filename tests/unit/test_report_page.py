"""The report's page and its plots."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reshelve.report.document import Document
from reshelve.report.markdown import render_markdown
from reshelve.report.page import render_page
from reshelve.report.parts import Code, Line, Lines, Plot, Section, Table, Text, span
from reshelve.report.plot import clock, in_words, plot_svg, short, stretches, time_ticks, value_ticks
from reshelve.report.progress import plots
from reshelve.samples import Sample, Samples

EVIL = "<script>alert('x')</script> \"&| `y`\n# z"
PLOT = Plot(EVIL, EVIL, (Line(EVIL, ((0.0, 1.0), (60.0, 2.0))),), ((0.0, EVIL),))
DOCUMENT = Document(
    EVIL,
    (
        Section("", [Text(EVIL), Code(EVIL, block=True)]),
        Section(EVIL, [Lines((EVIL,)), Table(EVIL, ("a", EVIL), ((EVIL, Code(EVIL)),)), Table("", (), ((EVIL, "v"),))]),
        Section("Over time", [PLOT]),
    ),
)


class _Tags(HTMLParser):
    """Every tag with its attributes, and whether each is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_holds_no_script_no_address_and_every_value_escaped() -> None:
    page = render_page(DOCUMENT)
    tags = _Tags()
    tags.feed(page)
    assert tags.open == []
    assert not {tag for tag, _ in tags.found} & {"script", "link", "img", "iframe", "object"}
    for _, attributes in tags.found:
        assert not {name for name in attributes if name.startswith("on") or name in ("src", "style")}
        assert (attributes.get("href") or "#").startswith("#")
    assert "<script" not in page and "alert(&#39;" in page
    assert not re.search(r"url\(|@import|https?:", page)
    assert "default-src 'none'" in page and "prefers-color-scheme: dark" in page and "width=device-width" in page


def test_what_is_seen_can_be_heard() -> None:
    tags = _Tags()
    tags.feed(render_page(DOCUMENT))
    assert all(attributes.get("scope") for tag, attributes in tags.found if tag == "th")
    (svg,) = [attributes for tag, attributes in tags.found if tag == "svg"]
    ids = {attributes.get("id") for _, attributes in tags.found}
    assert svg["role"] == "img" and set(str(svg["aria-labelledby"]).split()) <= ids
    assert [tag for tag, _ in tags.found if tag in ("h1", "h2", "h3")] == ["h1", "h2", "h2", "h3"]
    assert ("html", {"lang": "en"}) in tags.found


def test_in_markdown_a_value_stays_in_its_cell() -> None:
    (row,) = [line for line in render_markdown(DOCUMENT).splitlines() if line.startswith("| <script>") and "`<" in line]
    assert len(re.findall(r"(?<!\\)\|", row)) == 3


@given(st.floats(0, 1e15))
def test_ticks_are_few_and_reach_the_highest_value(highest: float) -> None:
    ticks = value_ticks(highest)
    assert 2 <= len(ticks) <= 8 and ticks[0] == 0 and ticks[-1] >= highest * (1 - 1e-6)


@given(st.floats(0.1, 1e9))
def test_times_are_few(longest: float) -> None:
    assert 1 <= len(time_ticks(longest)) <= 7


def test_figures_are_short() -> None:
    assert [short(value) for value in (0, 12, 1500, 2e6, 3e9)] == ["0", "12", "1.5k", "2M", "3G"]
    assert [clock(at) for at in (0, 65, 3661)] == ["0:00", "1:05", "1:01:01"]
    assert [span(at) for at in (None, 3.21, 75, 7300)] == ["not started", "3.2 s", "1 min 15 s", "2 h 1 min"]


def test_a_line_is_broken_where_nothing_is_known() -> None:
    line = Line("x", ((0, 1), (1, 2), (2, None), (3, 4)))
    assert list(stretches(line)) == [[(0, 1), (1, 2)], [(3, 4), (3, 4)]]
    assert plot_svg(Plot("t", "u", (line,)), "p").count("<polyline") == 2
    assert "on average" in in_words(Plot("t", "u", (line,))) and "nothing known" in in_words(Plot("t", "u", ()))


def _checkpoint(seconds: int, **values: object) -> Sample:
    at = f"2026-01-02T{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}+00:00"
    found = Sample.of(at, {"documents": seconds * 10, "indexed": seconds * 5, "lag": 3, **values})
    assert found is not None
    return found


def test_throughput_comes_from_the_counts_and_stops_where_the_run_stood_still() -> None:
    samples = Samples()
    for seconds in (0, 5, 10, 15, 3615, 3620):
        samples.add(_checkpoint(seconds, seconds_behind=2.5, limit={"documents_per_second": 100.0}))
    samples.add(_checkpoint(3625, paused={"by": "me"}, bulk={"requests": 5, "request_ms": 100}))
    found = {plot.title: plot for plot in plots(samples.as_dict(), {"copy": "2026-01-02T00:00:05+00:00"})}
    assert list(found) == ["Throughput", "Lag", "Seconds behind", "Bulk latency", "Throttle"]
    read, indexed = found["Throughput"].lines
    assert [value for _, value in read.points] == [10.0, 10.0, 10.0, None, 10.0, 10.0]
    assert indexed.points[0] == (5.0, 5.0) and found["Throughput"].marks == ((5.0, "copy"),)
    assert found["Bulk latency"].lines[0].points[-1] == (3625.0, 20.0)
    assert [value for _, value in found["Throttle"].lines[0].points][-2:] == [100.0, 0.0]
    assert list(plots(Samples().as_dict(), {})) == []


@pytest.mark.parametrize("number", [2, 300, 301, 20_000])
def test_samples_are_bounded_and_keep_the_first_and_the_newest(number: int) -> None:
    samples = Samples()
    for second in range(number):
        samples.add(_checkpoint(second))
    found = samples.all
    assert found[0].at == _checkpoint(0).at and found[-1].at == _checkpoint(number - 1).at
    assert len(found) <= 301 and [one.at for one in found] == sorted({one.at for one in found})
    assert number <= 300 or len(found) > 100
    assert Sample.of("2026-01-02T00:00:00+00:00", {}) is None
