"""The report of a run, from its journal alone: as data (JSON), as Markdown, and as one page (HTML) without anything
outside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from reshelve.plan import Plan
from reshelve.report.document import document
from reshelve.report.facts import report_facts as report_facts
from reshelve.report.markdown import render_markdown
from reshelve.report.page import render_page
from reshelve.state import RunState

FORMATS: Final = ("md", "json", "html")


def render(found: Mapping[str, Any], form: str) -> str:
    """The facts of a report in one of its formats."""
    if form == "json":
        return json.dumps(found, ensure_ascii=False, indent=2) + "\n"
    written = document(found)
    return render_page(written) if form == "html" else render_markdown(written)


def write_report(plan: Plan, state: RunState, folder: Path) -> Path:
    """Write report.md, report.json and report.html into `folder`; the first one's path."""
    folder.mkdir(parents=True, exist_ok=True)
    found = report_facts(plan, state)
    for form in FORMATS:
        file = folder / f"report.{form}"
        partial = file.with_suffix(file.suffix + ".new")
        partial.write_text(render(found, form), encoding="utf-8")
        partial.replace(file)
    return folder / "report.md"


def save_report(plan: Plan, state: RunState, folder: Path, say: Callable[[str], None]) -> None:
    """Write the report and say where it is. A disk that is full undoes nothing of the run: then that is said."""
    try:
        markdown = write_report(plan, state, folder)
    except OSError as error:
        say(f"the report can't be written to {folder}: {error.strerror}; everything in it is in the journal")
    else:
        say(f"report: {markdown}, and as a page: {markdown.with_suffix('.html').name}")
