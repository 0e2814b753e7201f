"""A command for a run, sent from anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from reshelve.cli.output import say
from reshelve.commands import Bounds, ControlState
from reshelve.control import ControlWriter, read_control
from reshelve.errors import UsageError
from reshelve.journal import read_journal
from reshelve.kafka import KafkaCluster
from reshelve.lease import read_holder
from reshelve.state import RunState, find_run, fold

_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True)
class Told:
    """What a run was told, and what stands now."""

    run: str
    kind: str
    state: ControlState
    bounds: Bounds
    driven: bool

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        pause = self.state.pause
        paused = None if pause is None else pause.as_dict()
        facts = {"run": self.run, "command": self.kind, "paused": paused, "limit": self.bounds.as_dict()}
        return facts | {"driven": self.driven}


def tell(
    cluster: KafkaCluster, name: str, kind: str, by: str, why: str, values: Mapping[str, Any] | None = None
) -> Told:
    """Send a command, and see what stands then. Raises UsageError when the run has ended, ReshelveError."""
    run = find_run(fold(read_journal(cluster)), name)
    require_controllable(cluster, run, kind)
    ControlWriter(cluster, run.run).send(kind, by, why, values)
    state = read_control(cluster, run.run, timeout=_TIMEOUT_S)
    driven = read_holder(cluster, lease_of(run)) is not None
    if not driven:
        say("no process drives the run now: its workers obey at once, and it is journaled when the run goes on")
    limits = run.facts.get("started", {}).get("limits") or run.plan.spec["limits"]
    bounds = state.bounds(limits["documents_per_second"], limits["megabytes_per_second"])
    return Told(str(run.run), kind, state, bounds, driven)


def require_controllable(cluster: KafkaCluster, run: RunState, kind: str) -> None:
    """Raises UsageError for a run that has no more work, or none yet."""
    if run.cleaned or (run.ended and not run.following):
        raise UsageError(
            f"run {run.run} can't be told to {kind}",
            why=f"it has ended: {run.state}",
            remedy="`reshelve runs` lists all",
        )
    if not cluster.topics(run.run.topic("control"), timeout=_TIMEOUT_S):
        raise UsageError(
            f"run {run.run} can't be told to {kind}",
            why="it was ended before it made its topics",
            remedy="`reshelve run` with its spec goes on with it",
        )


def lease_of(run: RunState) -> str:
    """The lease of who drives it: once it has completed, of who follows it."""
    return str(run.run) if run.following else run.run.reindex
