"""`reshelve validate`: topic against index, source against index, listed by key and class."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from reshelve.children import Children, beside
from reshelve.cli.connection import BootstrapOption, ConfigOption, RunArgument, cluster_environment, cluster_of
from reshelve.cli.output import JsonOption, say, show, show_json
from reshelve.errors import BlockedError
from reshelve.progress import read_tiling
from reshelve.session import attach
from reshelve.validator.coordinator import validate as run_validation

_LISTED = 50
_TICK_S = 0.2


def validate(
    run: RunArgument,
    reports: Annotated[Path, typer.Option(help="Folder for reports and logs.")] = Path("reports"),
    as_json: JsonOption = False,
    bootstrap: BootstrapOption = None,
    config: ConfigOption = None,
) -> None:
    """Compare a run's topic and source with its index. Exit code 0 without differences, 3 with some."""
    cluster = cluster_of(bootstrap, config)
    session = attach(cluster, run, say)
    try:
        name = session.context.run
        children = Children(str(name), cluster_environment(cluster), reports / str(name) / "logs", say)
        children.start("validator", 1)

        def watch() -> None:
            children.tend()  # a validator that can't go on says why
            time.sleep(_TICK_S)

        try:
            found = beside(
                lambda: run_validation(session.context, read_tiling(session.context), report=say),
                watch,
            )
        finally:
            children.stop()
        session.record("validated", found.as_dict())
    finally:
        session.lease.release()
    if as_json:
        show_json({"run": str(name), **found.as_dict()})
    else:
        show(found.summary())
        listed = [pair for verdict in found.partitions for pair in verdict.drifted]
        for key, drift in listed[:_LISTED]:
            show(f"  {drift}: {key}")
        if len(listed) > _LISTED:
            show(f"  … and {len(listed) - _LISTED} more (--json has them)")
    if not found.clean:
        raise BlockedError(
            "the validation found differences",
            where=session.context.plan.index,
            why=found.summary(),
            remedy=f"correct the cause, then run again; `reshelve rejects list {name}` tells of rejected documents",
        )
