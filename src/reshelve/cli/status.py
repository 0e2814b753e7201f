"""`reshelve status` and `reshelve runs`: what the journal says, and what to do next."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer

from reshelve.applied import oldest, seconds_behind
from reshelve.cli.connection import BootstrapOption, ConfigOption, cluster_of
from reshelve.cli.display import megabytes, span
from reshelve.cli.output import JsonOption, say, show, show_columns, show_json
from reshelve.commands import ControlState
from reshelve.control import read_control
from reshelve.errors import ReshelveError, UsageError
from reshelve.journal import read_journal
from reshelve.kafka import KafkaCluster
from reshelve.lease import Holder, read_holder
from reshelve.model import facts
from reshelve.offsets import lacking, read_offsets
from reshelve.slots import RunSlot, look_at_slots
from reshelve.state import ENDED, RunState, find_run, fold

_WATCH_S: Final = 2.0
_OFFSETS_TIMEOUT_S: Final = 5.0
_AT_WORK: Final = ("running", "following", "paused")


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
        found = status_facts(state, holder, _changes_now(cluster, state), _control_now(cluster, state))
        if as_json:
            show_json(found)
        else:
            show(_text(found))
        if not watch or found["state"] not in _AT_WORK:
            return
        time.sleep(_WATCH_S)
        if not as_json:
            show("")


def runs(as_json: JsonOption = False, bootstrap: BootstrapOption = None, config: ConfigOption = None) -> None:
    """List every run that the journal knows, and the replication slots that runs have left at their sources."""
    cluster = cluster_of(bootstrap, config)
    states = list(fold(read_journal(cluster)).values())
    holders = {lease: read_holder(cluster, lease) for lease in {_lease_of(s) for s in states}}
    found = [status_facts(state, holders[_lease_of(state)]) for state in states]
    slots, unseen = look_at_slots(states, {str(state.run): holders[_lease_of(state)] for state in states})
    if as_json:
        show_json({"runs": found, "slots": [facts(slot) for slot in slots], "unseen": unseen})
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
    _show_slots([slot for slot in slots if slot.left], unseen)


def _show_slots(left: Sequence[RunSlot], unseen: Sequence[str]) -> None:
    if left:
        rows = [("SLOT LEFT AT A SOURCE", "SERVER", "WAL HELD", "REMEDY")]
        for slot in left:
            held = "–" if slot.retained_bytes is None else f"{slot.retained_bytes / 1e6:,.1f} MB"
            rows.append((slot.slot, f"{slot.server}/{slot.database}", held, slot.remedy))
        show("")
        show_columns(rows)
    for why in unseen:
        say(why)


def _look(cluster: KafkaCluster, run: str | None) -> tuple[RunState, Holder | None]:
    states = fold(read_journal(cluster))
    if not states:
        raise UsageError("there are no runs yet", where=cluster.bootstrap, remedy="start one with `reshelve run SPEC`")
    state = find_run(states, run) if run else list(states.values())[-1]
    return state, read_holder(cluster, _lease_of(state))


def _lease_of(state: RunState) -> str:
    """The lease of who drives it: once it has completed, of who follows it."""
    return str(state.run) if state.following else state.run.reindex


def _changes_now(cluster: KafkaCluster, state: RunState) -> dict[str, Any]:
    """How far live changes are indexed, by the committed offsets as they are now; empty where they are not followed,
    or brokers don't tell."""
    plan = state.plan if "created" in state.facts and not state.cleaned else None
    if plan is None or not plan.changes.followed:
        return {}
    partitions = int(plan.spec["kafka"]["partitions"])
    try:
        now = read_offsets(cluster, state.run, partitions, followed=True, timeout=_OFFSETS_TIMEOUT_S)
    except ReshelveError as error:
        say(f"as of the last checkpoint: {error}")
        return {}
    clock = oldest(now.applied.values())
    return {
        "applied_at": None if clock is None else clock.at,
        "seconds_behind": seconds_behind(now.applied.values(), int(time.time() * 1000)),
        "change_lag": lacking(now.key_positions, now.change_ends),
    }


