"""`reshelve plan`: what a run would do, printed and saved. Changes nothing on the servers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from reshelve.cli.check import load_checked
from reshelve.cli.options import EnvironmentOption
from reshelve.cli.output import JsonOption, say, show, show_json, stdout
from reshelve.errors import UsageError
from reshelve.plan import Plan, make_plan
from reshelve.redaction import redact

_SHOWN_SEGMENTS: Final = 8


def plan(
    spec: Annotated[Path, typer.Argument(help="The spec.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Where to save the plan. [default: <reindex>.plan.json]")
    ] = None,
    environment: EnvironmentOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a run of the spec would do, and save it as a plan to approve."""
    checked = load_checked(spec, environment)
    made = make_plan(checked)
    file = out or spec.parent / f"{made.reindex}.plan.json"
    try:
        file.write_text(made.to_json() + "\n", encoding="utf-8")
    except OSError as error:
        why = str(error.strerror)
        raise UsageError("cannot save the plan", where=str(file), why=why, remedy="use --out") from error
    if as_json:
        show_json(made.as_dict())
    else:
        print_plan(made)
    chosen = f" --environment {made.environment}" if made.environment else ""
    say(f"saved to {file}; next: reshelve run {spec}{chosen}")


def print_plan(made: Plan) -> None:
    """The plan for a reader: tables on a terminal, plain columns in a pipe."""
    _table("Plan", (), _overview(made))
    _table("Segments", ("segment", "keys after", "up to"), _segments(made))
    _table("Topics", ("topic", "partitions", "settings"), _topics(made))
    _table("Changes", ("table", "how its changes are followed"), _changes(made))
    differences = [(d.field, d.change, _short(d.before), _short(d.after)) for d in made.mapping_difference]
    _table("Mapping", ("field", "change", "now", "new"), differences or [("no difference", "", "", "")])
    for note in made.notes:
        show(f"note: {note}")


def _overview(made: Plan) -> list[tuple[str, str]]:
    low, high = made.forecast.seconds_low, made.forecast.seconds_high
    return [
        ("run", made.run),
        ("environment", made.environment or "the only one"),
        ("hash", made.hash),
        ("alias", f"{made.alias}: {made.previous_index or '(new)'} -> {made.index}"),
        ("scope", made.spec["scope"]["where"] or "everything the query returns"),
        ("key", ", ".join(f"{column.name} ({column.type})" for column in made.source.key)),
        ("tables", ", ".join(f"{table.schema}.{table.name}" for table in made.source.tables) or "none"),
        ("changes", _mode(made)),
        ("documents", f"about {made.estimated_documents:,}"),
        ("bytes", f"about {made.estimated_bytes / 1e6:,.1f} MB of JSON"),
        ("copy", f"{low:,.0f} to {high:,.0f} s ({made.forecast.basis})"),
    ]


def _segments(made: Plan) -> list[tuple[str, str, str]]:
    rows = [(str(s.number), _bound(s.low, "(the first)"), _bound(s.high, "(the last)")) for s in made.segments]
    if len(rows) > _SHOWN_SEGMENTS:
        hidden = len(rows) - _SHOWN_SEGMENTS
        rows[_SHOWN_SEGMENTS // 2 : -_SHOWN_SEGMENTS // 2] = [("...", f"({hidden} more)", "")]
    return rows


def _topics(made: Plan) -> list[tuple[str, str, str]]:
    return [
        (topic.name, str(topic.partitions), " ".join(f"{k}={v}" for k, v in topic.config.items()))
        for topic in made.topics
    ]


def _mode(made: Plan) -> str:
    changes = made.changes
    match changes.mode:
        case "replication":
            owner = "made by the run" if changes.owns_publication else "given"
            return f"replication: slot {changes.slot}, publication {changes.publication} ({owner})"
        case "debezium":
            return f"debezium: the connector of slot {changes.slot}"
    return "none: not followed"


def _changes(made: Plan) -> list[tuple[str, str]]:
    if not made.changes.followed:
        return [(f"{table.schema}.{table.name}", "not followed") for table in made.source.tables]
    rows = []
    for rule in made.changes.rules:
        columns = ", ".join(rule.columns)
        how = f"{columns}: the document key" if rule.lookup is None else f"{columns}: {' '.join(rule.lookup.split())}"
        rows.append((f"{rule.schema}.{rule.table}", how))
    rows += [(table, "ignored, as asked for") for table in made.changes.ignored]
    return rows


def _bound(bound: Sequence[str] | None, open_end: str) -> str:
    return open_end if bound is None else ", ".join(bound)


def _short(definition: dict[str, Any] | None) -> str:
    return "" if definition is None else json.dumps(definition, ensure_ascii=False)


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
