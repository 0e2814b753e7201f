"""The command line: one file per verb, exit codes as in docs/cli.md.

A verb's module is imported when the verb is called, so that each process holds what it needs and no more:
a page worker, say, neither the validator's framework nor the local stack."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, Final, cast

import typer
from typer.core import TyperGroup

from reshelve.cli.output import show_error
from reshelve.errors import ReshelveError

# Verb → module below reshelve.cli. In it the verb is a function of the same name, or an app with verbs of its own.
VERBS: Final = {
    "demo": "demo",
    "init": "init",
    "check": "check",
    "plan": "plan",
    "approve": "approve",
    "run": "run",
    "status": "status",
    "validate": "validate",
    "repair": "repair",
    "watch": "watch",
    "pause": "pause",
    "resume": "resume",
    "throttle": "throttle",
    "abort": "abort",
    "cutover": "cutover",
    "rollback": "rollback",
    "follow": "follow",
    "retire": "retire",
    "journal": "journal",
    "report": "report",
    "runs": "status",
    "clean": "clean",
    "worker": "worker",
    "replay": "replay",
    "rejects": "rejects",
    "local": "local",
}


class _Verbs(Mapping[str, Any]):
    """The commands by name, each imported when it is looked up."""

    def __iter__(self) -> Iterator[str]:
        return iter(VERBS)

    def __len__(self) -> int:
        return len(VERBS)

    def __getitem__(self, verb: str) -> Any:
        module = import_module(f"reshelve.cli.{VERBS[verb]}")
        if hasattr(module, "app"):
            group = typer.main.get_group(module.app)
            group.name = verb
            return group
        single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        single.command(name=verb)(getattr(module, verb))
        return typer.main.get_command(single)


class _Group(TyperGroup):
    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = cast(Any, _Verbs())


app = typer.Typer(
    name="reshelve",
    help="Rebuild a search index from its source of truth while people use it.",
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)


@app.callback()
def _reshelve() -> None:
    """Rebuild a search index from its source of truth while people use it."""


def main() -> None:
    """Run the command line; a ReshelveError becomes its message and its exit code."""
    try:
        app()
    except ReshelveError as error:
        show_error(error, as_json="--json" in sys.argv or "--with-parent" in sys.argv)
        sys.exit(error.exit_code)
