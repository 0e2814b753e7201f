"""`reshelve replay`: the run's topic once more, into its index or into a new one."""

from __future__ import annotations

import json
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from reshelve.cli.connection import BootstrapOption, ConfigOption, RunArgument, cluster_of
from reshelve.cli.display import STREAM_VERSION, count, rate, span
from reshelve.cli.output import JsonOption, say, show, show_json, stderr
from reshelve.cli.signals import stop_on_signals
from reshelve.consumers.replay import Start
from reshelve.errors import SpecError, UsageError
from reshelve.replay.drive import Replay
from reshelve.replay.request import Request
from reshelve.replay.work import ReplayProgress, WorkOptions
from reshelve.session import Session, attach_beside
from reshelve.spec.definition import read_definition

_LINE_EVERY_S: Final = 10.0
_JSON_EVERY_S: Final = 1.0


def replay(
    run: RunArgument,
    from_offset: Annotated[
        list[str] | None,
        typer.Option(metavar="P:O", help="Begin partition P at offset O; leave partitions out that are not named."),
    ] = None,
    from_time: Annotated[
        str | None, typer.Option(metavar="ISO-8601", help="Begin at the first records of that time (UTC).")
    ] = None,
    from_beginning: Annotated[bool, typer.Option("--from-beginning", help="The default.")] = False,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="ALIAS|INDEX", help="Make this index; else the run's own, which an alias of it names too."
        ),
    ] = None,
    definition: Annotated[Path | None, typer.Option(help="Definition of the new index; else the plan's.")] = None,
    keys: Annotated[list[str] | None, typer.Option(metavar="KEY", help="Only this document; may be repeated.")] = None,
    keys_file: Annotated[Path | None, typer.Option(help="Only these documents, one key a line.")] = None,
    indexers: Annotated[int, typer.Option(min=1, help="Indexers (threads).")] = 1,
    documents_per_second: Annotated[
        float | None, typer.Option(min=0.001, help="Of all indexers together; else the run's limit.")
    ] = None,
    as_json: JsonOption = False,
    bootstrap: BootstrapOption = None,
    config: ConfigOption = None,
) -> None:
    """Apply a completed run's topic again, without its source. Ctrl-C stops cleanly; the same command goes on."""
    request = Request(
        start=_start(from_offset or [], from_time, from_beginning),
        to=to,
        definition=None if definition is None else _definition(definition),
        keys=_keys(keys, keys_file),
    )
    if to is None:  # else it depends on what the name stands for
        request.require()
    cluster = cluster_of(bootstrap, config)
    stop = threading.Event()
    stop_on_signals(stop)
    session = attach_beside(cluster, run, "replay", say)
    try:
        display = _display(str(session.context.run), as_json)
        try:
            options = WorkOptions(indexers, documents_per_second)
            result = Replay(
                session.context,
                session.state.index_uuid,
                request,
                options,
                session.record,
                display,
                stop,
                session.lease.poll,
            ).drive()
        finally:
            display.close()
    finally:
        session.lease.release()
    if as_json:
        show_json({"v": STREAM_VERSION, "event": "ended", "run": str(session.context.run), **result})
    else:
        _tell(session, result)


def _tell(session: Session, result: dict[str, Any]) -> None:
    plan = session.context.plan
    figures = f"{count(result['indexed'])} indexed, {count(result['superseded'])} superseded"
    show(f"Replay complete: {figures}, in {span(result['seconds'])}; index {result['index']}.")
    if result["own"]:
        say(f"its documents are not counted: the index may move on. `reshelve validate {plan.run}` compares it")
        return
    show(f"Proven: {count(result['proof']['index_documents'])} documents, the same as in the topic, by checksum.")
    point = {"actions": [{"add": {"index": result["index"], "alias": "NAME"}}]}
    say(f"next: searches reach it once an alias points to it: POST /_aliases {json.dumps(point)}")


# --- what was asked for


def _start(from_offset: list[str], from_time: str | None, from_beginning: bool) -> Start:
    """Raises UsageError."""
    if bool(from_offset) + (from_time is not None) + from_beginning > 1:
        raise UsageError("a replay begins at one place", remedy="give --from-offset, --from-time or --from-beginning")
    if from_time is not None:
        return Start(at=_milliseconds(from_time))
    offsets = dict(_place(text) for text in from_offset)
    if len(offsets) < len(from_offset):
        raise UsageError("--from-offset names a partition twice", remedy="name each partition once")
    return Start(offsets=tuple(sorted(offsets.items())))


