"""What a verb prints: data to stdout, messages to stderr, JSON where it was asked for."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console

from reshelve.errors import ReshelveError, SpecError
from reshelve.redaction import redact, redact_facts

JsonOption = Annotated[bool, typer.Option("--json", help="Print facts as one JSON object on stdout.")]

stdout = Console(highlight=False, soft_wrap=True)
stderr = Console(stderr=True, highlight=False, soft_wrap=True)


def say(message: str) -> None:
    """A message to the operator, on stderr. Plain text: markup in data must not be interpreted."""
    stderr.print(redact(message), markup=False)


def show(text: str) -> None:
    """Data for the operator, on stdout."""
    stdout.print(redact(text), markup=False)


def confirmed(question: str) -> bool:
    """Whether somebody said yes; no answer at all is none."""
    try:
        return typer.confirm(redact(question), err=True)
    except typer.Abort:
        return False


def show_columns(rows: Sequence[Sequence[str]]) -> None:
    """Rows in aligned columns on stdout, never wrapped: as good for `grep` as for the eye."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        show("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def show_json(facts: Mapping[str, Any]) -> None:
    """Facts as one line of JSON on stdout."""
    plain = json.loads(json.dumps(facts, ensure_ascii=False, default=str))
    sys.stdout.write(json.dumps(redact_facts(plain), ensure_ascii=False) + "\n")
    sys.stdout.flush()


def show_error(error: ReshelveError, as_json: bool = False) -> None:
    """The error in four parts on stderr; with `as_json` also as facts on stdout."""
    if as_json:
        facts: dict[str, Any] = {"error": error.as_dict()}
        if isinstance(error, SpecError):
            facts["problems"] = [
                {"place": p.place, "what": p.what, "remedy": p.remedy, "level": p.level} for p in error.problems
            ]
        show_json(facts)
    if isinstance(error, SpecError):
        for problem in error.problems:
            say(f"{problem.level}: {problem.place}: {problem.what}\n    remedy: {problem.remedy}")
        return
    say(f"error [{error.code}]: {error.what}" + (f" ({error.where})" if error.where else ""))
    if error.why:
        say(f"    why: {error.why}")
    if error.remedy:
        say(f"    remedy: {error.remedy}")
