"""`reshelve plan`: what a run would do, printed and saved. Changes nothing on the servers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from reshelve.cli.check import load_checked
from reshelve.cli.options import EnvironmentOption
from reshelve.cli.output import JsonOption, say, show, show_json, stdout
from reshelve.cli.plan_text import notes, tables
from reshelve.errors import UsageError
from reshelve.history import last_measured
from reshelve.journal import read_journal
from reshelve.kafka import KafkaCluster
from reshelve.model import facts
from reshelve.plan import Plan, make_plan
from reshelve.plan_difference import plan_differences
from reshelve.redaction import redact
from reshelve.state import fold


def plan(
    spec: Annotated[Path, typer.Argument(help="The spec.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Where to save the plan. [default: <reindex>.plan.json]")
    ] = None,
    diff: Annotated[
        Path | None,
        typer.Option("--diff", metavar="PLAN", help="Show what differs from that plan, and save none without --out."),
    ] = None,
    environment: EnvironmentOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a run of the spec would do, and save it as a plan to approve."""
    before = _read_plan(diff) if diff else None
    checked = load_checked(spec, environment)
    cluster = KafkaCluster(checked.kafka.bootstrap, checked.kafka.config)
    made = make_plan(checked, last_measured(fold(read_journal(cluster, reindex=checked.reindex)).values()))
    if before is not None:
        _show_differences(before, made, as_json)
        if out is None:
            return
    file = out or spec.parent / f"{made.reindex}.plan.json"
    _save(made, file)
    if before is None and as_json:
        show_json(made.as_dict())
    elif before is None:
        print_plan(made)
    chosen = f" --environment {made.environment}" if made.environment else ""
    say(f"saved to {file}; next: reshelve run {spec}{chosen}")


def print_plan(made: Plan) -> None:
    """The plan for a reader: tables on a terminal, plain columns in a pipe."""
    for title, columns, rows in tables(made):
        _table(title, columns, rows)
    for note in notes(made):
        show(f"note: {note}")


def _show_differences(before: Plan, made: Plan, as_json: bool) -> None:
    found = plan_differences(before, made)
    if as_json:
        show_json({"before": before.hash, "after": made.hash, "differences": [facts(one) for one in found]})
    elif found:
        _table("Differences", ("field", "before", "now"), [(one.field, one.before, one.after) for one in found])
    else:
        show(f"no difference: {made.hash}")


def _read_plan(file: Path) -> Plan:
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError("cannot read the plan", where=str(file), why=str(error.strerror)) from error
    return Plan.from_json(text)


def _save(made: Plan, file: Path) -> None:
    try:
        file.write_text(made.to_json() + "\n", encoding="utf-8")
    except OSError as error:
        why = str(error.strerror)
        raise UsageError("cannot save the plan", where=str(file), why=why, remedy="use --out") from error


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    cells = [[redact(cell) for cell in row] for row in rows]
    if not stdout.is_terminal:
        _plain_table(title, [list(columns), *cells] if columns else cells)
        return
    table = Table(title=title, title_justify="left", box=box.SIMPLE, show_header=bool(columns))
    for column in columns or ("", ""):
        table.add_column(column, overflow="fold")
    for row in cells:
        table.add_row(*map(escape, row))
    stdout.print(table, soft_wrap=False)


def _plain_table(title: str, rows: Sequence[Sequence[str]]) -> None:
    """Columns in a pipe, which has no edge to wrap at."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    show(title)
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        show(("  " + "  ".join(cells)).rstrip())