def _control_now(cluster: KafkaCluster, state: RunState) -> ControlState:
    """What the run was told, also when nobody drives it; nothing where that is of no interest any more, or brokers
    don't tell."""
    if state.cleaned or (state.ended and not state.following):
        return ControlState()
    try:
        return read_control(cluster, state.run, timeout=_OFFSETS_TIMEOUT_S)
    except ReshelveError as error:
        say(f"whether it is paused is not known: {error}")
        return ControlState()


def status_facts(
    state: RunState,
    holder: Holder | None,
    changes_now: Mapping[str, Any] | None = None,
    control: ControlState | None = None,
) -> dict[str, Any]:
    """The status as data: state, reason, since, next command; then how far it is. `changes_now` stands for what the
    checkpoint says of changes."""
    shown, reason, command = _judge(state, holder)
    checkpoint = state.facts.get("checkpoint", {}) | dict(changes_now or {})
    control = control or ControlState()
    since, pause = state.since, control.pause
    if pause is not None and shown in _AT_WORK:
        shown, reason, since, command = "paused", pause.text, pause.since, pause.next(str(state.run))
    elif pause is not None:
        reason = f"{reason}; {pause.text}"
    return {
        "run": str(state.run),
        "state": shown,
        "reason": reason,
        "since": since,
        "next": command,
        "paused": None if pause is None else pause.as_dict(),
        "limit": _limit(state, control),
        "stage": state.stage,
        "environment": state.environment or None,
        "owner": state.owner or None,
        "started_at": state.started_at or None,
        "ended_at": state.ended_at or None,
        "duration_seconds": state.duration_s,
        "documents": checkpoint.get("documents"),
        "changes": None if state.state in ENDED else _changes(checkpoint),
        "checkpoint": checkpoint or None,
        "checkpoint_age_seconds": _age(state.last_at),
        "driven_by": None if holder is None else {"host": holder.host, "pid": holder.pid},
        "error": state.error,
        "validation": state.facts.get("validated", {}).get("summary"),
        "queries": state.facts.get("queries", {}).get("summary"),
        "waivers": [{name: one[name] for name in ("at", "by", "why", "count")} for one in state.waivers],
        "phases": state.phase_facts(),
        "kept_until": state.kept_until.isoformat(timespec="seconds") if state.kept_until else None,
        "rolled_back": state.rolled_back,
        "cleaned": state.cleaned,
    }


def _limit(state: RunState, control: ControlState) -> dict[str, Any] | None:
    """The limit that binds now; None where none does any more, or yet."""
    limits = state.facts.get("started", {}).get("limits")
    if limits is None or (state.ended and not state.following):
        return None
    bounds = control.bounds(limits["documents_per_second"], limits["megabytes_per_second"])
    return bounds.as_dict() | {"text": bounds.text}


def _changes(checkpoint: Mapping[str, Any]) -> dict[str, Any] | None:
    """How the live changes were when last looked; None when they are not followed.

    oldest_unapplied_at  no change older than this is missing in the index; its age grows while nobody works"""
    if "seconds_behind" not in checkpoint:
        return None
    at = checkpoint["applied_at"]
    oldest = None if at is None else datetime.fromtimestamp(at / 1000, UTC)
    return {
        "seconds_behind": checkpoint["seconds_behind"],
        "oldest_unapplied_at": None if oldest is None else oldest.isoformat(timespec="seconds"),
        "oldest_unapplied_seconds": None if oldest is None else max(0.0, (datetime.now(UTC) - oldest).total_seconds()),
        "wal_retained_bytes": checkpoint["wal_retained"],
        "lag": checkpoint["change_lag"],
    }


