"""The demo's servers: those that the environment names, or a local stack of its own."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

from reshelve.errors import Interrupted, ReshelveError, UsageError

Report = Callable[[str], None]
VARIABLES: Final = ("SOURCE_URL", "OPENSEARCH_URL", "KAFKA_BOOTSTRAP")


class Signals:
    """Ctrl-C, SIGTERM and a closed terminal end the demo once, as an error; what then clears up is left in peace."""

    def __init__(self, report: Report) -> None:
        self._report, self._held = report, False

    @contextmanager
    def caught(self) -> Iterator[None]:
        """While the block runs, a signal raises Interrupted in the main thread."""
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, self._on_signal) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def hold(self) -> None:
        """From now on signals only say that the end is near."""
        self._held = True

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._held:
            self._report("still clearing up; this takes a few seconds")
            return
        self._held = True
        raise Interrupted("the demo was stopped", remedy="start it again when you like: it begins anew")


def given_endpoints(environ: Mapping[str, str]) -> dict[str, str] | None:
    """The endpoints that the environment names: all three, or None. Raises UsageError when it names some."""
    given = {name: environ[name] for name in VARIABLES if environ.get(name)}
    if not given:
        return None
    missing = [name for name in VARIABLES if name not in given]
    if missing:
        raise UsageError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set",
            why=f"{' and '.join(given)} {'is' if len(given) == 1 else 'are'}",
            remedy="set all three to use servers that run, or none: the demo then starts servers of its own",
        )
    return given


@contextmanager
def own_servers(home: Path, keep: bool, signals: Signals, report: Report) -> Iterator[dict[str, str]]:
    """A fresh local stack under `home`; yields its endpoints as environment variables. It is taken down at the
    end, whatever happens; with `keep` only when the block raises."""
    try:
        from reshelve.local.stack import LocalStack
    except ImportError as error:
        raise ReshelveError(
            "cannot run servers here", why=str(error), remedy='pip install "reshelve[local]"'
        ) from error
    stack = LocalStack(home, report=lambda text: report(f"  {text}"))
    if home.exists():
        report("Removing the servers that an earlier demo kept.")
        stack.down()
    kept = False
    try:
        yield stack.up().environ()
        kept = keep
    finally:
        signals.hold()
        if not kept:
            report("Stopping the servers and removing their data.")
            stack.down()


def environment(endpoints: Mapping[str, str]) -> dict[str, str]:
    """The environment of commands that the demo runs."""
    return {**os.environ, **endpoints}