def _place(text: str) -> tuple[int, int]:
    partition, colon, offset = text.partition(":")
    if not (colon and partition.isdecimal() and offset.isdecimal()):
        raise UsageError(f"{text!r} is no offset", remedy="write PARTITION:OFFSET, for instance 0:1200")
    return int(partition), int(offset)


def _milliseconds(text: str) -> int:
    """Since 1970 UTC; a time without a zone is one of UTC."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is no time", why=str(error), remedy="write it as in 2026-01-31T12:00:00Z") from None
    return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)


def _keys(named: list[str] | None, file: Path | None) -> frozenset[bytes] | None:
    """Raises UsageError."""
    if named is None and file is None:
        return None
    found = {key.encode() for key in named or []}
    if file is not None:
        try:
            found.update(line for line in file.read_bytes().splitlines() if line)
        except OSError as error:
            raise UsageError(f"cannot read {file}", why=str(error), remedy="name a file with one key a line") from None
    return frozenset(found)


def _definition(file: Path) -> dict[str, Any]:
    """Raises SpecError."""
    found, problems = read_definition(file, name=str(file), place="--definition")
    if problems:
        raise SpecError(problems)
    return found


# --- how it looks


def _eta(progress: ReplayProgress) -> str:
    left = progress.eta_s()
    if progress.waiting or left is None:
        return "unknown: waiting" if progress.waiting else "unknown: too early to tell"
    low, high = (span(seconds) for seconds in left)
    return low if low == high else f"{low} to {high}"


def _line(progress: ReplayProgress) -> str:
    counts = ", ".join(f"{name} {count(number)}" for name, number in sorted(progress.counts.items()))
    text = f"{progress.stage}: {count(progress.done)} of {count(progress.total)} offsets ({rate(progress.rate.minute)})"
    return f"{text}{', ' if counts else ''}{counts}, time left {_eta(progress)}" + "".join(
        f"; {why}" for why in progress.waiting
    )


class _Lines:
    """A line when something waits, and every ten seconds."""

    def __init__(self) -> None:
        self._at = time.monotonic()
        self._waiting: tuple[str, ...] = ()

    def progress(self, progress: ReplayProgress) -> None:
        now = time.monotonic()
        if now - self._at >= _LINE_EVERY_S or progress.waiting != self._waiting:
            self._at, self._waiting = now, progress.waiting
            say(_line(progress))

    def say(self, text: str) -> None:
        say(text)

    def close(self) -> None:
        pass


class _Json:
    """One JSON object a line, as those of `run --json`."""

    def __init__(self, run: str) -> None:
        self._run, self._at = run, 0.0

    def progress(self, progress: ReplayProgress) -> None:
        if time.monotonic() - self._at >= _JSON_EVERY_S:
            self._at = time.monotonic()
            show_json({"v": STREAM_VERSION, "event": "progress", "run": self._run, **progress.as_dict()})

    def say(self, text: str) -> None:
        show_json({"v": STREAM_VERSION, "event": "message", "run": self._run, "text": text})

    def close(self) -> None:
        pass


class _Panel:
    """Drawn again in place; messages scroll above it."""

    def __init__(self, run: str) -> None:
        self._run, self._since = run, time.monotonic()
        self._live = Live(console=stderr, refresh_per_second=4, transient=True)
        self._live.start()

    def progress(self, progress: ReplayProgress) -> None:
        head = Text(f"{self._run}  replay: {progress.stage}", style="bold")
        head.append(f"  since {span(time.monotonic() - self._since)}", style="dim")
        bar = Table.grid(padding=(0, 2))
        bar.add_row(
            ProgressBar(total=max(1, progress.total), completed=progress.done, width=30),
            f"{count(progress.done)} of {count(progress.total)} offsets",
            rate(progress.rate.minute),
            *(f"{name} {count(number)}" for name, number in sorted(progress.counts.items())),
        )
        left = Text(f"time left {_eta(progress)} · safe to stop: yes (Ctrl-C; the same command goes on)")
        self._live.update(Group(head, bar, left, *(Text(why, style="yellow") for why in progress.waiting)))

    def say(self, text: str) -> None:
        say(text)

    def close(self) -> None:
        self._live.stop()


def _display(run: str, as_json: bool) -> _Lines | _Json | _Panel:
    return _Json(run) if as_json else _Panel(run) if stderr.is_terminal else _Lines()
