"""`reshelve check`: every problem of a spec and of what it names, at once. Reads only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from reshelve.check import check_spec, raise_for
from reshelve.check.subject import look_up_subject
from reshelve.cli.options import EnvironmentOption
from reshelve.cli.output import JsonOption, say, show, show_json
from reshelve.errors import Problem, ReshelveError, SpecError
from reshelve.grants import all_grants
from reshelve.model import facts
from reshelve.spec import Spec, load


def check(
    spec: Annotated[Path, typer.Argument(help="The spec.")],
    environment: EnvironmentOption = None,
    print_grants: Annotated[
        bool, typer.Option("--print-grants", help="Print the least privileges that the servers must give, instead.")
    ] = False,
    role: Annotated[str | None, typer.Option(help="Who gets them. By default the user of source.postgres.url.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List every problem of a spec, its source, its target and its Kafka. Changes nothing.

    Exit code 0 without errors, 2 with errors, 3 when all of them are refusals by a server."""
    if print_grants:
        _print_grants(load(spec, environment=environment), role, as_json)
        return
    exit_code = 0
    problems: Sequence[Problem]
    try:
        problems = check_spec(load(spec, environment=environment))
        raise_for(problems)
    except SpecError as error:
        problems, exit_code = error.problems, error.exit_code
    except ReshelveError as error:
        exit_code = error.exit_code
    if as_json:
        show_json({"spec": str(spec), "problems": [facts(p) for p in problems], "ok": not exit_code})
    else:
        show("\n".join(describe(problems)))
    raise typer.Exit(exit_code)


def _print_grants(spec: Spec, role: str | None, as_json: bool) -> None:
    found = all_grants(spec, look_up_subject(spec, role))
    if as_json:
        show_json({"grants": found})
        return
    for name, text in found.items():
        show(f"# --- {name}\n{text}")


def load_checked(file: Path, environment: str | None) -> Spec:
    """The spec, when nothing stands against using it; warnings are said.

    Raises SpecError, AccessRefused, Unreachable."""
    spec = load(file, environment=environment)
    problems = check_spec(spec)
    raise_for(problems)
    for problem in problems:
        say(_line(problem))
    return spec


def _line(problem: Problem) -> str:
    return f"{problem.level}: {problem.place}: {problem.what}\n    remedy: {problem.remedy}"


def describe(problems: Sequence[Problem]) -> list[str]:
    """The problems as lines, and how many there are of which level."""
    lines = [_line(problem) for problem in problems]
    count = {level: sum(p.level == level for p in problems) for level in ("error", "warning")}
    if not count["error"] and not count["warning"]:
        return ["no problems"]
    told = [f"{n} {level}{'s' if n > 1 else ''}" for level, n in count.items() if n]
    return [*lines, ", ".join(told)]
