"""`reshelve worker`: one role of a run as a process of its own."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from reshelve.cli.connection import BootstrapOption, ConfigOption, RunArgument, cluster_of
from reshelve.cli.options import MetricsHostOption, MetricsPortOption
from reshelve.cli.output import say
from reshelve.worker import default_name, work


class Role(Enum):
    """What a worker does."""

    pages = "pages"
    tailer = "tailer"
    keys = "keys"
    indexer = "indexer"
    validator = "validator"


def worker(
    role: Annotated[
        Role,
        typer.Argument(
            help="pages: source → topic. tailer: changes → keys. keys: keys → topic. indexer: topic → index."
            " validator: checks."
        ),
    ],
    run: RunArgument,
    name: Annotated[
        str | None,
        typer.Option(
            help="Unique among the run's workers of the role; the same again after a restart goes on at once."
        ),
    ] = None,
    web_port: Annotated[int | None, typer.Option(help="validator: serve results as JSON on this port.")] = None,
    metrics_port: MetricsPortOption = None,
    metrics_host: MetricsHostOption = "127.0.0.1",
    with_parent: Annotated[bool, typer.Option(hidden=True)] = False,
    bootstrap: BootstrapOption = None,
    config: ConfigOption = None,
) -> None:
    """Work in one role of a run. Start as many as you like, anywhere; Ctrl-C or SIGTERM ends one cleanly."""
    chosen = name or default_name()
    if not with_parent:
        say(f"{role.value} worker {chosen} of {run}; Ctrl-C to stop")
    work(
        role.value,
        cluster_of(bootstrap, config),
        run,
        name=chosen,
        with_parent=with_parent,
        web_port=web_port,
        metrics=None if metrics_port is None else (metrics_host, metrics_port),
    )
