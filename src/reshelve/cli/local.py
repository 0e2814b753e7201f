"""`reshelve local`: real servers on this machine, without Docker."""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reshelve.cli.output import JsonOption, say, show, show_json
from reshelve.errors import ReshelveError, UsageError

if TYPE_CHECKING:
    from reshelve.local.server import ServerStatus
    from reshelve.local.stack import LocalStack

app = typer.Typer(help="Run PostgreSQL, Kafka and OpenSearch on this machine, without Docker.", no_args_is_help=True)

HomeOption = Annotated[
    Path | None,
    typer.Option(
        help="Directory of the stack (default: ~/.local/share/reshelve/local).",
        envvar="RESHELVE_LOCAL_HOME",
        show_default=False,
    ),
]


def _stack(home: Path | None, heap: str = "1g") -> LocalStack:
    try:
        from reshelve.local.stack import LocalStack, default_home
    except ImportError as error:
        raise ReshelveError(
            "cannot run the local stack", why=str(error), remedy='pip install "reshelve[local]"'
        ) from error
    return LocalStack(home or default_home(), heap, report=say)


@app.command()
def up(
    home: HomeOption = None,
    heap: Annotated[str, typer.Option(help="Most heap of OpenSearch (-Xmx), where it is started.")] = "1g",
    as_json: JsonOption = False,
) -> None:
    """Start the servers that do not run; wait until all are healthy. Harmless when they run."""
    if not re.fullmatch(r"[1-9][0-9]*[kmgKMG]", heap):
        raise UsageError("cannot use --heap", where=heap, why="it is not a size", remedy="such as 512m or 1g")
    started = time.monotonic()
    stack = _stack(home, heap)
    stack.up()
    if as_json:
        show_json(_facts(stack.home, stack.status()))
    option = f" --home {shlex.quote(str(home))}" if home else ""
    say(f'up in {time.monotonic() - started:.1f} s; next: eval "$(reshelve local env{option})"')


@app.command()
def status(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show how each server is, with the end of the log of one that has died. Exit code 1 unless all run."""
    stack = _stack(home)
    servers = stack.status()
    if as_json:
        show_json(_facts(stack.home, servers))
    else:
        for server in servers:
            pid = f"pid {server.pid}" if server.pid else ""
            show(f"{server.name:<10} {server.state:<9} {server.address:<21} {pid:<12} {server.log}")
            if server.log_tail:
                show("    " + server.log_tail.replace("\n", "\n    "))
    if any(server.state != "running" for server in servers):
        say("not all servers run; next: reshelve local up")
        raise typer.Exit(1)


@app.command()
def env(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Print export lines for SOURCE_URL, OPENSEARCH_URL and KAFKA_BOOTSTRAP (with the password)."""
    stack = _stack(home)
    if not stack.started:
        raise ReshelveError(
            "there is no local stack",
            where=str(stack.home),
            why="it has not been started",
            remedy="reshelve local up",
        )
    variables = stack.endpoints.environ()
    # Past the redaction on purpose: whoever asks for the environment needs the password in it.
    if as_json:
        typer.echo(json.dumps(variables))
    else:
        for name, value in variables.items():
            typer.echo(f"export {name}={shlex.quote(value)}")


@app.command()
def down(
    home: HomeOption = None,
    keep_data: Annotated[bool, typer.Option("--keep-data", help="Keep data, logs and configuration.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Stop the servers and remove their data. Downloads stay in the cache."""
    stack = _stack(home)
    stack.down(keep_data)
    if as_json:
        show_json(_facts(stack.home, stack.status()))
    say("down; " + ("data kept in " if keep_data else "removed ") + str(stack.home))


def _facts(home: Path, servers: Sequence[ServerStatus]) -> dict[str, object]:
    return {"home": str(home), "servers": [asdict(server) for server in servers]}
