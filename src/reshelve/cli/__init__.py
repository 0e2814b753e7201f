"""The command line: one file per verb, exit codes as in docs/cli.md."""

from __future__ import annotations

import sys

import typer

from reshelve.cli import local
from reshelve.cli.worker import worker
from reshelve.cli.output import show_error
from reshelve.errors import ReshelveError

app = typer.Typer(
    name="reshelve",
    help="Rebuild a search index from its source of truth while people use it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)
app.command()(worker)
app.add_typer(local.app, name="local")


def main() -> None:
    """Run the command line; a ReshelveError becomes its message and its exit code."""
    try:
        app()
    except ReshelveError as error:
        show_error(error, as_json="--json" in sys.argv or "--with-parent" in sys.argv)
        sys.exit(error.exit_code)
