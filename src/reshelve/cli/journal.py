"""`reshelve journal`: the record of all runs, checked, anchored elsewhere, and shown."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from reshelve.cli.connection import BootstrapOption, ConfigOption, RunArgument, cluster_of
from reshelve.cli.output import JsonOption, say, show, show_json
from reshelve.entries import entry_text
from reshelve.errors import BlockedError, UsageError
from reshelve.journal import Event, read_journal
from reshelve.journal_audit import ANCHOR_NAMESPACE, Anchor, anchor_faults, anchor_text, audit, read_records
from reshelve.kafka import KafkaCluster
from reshelve.model import approvals_of
from reshelve.signatures import Signers, sign
from reshelve.signatures import verify as verify_signature
from reshelve.state import find_run, fold

app = typer.Typer(help="The record of all runs.", no_args_is_help=True)


@app.callback()
def _journal() -> None:
    """The record of all runs."""


@app.command()
def verify(
    reindex: Annotated[str | None, typer.Option(metavar="NAME", help="Only the runs of this reindex.")] = None,
    anchor: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Heads that `journal heads` wrote, kept elsewhere since.")
    ] = None,
    allowed_signers: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keys that may sign heads: FILE.sig beside the heads has to be good."),
    ] = None,
    by: Annotated[str | None, typer.Option(metavar="NAME", help="Who signed the heads.")] = None,
    as_json: JsonOption = False,
    bootstrap: BootstrapOption = None,
    config: ConfigOption = None,
) -> None:
    """Find entries that were changed, removed or put elsewhere; with --anchor also an end that was cut off. Exit code 3
    when the journal is not what was written."""
    cluster = cluster_of(bootstrap, config)
    kept = None if anchor is None else _anchor(anchor, allowed_signers, by)
    records, first = read_records(cluster)
    found = audit(records, first, reindex=reindex)
    faults = list(found.faults)
    if kept is not None:
        faults += anchor_faults(found, kept, cluster.cluster_id(), reindex=reindex)
    if as_json:
        show_json({"runs": len(found.heads), "entries": found.entries, "faults": faults, "anchor": kept and kept.at})
    else:
        for fault in faults:
            show(fault)
        if not faults:
            since = f", and holds what it held at {kept.at}" if kept is not None else ""
            show(f"The journal is whole: {found.entries:,} entries of {len(found.heads):,} runs{since}.")
    if faults:
        raise BlockedError(
            f"the journal is not what was written: {len(faults)} fault{'s' if len(faults) != 1 else ''}",
            where=cluster.bootstrap,
            why=faults[0],
            remedy="find out who may write to topic reshelve.journal; what it says of these runs proves nothing",
        )
    if kept is None:
        say("an end that was cut off is found only by heads kept elsewhere: reshelve journal heads --output FILE")


@app.command()
def heads(
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Write them there, not to stdout.")] = None,
    key: Annotated[
        Path | None, typer.Option("--sign", metavar="KEY", help="Sign them with this SSH key, as FILE.sig.")
    ] = None,
    bootstrap: BootstrapOption = None,
    config: ConfigOption = None,
) -> None:
    """Write the number and the hash of each run's last entry, to be kept where nobody can change them."""
    if key is not None and output is None:
        raise UsageError("what is signed has to be a file", remedy="name it by --output")
    cluster = cluster_of(bootstrap, config)
    found = audit(*read_records(cluster))
    if found.faults:
        raise BlockedError(
            "the journal is not whole: its heads would prove a forgery",
            where=cluster.bootstrap,
            why=found.faults[0],
            remedy="see `reshelve journal verify`",
        )
    text = anchor_text(found, cluster.cluster_id(), datetime.now(UTC))
    if output is None:
        show(text.rstrip())
        return
    signature = None if key is None else sign(text.encode(), key, ANCHOR_NAMESPACE)
    try:
        output.write_text(text, encoding="utf-8")
        if signature is not None:
            _beside(output).write_text(signature, encoding="utf-8")
    except OSError as error:
        raise UsageError("cannot write the heads", where=str(output), why=str(error.strerror)) from error
    say(f"heads of {len(found.heads)} runs: {output}" + (f", signed: {_beside(output)}" if signature else ""))
    say(f"keep them elsewhere; later: reshelve journal verify --anchor {output}")


@app.command("show")
def show_run(
    run: RunArgument,
    approvals: Annotated[bool, typer.Option("--approvals", help="The approvals of the run's reindex instead.")] = False,
    as_json: JsonOption = False,
    bootstrap: BootstrapOption = None,
    config: ConfigOption = None,
) -> None:
    """Show every entry of a run, oldest first; with --json whole, one a line."""
    cluster = cluster_of(bootstrap, config)
    for event in _entries(cluster, run, approvals):
        if as_json:
            show_json({"run": event.run, "sequence": event.sequence, "at": event.at, "kind": event.kind,
                       "data": event.data, "previous": event.previous, "hash": event.hash})  # fmt: skip
        else:
            text = entry_text(event.kind, event.data)
            show(f"{event.sequence:>5}  {event.at}  {event.kind:<16}  {event.hash[:12]}  {text}".rstrip())


def _entries(cluster: KafkaCluster, name: str, approvals: bool) -> list[Event]:
    if not approvals:
        known = find_run(fold(read_journal(cluster)), name).run
        return list(read_journal(cluster, run=known))
    reindexes = {event.run.rpartition(".")[0] for event in read_journal(cluster)}
    reindex = name if name in reindexes else find_run(fold(read_journal(cluster)), name).run.reindex
    found = list(read_journal(cluster, run=approvals_of(reindex)))
    if not found:
        raise UsageError(f"the journal holds no approval of {reindex}", remedy="`reshelve approve` gives one")
    return found


def _anchor(file: Path, allowed: Path | None, by: str | None) -> Anchor:
    """The heads in the file; signed, where it is said by whom. Raises UsageError, BlockedError."""
    data = _read(file)
    if (allowed is None) != (by is None):
        raise UsageError(
            "--allowed-signers and --by go together", remedy="say whose signature is wanted, by which keys"
        )
    if allowed is not None and by is not None:
        signature = _read(_beside(file)).decode(errors="replace")
        found = verify_signature(data, signature, principal=by, namespace=ANCHOR_NAMESPACE, signers=Signers(allowed))
        if not found.good:
            raise BlockedError(
                "the heads are not signed by whom they should be",
                where=str(_beside(file)),
                why=found.why,
                remedy="take the file that was kept, with its signature",
            )
    return Anchor.parse(data)


def _beside(file: Path) -> Path:
    return file.with_name(f"{file.name}.sig")


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UsageError(
            f"cannot read {file}", why=str(error.strerror), remedy="name the file that was kept"
        ) from error
