"""The command line: one file per verb, exit codes as in docs/cli.md."""

from __future__ import annotations

import sys

import typer

from reshelve.cli import local, rejects
from reshelve.cli.check import check
from reshelve.cli.clean import clean
from reshelve.cli.cutover import cutover
from reshelve.cli.demo import demo
from reshelve.cli.init import init
from reshelve.cli.output import show_error
from reshelve.cli.plan import plan
from reshelve.cli.rollback import rollback
from reshelve.cli.run import run
from reshelve.cli.status import runs, status
from reshelve.cli.validate import validate
from reshelve.cli.worker import worker
from reshelve.errors import ReshelveError

app = typer.Typer(
    name="reshelve",
    help="Rebuild a search index from its source of truth while people use it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)
for verb in (demo, init, check, plan, run, status, validate, cutover, rollback, runs, clean, worker):
    app.command()(verb)
app.add_typer(rejects.app, name="rejects")
app.add_typer(local.app, name="local")


def main() -> None:
    """Run the command line; a ReshelveError becomes its message and its exit code."""
    try:
        app()
    except ReshelveError as error:
        show_error(error, as_json="--json" in sys.argv or "--with-parent" in sys.argv)
        sys.exit(error.exit_code)
