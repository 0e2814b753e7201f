"""`reshelve local`: real servers on this machine, without Docker."""

from __future__ import annotations

import typer

app = typer.Typer(help="Run PostgreSQL, Kafka and OpenSearch on this machine, without Docker.", no_args_is_help=True)
