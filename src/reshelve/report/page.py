"""A report as one HTML page: no script, nothing from another host, light or dark as the reader has it."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from reshelve.report.document import Document
from reshelve.report.parts import Code, Lines, Part, Plot, Table, Text
from reshelve.report.plot import in_words, plot_svg


def render_page(found: Document) -> str:
    """Every value is escaped by the template; a plot escapes its own."""
    return _template().render(document=found, kind=_kind, svg=_svg, words=in_words, is_code=_is_code)


@cache
def _template() -> Template:
    loader = PackageLoader("reshelve", "report")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html.j2")


def _kind(part: Part) -> str:
    match part:
        case Text():
            return "text"
        case Lines():
            return "lines"
        case Code():
            return "code"
        case Table():
            return "table"
        case Plot():
            return "plot"


def _is_code(cell: object) -> bool:
    return isinstance(cell, Code)


def _svg(plot: Plot, name: str) -> Markup:
    return Markup(plot_svg(plot, name))  # escaped there
