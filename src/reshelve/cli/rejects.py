"""`reshelve rejects`: the documents that could not be indexed, with the server's reason."""

from __future__ import annotations

from itertools import groupby
from typing import Annotated

import typer

from reshelve.cli.connection import BootstrapOption, ConfigOption, RunArgument, cluster_of
from reshelve.cli.output import JsonOption, show, show_json
from reshelve.consumers.rejects import read_rejects
from reshelve.journal import read_journal
from reshelve.schemas.reject import Reject
from reshelve.state import find_run, fold

app = typer.Typer(help="Documents that could not be indexed.", no_args_is_help=True)


@app.callback()
def _rejects() -> None:
    """Documents that could not be indexed."""


@app.command("list")
def list_(
    run: RunArgument,
    most: Annotated[int, typer.Option(help="Keys shown of each kind of reason.")] = 10,
    as_json: JsonOption = False,
    bootstrap: BootstrapOption = None,
    config: ConfigOption = None,
) -> None:
    """List a run's rejects, grouped by kind, each key once with its newest reason."""
    cluster = cluster_of(bootstrap, config)
    state = find_run(fold(read_journal(cluster)), run)
    newest: dict[str, Reject] = {reject.key: reject for reject in read_rejects(cluster, state.run)}
    found = sorted(newest.values(), key=lambda reject: (reject.stage, reject.kind, reject.key))
    if as_json:
        show_json({"run": str(state.run), "count": len(found), "rejects": [_facts(reject) for reject in found]})
        return
    show(f"{len(found)} rejected documents in {state.run.topic('rejects')}")
    for (stage, kind), group in groupby(found, key=lambda reject: (reject.stage, reject.kind)):
        members = list(group)
        show(f"{stage} {kind}: {len(members)}")
        for reject in members[:most]:
            show(f"  {reject.key[:80]}: {reject.reason}")
        if len(members) > most:
            show(f"  … and {len(members) - most} more (--most)")


def _facts(reject: Reject) -> dict[str, object]:
    return {
        "key": reject.key,
        "stage": reject.stage,
        "kind": reject.kind,
        "reason": reject.reason,
        "partition": reject.partition,
        "offset": reject.offset,
        "bytes": None if reject.document is None else len(reject.document),
    }