def _judge(state: RunState, holder: Holder | None) -> tuple[str, str, str]:
    """(state, reason, next command). A run that says "running" while nobody drives it was killed."""
    run = state.run
    again = (
        f"reshelve follow {run}"
        if state.following
        else "run the same `reshelve run SPEC` again: it goes on where it stopped"
    )
    if state.cleaned:
        return state.state, "its topics and leftovers are removed", "none"
    if state.adopted and state.state in ("planned", "completed"):
        return _judge_adopted(state)
    if state.rolled_back:
        return "rolled back", "the alias points to the previous index again", f"reshelve clean {run}"
    if state.state == "running":
        if holder is None or holder.is_gone():
            return "interrupted", "the process that drove it is gone", again
        return "running", f"driven by process {holder.pid} on {holder.host}", f"reshelve status {run} --watch"
    if state.state == "following":
        if holder is None or holder.is_gone():
            return "interrupted", "the process that followed its changes is gone", f"reshelve follow {run}"
        what = f"the alias points to it; changes are followed by process {holder.pid} on {holder.host}"
        return "following", what, f"reshelve retire {run}, when nothing shall follow any more"
    if state.state == "completed":
        return "completed", "Reindex complete", f"reshelve rollback {run}, or reshelve clean {run}"
    if state.error is not None:
        return state.state, f"{state.error['what']}: {state.error['why']}", state.error["remedy"] or again
    if state.state == "aborted":
        return "aborted", str(state.facts.get("aborted", {}).get("why", "")), f"reshelve clean {run}"
    until = state.facts.get("stopped", {}).get("until")
    return state.state, f"stopped when {until}, as asked" if until else "stopped", again


def _judge_adopted(state: RunState) -> tuple[str, str, str]:
    if state.state == "completed":
        return "completed", "Index adopted: it was there before, nothing is copied", f"reshelve repair {state.run}"
    again = f"`reshelve repair` with its spec goes on, reshelve clean {state.run} removes what there is"
    return "interrupted", "the index was not adopted to the end", again


def _text(found: dict[str, Any]) -> str:
    lines = [
        f"{found['run']}: {found['state']} in stage {found['stage']}",
        f"  reason      {found['reason']}",
        f"  since       {found['since']}",
        f"  next        {found['next']}",
    ]
    if found["environment"]:
        lines.append(f"  environment {found['environment']}")
    if found["limit"]:
        lines.append(f"  limit       {found['limit']['text']}")
    lines += [f"  phase       {_phase(one)}" for one in found["phases"]]
    if found["kept_until"]:
        lines.append(f"  rollback    the previous index is kept until {found['kept_until']}")
    if found["changes"]:
        lines += _change_lines(found["changes"])
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
    if found["queries"]:
        lines.append(f"  searches    {found['queries']}")
    lines += [f"  waived      {one['count']:,} rejects by {one['by']}: {one['why']}" for one in found["waivers"]]
    if found["duration_seconds"] is not None:
        lines.append(f"  duration    {span(found['duration_seconds'])}")
    return "\n".join(lines)


def _phase(phase: Mapping[str, Any]) -> str:
    if phase["ended"]:
        return f"{phase['name']}: copied at {phase['ended']}"
    return f"{phase['name']}: " + (f"being copied since {phase['began']}" if phase["began"] else "waits")


def _change_lines(changes: Mapping[str, Any]) -> list[str]:
    seconds, age, held = changes["seconds_behind"], changes["oldest_unapplied_seconds"], changes["wal_retained_bytes"]
    return [
        f"  behind      {'not known yet' if seconds is None else f'{seconds:.1f} s'}",
        f"  oldest      {'no change is indexed yet' if age is None else f'unapplied change: at most {span(age)} old'}",
        f"  WAL held    {'not known' if held is None else megabytes(held)} by the slot",
        f"  changes     lag {changes['lag']:,} offsets",
    ]


def _age(at: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(at)).total_seconds()
