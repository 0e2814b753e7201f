"""Workers for a run that nobody drives or follows, for as long as one thing is done with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from reshelve.children import Children
from reshelve.context import RunContext
from reshelve.lease import read_holder
from reshelve.state import RunState

_TICK_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class CrewOptions:
    """Workers on this machine, where their logs go, and what they are started with."""

    key_readers: int
    indexers: int
    reports: Path
    environ: dict[str, str]


def is_fed(context: RunContext, state: RunState) -> bool:
    """Whether a process follows the source's changes for a completed run now. Raises ReshelveError."""
    return state.following and read_holder(context.cluster, str(context.run)) is not None


@contextmanager
def crew(
    context: RunContext,
    state: RunState,
    options: CrewOptions,
    *,
    tailers: int = 0,
    validators: int = 0,
    say: Callable[[str], None],
) -> Iterator[Callable[[], None]]:
    """Key readers and indexers, unless a process follows the run and has them; the others as asked for.

    Yields what has to be called again and again while they work: it tends them, and raises the ReshelveError of one
    that can't go on. It waits a moment, so that a loop of it is no busy one."""
    run = context.run
    children = Children(str(run), options.environ, options.reports / str(run) / "logs", say)
    if tailers:
        children.start("tailer", tailers)
    if not is_fed(context, state):
        children.start("keys", options.key_readers)
        children.start("indexer", options.indexers)
    if validators:
        children.start("validator", validators)

    def tend() -> None:
        children.tend()
        time.sleep(_TICK_S)

    try:
        yield tend
    finally:
        children.stop()
