"""`reshelve retire`: end the following of a run that has completed."""

from __future__ import annotations

import time
from typing import Annotated, Final

import typer

from reshelve.cli.connection import BootstrapOption, ConfigOption, RunArgument, cluster_of
from reshelve.cli.options import operator
from reshelve.cli.output import JsonOption, confirmed, say, show, show_json
from reshelve.consumers import generation
from reshelve.control import ControlWriter
from reshelve.errors import AbortedError, UsageError
from reshelve.journal import read_journal
from reshelve.kafka import KafkaCluster
from reshelve.lease import read_holder
from reshelve.live import LiveChanges
from reshelve.session import follower_session
from reshelve.state import RunState, fold
from reshelve.worker import load_context

_PATIENCE_S: Final = 90.0


def retire(
    run: RunArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Also when searches read its index; do not ask.")] = False,
    as_json: JsonOption = False,
    bootstrap: BootstrapOption = None,
    config: ConfigOption = None,
) -> None:
    """End the following of changes: the index is kept as it then is, slot and publication are dropped."""
    cluster = cluster_of(bootstrap, config)
    state, context = load_context(cluster, run)
    if not state.following:
        raise UsageError(
            f"run {state.run} is not followed", why=f"it is {state.state}", remedy=f"see `reshelve status {state.run}`"
        )
    searched = generation.alias_targets(context.opensearch, context.plan.alias).indexes
    question = f"Alias {context.plan.alias} points to its index: searches will find no more changes. Go on?"
    if context.plan.index in searched and not yes and not confirmed(question):
        raise AbortedError("the run is followed as before", remedy="retire the generation that nobody searches")
    ControlWriter(cluster, state.run).send("retire", operator(), "")
    if read_holder(cluster, str(state.run)) is None or not _ended_itself(cluster, state):
        session = follower_session(cluster, context, state, say)
        try:
            LiveChanges(context, state, session.record, say).end()
            session.record("retired", {"why": "as asked for"})
        finally:
            session.lease.release()
    if as_json:
        show_json({"run": str(state.run), "index": context.plan.index})
    else:
        show(f"Retired: {context.plan.index} gets no more changes.")
    say(f"next: reshelve clean {state.run} removes its topics")


def _ended_itself(cluster: KafkaCluster, state: RunState) -> bool:
    """Whether the process that follows the run has ended that."""
    say("waiting for the process that follows the run to end")
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        if not fold(read_journal(cluster, run=state.run))[str(state.run)].following:
            return True
        if read_holder(cluster, str(state.run)) is None:
            return not fold(read_journal(cluster, run=state.run))[str(state.run)].following
        time.sleep(0.5)
    return False
