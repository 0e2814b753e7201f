"""`reshelve rejects`: the documents that could not be indexed, with the server's reason, and what to do about them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from reshelve.cli.connection import BootstrapOption, ConfigOption, RunArgument, cluster_environment, cluster_of
from reshelve.cli.options import REPORTS, IndexersOption, KeyReadersOption, ReportsOption
from reshelve.cli.output import JsonOption, say, show, show_json
from reshelve.consumers.reject_ledger import RejectedKey, RejectGroup, group, group_name
from reshelve.consumers.reject_picture import RejectPicture
from reshelve.consumers.rejects import read_rejects
from reshelve.context import RunContext
from reshelve.crew import CrewOptions
from reshelve.errors import BlockedError, UsageError
from reshelve.kafka import KafkaCluster
from reshelve.rejects import Selection, attach_for_rejects, picture_of, redrive, waive
from reshelve.schemas.reject import Reject
from reshelve.worker import load_context

app = typer.Typer(help="Documents that could not be indexed.", no_args_is_help=True)

KeysOption = Annotated[
    list[str] | None, typer.Option("--keys", metavar="KEY", help="A rejected key; may be given several times.")
]
ReasonOption = Annotated[
    list[str] | None,
    typer.Option("--reason", metavar="GROUP", help="The open rejects of a group, as `rejects list` names it."),
]


@app.callback()
def _rejects() -> None:
    """Documents that could not be indexed."""


@app.command("list")
def list_(
    run: RunArgument,
    most: Annotated[int, typer.Option(help="Keys shown of each group.")] = 5,
    every: Annotated[bool, typer.Option("--all", help="Also those that are waived, redriven or superseded.")] = False,
    as_json: JsonOption = False,
    bootstrap: BootstrapOption = None,
    config: ConfigOption = None,
) -> None:
    """List a run's rejects, grouped by reason."""
    context = _context(cluster_of(bootstrap, config), run)
    picture = picture_of(context)
    wanted = list(picture.ledger) if every else list(picture.open)
    groups = group(wanted, picture.superseded)
    if as_json:
        show_json(_listed(context, picture, wanted, groups))
        return
    show(_headline(context, picture))
    for one in groups:
        _show_group(one, most, picture)
    if groups and not every and picture.open:
        say(f"next: correct a cause, then reshelve rejects redrive {context.run} --reason {groups[0].name}")


@app.command("show")
def show_(
    run: RunArgument,
    key: Annotated[str, typer.Argument(metavar="KEY", help="A rejected key.")],
    as_json: JsonOption = False,
    bootstrap: BootstrapOption = None,
    config: ConfigOption = None,
) -> None:
    """Show a reject with its reason in full and the document as it was refused, personal data and all."""
    context = _context(cluster_of(bootstrap, config), run)
    history = [(record, at) for record, at, _ in read_rejects(context.cluster, context.run) if record.key == key]
    known = picture_of(context)
    one = known.ledger.get(key)
    if one is None:
        raise UsageError(
            f"key {key!r} was not rejected by run {context.run}",
            remedy=f"`reshelve rejects list {context.run} --all` lists the keys",
        )
    newest = _newest(record for record, _ in history if isinstance(record, Reject))
    facts = _facts(one, known) | {
        "document": None if newest.document is None else newest.document.decode(errors="replace"),
        "resolution": None if one.resolution is None else {"by": one.resolution.by, "why": one.resolution.why},
        "history": [
            {
                "at": _time(at),
                "what": "rejected" if isinstance(record, Reject) else record.how,
                "version": record.version,
                "reason": record.reason if isinstance(record, Reject) else record.why,
            }
            for record, at in history
        ],
    }
    if as_json:
        show_json(facts)
    else:
        _show_one(facts)


@app.command("redrive")
def redrive_(
    run: RunArgument,
    keys: KeysOption = None,
    reasons: ReasonOption = None,
    key_readers: KeyReadersOption = 1,
    indexers: IndexersOption = 1,
    reports: ReportsOption = REPORTS,
    as_json: JsonOption = False,
    bootstrap: BootstrapOption = None,
    config: ConfigOption = None,
) -> None:
    """Read rejected documents again from the source and index them, after their cause was corrected: by default all
    that are open. Exit code 3 when some are rejected again."""
    cluster = cluster_of(bootstrap, config)
    session = attach_for_rejects(cluster, run, say)
    try:
        options = CrewOptions(key_readers, indexers, reports, cluster_environment(cluster))
        found = redrive(session, Selection(tuple(keys or ()), tuple(reasons or ())), options, _say)
    finally:
        session.lease.release()
    name = session.context.run
    if as_json:
        show_json({"run": str(name), **found.as_dict()})
    else:
        show(f"{len(found.accepted):,} accepted, {len(found.again):,} rejected again")
    if found.again:
        first = found.again[0]
        raise BlockedError(
            f"{len(found.again):,} documents were rejected again",
            where=name.topic("rejects"),
            why=f"{first.key[:80]}: {first.reason}",
            remedy=f"`reshelve rejects list {name}` lists them with the new reason",
        )
    if "completed" not in session.state.facts:
        say("next: run the same `reshelve run SPEC` again: it goes on where it stopped")


