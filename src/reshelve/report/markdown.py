"""A report as Markdown. Values are data: what would be markup in a table is escaped."""

from __future__ import annotations

from collections.abc import Iterator

from reshelve.report.document import Document
from reshelve.report.parts import Cell, Code, Lines, Part, Plot, Table, Text


def render_markdown(found: Document) -> str:
    """Plots are left out: they are on the page, and their figures in the data."""
    lines = [f"# {found.title}", ""]
    for section in found.sections:
        written = [line for part in section.parts for line in _part(part)]
        if written:
            lines += [f"## {section.title}", ""] if section.title else []
            lines += written
    return "\n".join(lines)


def _part(part: Part) -> Iterator[str]:
    match part:
        case Text():
            yield from (part.text, "")
        case Lines():
            yield from (*(f"- {' '.join(item.split())}" for item in part.items), "")
        case Code():
            yield from ("```", part.text, "```", "")
        case Table():
            yield from _table(part)
        case Plot():
            pass


def _table(table: Table) -> Iterator[str]:
    columns = len(table.headers) or (len(table.rows[0]) if table.rows else 2)
    yield _row(table.headers or ("",) * columns)
    yield "|" + "---|" * columns
    yield from map(_row, table.rows)
    yield ""


def _row(cells: tuple[Cell, ...]) -> str:
    return "| " + " | ".join(map(_cell, cells)) + " |"


def _cell(cell: Cell) -> str:
    text = " ".join((cell.text if isinstance(cell, Code) else cell).split()).replace("|", "\\|")
    return f"`{text}`" if isinstance(cell, Code) and text else text
