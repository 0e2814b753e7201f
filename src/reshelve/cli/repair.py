"""`reshelve repair`: read the drifted keys of a check again, and only those."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Final

import typer

from reshelve.adopt import run_to_repair
from reshelve.cli.connection import BootstrapOption, ConfigOption, cluster_environment, spec_or_cluster
from reshelve.cli.options import (
    REPORTS,
    EnvironmentOption,
    LevelOption,
    OwnIndexersOption,
    OwnKeyReadersOption,
    ReportsOption,
)
from reshelve.cli.output import JsonOption, confirmed, say, show, show_json
from reshelve.cli.signals import stop_on_signals
from reshelve.crew import CrewOptions
from reshelve.drifted import DriftedKeys
from reshelve.errors import AbortedError, BlockedError
from reshelve.model import facts
from reshelve.repair import Repaired
from reshelve.restored import RESTORED, find_restored
from reshelve.session import Session, attach_beside
from reshelve.upkeep import Upkeep, require_keys, require_known
from reshelve.validator.verdict import Validation

_EXAMPLES: Final = 5
_DRIFT: Final = 3  # exit code, as of `reshelve validate`


def repair(
    name: Annotated[
        str,
        typer.Argument(
            metavar="RUN|SPEC", help="A run, a reindex for its newest run, or a spec's file for the index of its alias."
        ),
    ],
    environment: EnvironmentOption = None,
    check: Annotated[
        str | None, typer.Option(metavar="CHECK", help="Repair what this check found, instead of validating first.")
    ] = None,
    level: LevelOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be written.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    key_readers: OwnKeyReadersOption = 1,
    indexers: OwnIndexersOption = 1,
    reports: ReportsOption = REPORTS,
    as_json: JsonOption = False,
    bootstrap: BootstrapOption = None,
    config: ConfigOption = None,
) -> None:
    """Find the documents that drifted in a completed run's index, read exactly those again, write and check them.

    Of a spec, the index that its alias points to; where no run has built that, it is adopted.
    Exit code 0 when nothing is left, 3 when something is (with --dry-run: when there is drift)."""
    spec, cluster = spec_or_cluster(name, environment, bootstrap, config)
    run = name if spec is None else str(run_to_repair(spec, level or (), say))
    stop = threading.Event()
    stop_on_signals(stop)
    session = attach_beside(cluster, run, "repair", say)
    try:
        _take_restored(session, dry_run, yes)
        options = CrewOptions(key_readers, indexers, reports, cluster_environment(cluster))
        upkeep = Upkeep(session, options, stop, say)
        with _found(upkeep, check, level or ()) as keys:
            ahead = upkeep.ahead(keys)
            if not as_json:
                _list(keys, ahead)
            elif dry_run or not keys.counts:
                show_json({"run": str(session.context.run), **_listing(keys, ahead)})
            if dry_run:
                raise typer.Exit(_DRIFT if keys.counts else 0)
            if not keys.counts:
                return
            number, index = sum(keys.counts.values()), session.context.plan.index
            if not yes and not confirmed(f"Read {number:,} keys again and write them to {index}?"):
                raise AbortedError("nothing was written", remedy="--dry-run lists what would be")
            repaired = upkeep.repair(keys)
    finally:
        session.lease.release()
    if as_json:
        show_json(repaired.as_dict())
    else:
        show(repaired.summary())
    require_clean(repaired)


def require_clean(repaired: Repaired) -> None:
    """Raises BlockedError where keys are left."""
    if not repaired.clean:
        first = "; ".join(f"{key}: {why}" for key, _, why in repaired.reasons[:_EXAMPLES])
        raise BlockedError(
            "keys are left that are not as they should be",
            where=repaired.index,
            why=first,
            remedy=f"correct the cause, then repair again; the report lists them (repair-{repaired.check}.md)",
        )


def _take_restored(session: Session, dry_run: bool, yes: bool) -> None:
    """An index restored from a snapshot is the run's, once somebody says so."""
    restored = find_restored(session.context, session.state)
    if restored is None:
        return
    say(restored.summary())
    if dry_run:
        return
    if not yes and not confirmed("Take it for the run's index?"):
        raise AbortedError("nothing was written", remedy="--dry-run lists what would be")
    session.record(RESTORED, restored.as_dict())


@contextmanager
def _found(upkeep: Upkeep, check: str | None, levels: Collection[str]) -> Iterator[DriftedKeys]:
    """The keys of the check named, or of a new one."""
    if check is not None:
        with upkeep.drifted(check) as keys:
            require_known(keys, str(upkeep.session.context.run))
            yield keys
        return
    found: Validation = upkeep.validate(levels)
    say(f"check {found.check}: {found.summary()}")
    with upkeep.drifted(found.check) as keys:
        require_keys(keys, found, say)
        yield keys


def _list(keys: DriftedKeys, ahead: int) -> None:
    examples = keys.examples(_EXAMPLES)
    for drift, count in keys.counts.items():
        some = [one.key for one in examples if one.drift == drift]
        show(f"{drift}: {count:,} ({', '.join(some)}{', …' if count > len(some) else ''})")
    if not keys.counts:
        show("nothing has drifted")
    if ahead:
        why = "their version is ahead of the source's clock; searches miss each for about a second"
        show(f"{ahead:,} of them have to make way: {why}")


def _listing(keys: DriftedKeys, ahead: int) -> dict[str, Any]:
    examples = [facts(one) for one in keys.examples(_EXAMPLES)]
    return {"check": keys.check, "keys": keys.counts, "ahead": ahead, "examples": examples}
