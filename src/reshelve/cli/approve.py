"""`reshelve approve`: a person agrees to a plan, or to the swap of what a run has validated."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reshelve.approval.decision import Decision
from reshelve.approval.ledger import keep, prepare
from reshelve.approval.payload import NAMESPACE, Action
from reshelve.cli.connection import BootstrapOption, ConfigOption, cluster_of
from reshelve.cli.options import operator
from reshelve.cli.output import JsonOption, say, show, show_json
from reshelve.context import RunContext
from reshelve.errors import UsageError
from reshelve.plan import Plan
from reshelve.signatures import sign
from reshelve.worker import load_context


def approve(
    subject: Annotated[
        str, typer.Argument(metavar="PLAN|RUN", help="A plan that `reshelve plan` has saved, or a run that has one.")
    ],
    cutover: Annotated[
        bool, typer.Option("--cutover", help="Approve the swap of what the run has validated, not the run.")
    ] = False,
    by: Annotated[
        str | None, typer.Option(metavar="NAME", help="Who approves. By default who the spec names as its owner.")
    ] = None,
    key: Annotated[
        Path | None, typer.Option("--sign", metavar="KEY", help="Sign with this SSH key, here and now.")
    ] = None,
    payload: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write what is to be signed, to be signed elsewhere; with --signature: it."),
    ] = None,
    signature: Annotated[
        Path | None, typer.Option(metavar="FILE.sig", help="Bring the signature that was made of --payload elsewhere.")
    ] = None,
    as_json: JsonOption = False,
    bootstrap: BootstrapOption = None,
    config: ConfigOption = None,
) -> None:
    """Approve a plan, or a swap: by name, or where the spec requires it by an SSH signature of owner or delegate."""
    if key is not None and (payload or signature):
        raise UsageError("--sign goes without --payload and --signature", remedy="sign here, or elsewhere")
    context = _context(subject, cutover, bootstrap, config)
    action: Action = "cutover" if cutover else "run"
    if signature is not None:
        signed = payload or signature.with_suffix("")
        found = keep(context, _read(signed), _read(signature).decode(errors="replace"), operator())
    else:
        if context.spec.approval.required == "signed" and key is None and payload is None:
            raise UsageError(
                "the approval has to be signed",
                where=context.plan.reindex,
                why="the spec says `approval.required: signed`",
                remedy="name the key by --sign, or write what is to be signed elsewhere with --payload",
            )
        if by is None and key is None and payload is None:
            raise UsageError("it is not said who approves", remedy="name yourself by --by")
        said = prepare(context, action, by or str(context.spec.owner)).encode()
        if payload is not None:
            _hand_out(payload, said, subject, cutover)
            return
        found = keep(context, said, None if key is None else sign(said, key, NAMESPACE), operator())
    _tell(context, found, as_json)


def _context(subject: str, cutover: bool, bootstrap: str | None, config: Path | None) -> RunContext:
    """Of a plan's file, or of a run that the journal knows. Raises ReshelveError."""
    file = Path(subject)
    if not file.is_file():
        return load_context(cluster_of(bootstrap, config), subject)[1]
    if cutover:
        raise UsageError(
            "a cut-over is that of a run", where=subject, remedy="name the run: `reshelve runs` lists them"
        )
    plan = Plan.from_json(_read(file))
    return RunContext(plan, plan.resolve())


def _hand_out(file: Path, payload: bytes, subject: str, cutover: bool) -> None:
    try:
        file.write_bytes(payload)
    except OSError as error:
        raise UsageError("cannot write what is to be signed", where=str(file), why=str(error.strerror)) from error
    show(payload.decode().rstrip())
    say(f"saved to {file}. To sign it, wherever the key is: ssh-keygen -Y sign -n {NAMESPACE} -f KEY {file}")
    flag = " --cutover" if cutover else ""
    say(f"then: reshelve approve {subject}{flag} --payload {file} --signature {file}.sig")


def _tell(context: RunContext, found: Decision, as_json: bool) -> None:
    said, plan = found.accepted, context.plan
    assert said is not None
    if as_json:
        show_json({"action": said.action, "by": said.approver, "key": found.key or None, "plan": plan.hash,
                   "run": said.run, "nonce": said.nonce, "expires": said.expires})  # fmt: skip
    elif said.action == "cutover":
        show(f"Approved: the swap of alias {plan.alias} to {plan.index}, {found.summary()}, until {said.expires}.")
    else:
        show(f"Approved: plan {plan.hash[:12]}… of {plan.reindex}, {found.summary()}, until {said.expires}.")
    say(f"next: reshelve cutover {said.run}" if said.action == "cutover" else "next: reshelve run with the plan's spec")


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UsageError(
            f"cannot read {file}", why=str(error.strerror), remedy="name the file that was made"
        ) from error
