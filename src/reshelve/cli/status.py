"""`reshelve status` and `reshelve runs`: what the journal says, and what to do next."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from reshelve.cli.connection import BootstrapOption, ConfigOption, cluster_of
from reshelve.cli.display import span
from reshelve.cli.output import JsonOption, show, show_columns, show_json
from reshelve.errors import UsageError
from reshelve.journal import read_journal
from reshelve.kafka import KafkaCluster
from reshelve.lease import Holder, read_holder
from reshelve.state import RunState, find_run, fold

_WATCH_S = 2.0


def status(
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="A run, or a reindex; the newest when left out.")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Again every two seconds, until the run ends or Ctrl-C.")
    ] = False,
    as_json: JsonOption = False,
    bootstrap: BootstrapOption = None,
    config: ConfigOption = None,
) -> None:
    """Say how a run is: its state and why, since when, how far, and the next command."""
    cluster = cluster_of(bootstrap, config)
    while True:
        state, holder = _look(cluster, run)
        found = status_facts(state, holder)
        if as_json:
            show_json(found)
        else:
            show(_text(found))
        if not watch or state.ended or found["state"] != "running":
            return
        time.sleep(_WATCH_S)
        if not as_json:
            show("")


def runs(as_json: JsonOption = False, bootstrap: BootstrapOption = None, config: ConfigOption = None) -> None:
    """List every run that the journal knows."""
    cluster = cluster_of(bootstrap, config)
    states = list(fold(read_journal(cluster)).values())
    holders = {reindex: read_holder(cluster, reindex) for reindex in {s.run.reindex for s in states}}
    found = [status_facts(state, holders[state.run.reindex]) for state in states]
    if as_json:
        show_json({"runs": found})
        return
    if not found:
        show("no runs yet")
        return
    rows = [("RUN", "STATE", "STAGE", "STARTED", "DURATION", "DOCUMENTS", "OWNER")]
    for one in found:
        documents, seconds = one["documents"], one["duration_seconds"]
        rows.append(
            (
                one["run"],
                one["state"],
                one["stage"],
                (one["started_at"] or "–")[:19],
                "–" if seconds is None else span(seconds),
                "–" if documents is None else f"{documents:,}",
                one["owner"] or "–",
            )
        )
    show_columns(rows)


def _look(cluster: KafkaCluster, run: str | None) -> tuple[RunState, Holder | None]:
    states = fold(read_journal(cluster))
    if not states:
        raise UsageError("there are no runs yet", where=cluster.bootstrap, remedy="start one with `reshelve run SPEC`")
    state = find_run(states, run) if run else list(states.values())[-1]
    return state, read_holder(cluster, state.run.reindex)


def status_facts(state: RunState, holder: Holder | None) -> dict[str, Any]:
    """The status as data: state, reason, since, next command; then how far it is."""
    shown, reason, command = _judge(state, holder)
    checkpoint = state.facts.get("checkpoint", {})
    return {
        "run": str(state.run),
        "state": shown,
        "reason": reason,
        "since": state.since,
        "next": command,
        "stage": state.stage,
        "owner": state.owner or None,
        "started_at": state.started_at or None,
        "ended_at": state.ended_at or None,
        "duration_seconds": state.duration_s,
        "documents": checkpoint.get("documents"),
        "checkpoint": checkpoint or None,
        "checkpoint_age_seconds": _age(state.last_at),
        "driven_by": None if holder is None else {"host": holder.host, "pid": holder.pid},
        "error": state.error,
        "validation": state.facts.get("validated", {}).get("summary"),
        "rolled_back": state.rolled_back,
        "cleaned": state.cleaned,
    }


def _judge(state: RunState, holder: Holder | None) -> tuple[str, str, str]:
    """(state, reason, next command). A run that says "running" while nobody drives it was killed."""
    run = state.run
    again = "run the same `reshelve run SPEC` again: it goes on where it stopped"
    if state.cleaned:
        return state.state, "its topics and leftovers are removed", "none"
    if state.rolled_back:
        return "rolled back", "the alias points to the previous index again", f"reshelve clean {run}"
    if state.state == "running":
        if holder is None or holder.is_gone():
            return "interrupted", "the process that drove it is gone", again
        return "running", f"driven by process {holder.pid} on {holder.host}", f"reshelve status {run} --watch"
    if state.state == "completed":
        return "completed", "Reindex complete", f"reshelve rollback {run}, or reshelve clean {run}"
    if state.error is not None:
        return state.state, f"{state.error['what']}: {state.error['why']}", state.error["remedy"] or again
    if state.state == "aborted":
        return "aborted", str(state.facts.get("aborted", {}).get("why", "")), f"reshelve clean {run}"
    until = state.facts.get("stopped", {}).get("until")
    return state.state, f"stopped when {until}, as asked" if until else "stopped", again


def _text(found: dict[str, Any]) -> str:
    lines = [
        f"{found['run']}: {found['state']} in stage {found['stage']}",
        f"  reason      {found['reason']}",
        f"  since       {found['since']}",
        f"  next        {found['next']}",
    ]
    checkpoint = found["checkpoint"]
    if checkpoint:
        lines += [
            f"  read        {checkpoint['documents']:,} documents",
            f"  segments    {checkpoint['segments_done']} of {checkpoint['segments']} covered",
            f"  indexed     {checkpoint['indexed']:,}, lag {checkpoint['lag']:,} offsets",
            f"  rejects     {checkpoint['rejects']:,}",
            f"  checkpoint  {span(found['checkpoint_age_seconds'])} ago; safe to stop: yes",
        ]
        lines += [f"  waiting     {why}" for why in checkpoint["waiting"]]
    if found["validation"]:
        lines.append(f"  validation  {found['validation']}")
    if found["duration_seconds"] is not None:
        lines.append(f"  duration    {span(found['duration_seconds'])}")
    return "\n".join(lines)


def _age(at: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(at)).total_seconds()