@app.command("waive")
def waive_(
    run: RunArgument,
    by: Annotated[str, typer.Option("--by", metavar="NAME", help="Who answers for it.")],
    why: Annotated[str, typer.Option("--why", metavar="TEXT", help="Why these may be missing.")],
    keys: KeysOption = None,
    reasons: ReasonOption = None,
    every: Annotated[bool, typer.Option("--all", help="All that are open.")] = False,
    as_json: JsonOption = False,
    bootstrap: BootstrapOption = None,
    config: ConfigOption = None,
) -> None:
    """Let a run complete without some documents. Name and reason go into journal, status, gates and report."""
    if sum((bool(keys), bool(reasons), every)) != 1:
        raise UsageError("it is not said which rejects are waived", remedy="give one of --keys, --reason and --all")
    session = attach_for_rejects(cluster_of(bootstrap, config), run, say)
    try:
        number = waive(session, Selection(tuple(keys or ()), tuple(reasons or ())), by, why, _say)
    finally:
        session.lease.release()
    if as_json:
        show_json({"run": str(session.context.run), "waived": number, "by": by, "why": why})
    else:
        show(f"{number:,} waived by {by}: {why}")
    if "completed" not in session.state.facts:
        say("next: run the same `reshelve run SPEC` again: it goes on where it stopped")


def _context(cluster: KafkaCluster, run: str) -> RunContext:
    state, context = load_context(cluster, run)
    if "created" not in state.facts or state.cleaned:
        raise UsageError(
            f"run {state.run} has no topic of rejects",
            why="its topics are gone" if state.cleaned else "it has not made its topics yet",
            remedy="`reshelve runs` lists the runs",
        )
    return context


def _say(text: str) -> None:
    if text:
        say(text)


def _newest(rejects: Any) -> Reject:
    """Of the highest version, the newest: the one that the ledger tells of."""
    newest: Reject | None = None
    for one in rejects:
        if newest is None or (one.version or 0) >= (newest.version or 0):
            newest = one
    assert newest is not None
    return newest


def _headline(context: RunContext, picture: RejectPicture) -> str:
    text = f"{len(picture.open):,} rejected documents in {context.run.topic('rejects')}"
    others = [
        f"{len(picture.superseded):,} superseded by a later change" if picture.superseded else "",
        f"{picture.redriven:,} redriven" if picture.redriven else "",
        picture.waivers,
    ]
    return "; ".join(filter(None, (text, *others)))


def _show_group(one: RejectGroup, most: int, picture: RejectPicture) -> None:
    statuses = ", ".join(f"{number:,} {status}" for status, number in one.statuses.items())
    show(f"{one.name}  {one.stage} {one.kind}: {statuses}; {_time(one.first)} to {_time(one.last)}")
    show(f"  {one.reason}")
    for key in one.keys[:most]:
        known = picture.ledger.get(key)
        assert known is not None
        show(f"    {key[:80]}: {known.reject.reason}")
    if len(one.keys) > most:
        show(f"    … and {len(one.keys) - most:,} more (--most, --json)")


def _listed(
    context: RunContext, picture: RejectPicture, wanted: list[RejectedKey], groups: list[RejectGroup]
) -> dict[str, Any]:
    return {
        "run": str(context.run),
        "count": len(picture.open),
        "superseded": len(picture.superseded),
        "redriven": picture.redriven,
        "waived": len(picture.waived),
        "groups": [
            {
                "name": one.name,
                "stage": one.stage,
                "kind": one.kind,
                "reason": one.reason,
                "count": len(one.keys),
                "statuses": dict(one.statuses),
                "first": _time(one.first),
                "last": _time(one.last),
            }
            for one in groups
        ],
        "rejects": [_facts(one, picture) for one in sorted(wanted, key=lambda one: one.key)],
    }


def _facts(one: RejectedKey, picture: RejectPicture) -> dict[str, Any]:
    reject = one.reject
    return {
        "key": reject.key,
        "status": one.status(picture.superseded),
        "group": group_name(reject),
        "stage": reject.stage,
        "kind": reject.kind,
        "reason": reject.reason,
        "version": reject.version,
        "topic": reject.topic or None,
        "partition": reject.partition,
        "offset": reject.offset,
        "bytes": one.size,
    }


def _show_one(facts: dict[str, Any]) -> None:
    place = f"{facts['topic']}/{facts['partition']} at offset {facts['offset']}" if facts["topic"] else "the source"
    show(f"{facts['key']}: {facts['status']}, group {facts['group']}")
    show(f"  {facts['stage']} {facts['kind']}: {facts['reason']}")
    show(f"  from {place}, version {facts['version']}")
    if facts["resolution"] and facts["resolution"]["by"]:
        show(f"  waived by {facts['resolution']['by']}: {facts['resolution']['why']}")
    for entry in facts["history"]:
        show(f"  {entry['at']} {entry['what']}, version {entry['version']}: {entry['reason']}")
    if facts["document"] is None:
        show("the document is not kept: it was too large to carry")
        return
    try:
        show(json.dumps(json.loads(facts["document"]), ensure_ascii=False, indent=2))
    except ValueError:
        show(facts["document"])


def _time(at: int) -> str:
    return datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="seconds")
