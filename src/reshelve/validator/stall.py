"""When a Faust app stands still: it holds partitions, there is work in them, and nothing is done about it. Pure.

Seen now and then after a start with a table to recover: no error, no log, no end. So its committed offsets are
watched from outside of Faust, and an app that stands still is started again (docs/decisions/0004-faust.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

PATIENCE_S: Final = 20.0
# Without partitions there may be nothing to do for us: another validator has them. Or the group never formed.
PATIENCE_WITHOUT_PARTITIONS_S: Final = 90.0


class StallWatch:
    """Told again and again what is undone; says when it has been the same for too long."""

    def __init__(self, now: float) -> None:
        self._since = now
        self._undone: Mapping[int, int] = {}

    def stalled(self, undone: Mapping[int, int], *, busy: bool, holds: bool, now: float) -> bool:
        """Whether to start again.

        undone  committed offset of each partition in question that is not read to its end
        busy    a task is being done: however long it takes, the app is alive
        holds   partitions are assigned to this app
        """
        if busy or not undone or undone != self._undone:
            self._since, self._undone = now, dict(undone)
            return False
        return now - self._since > (PATIENCE_S if holds else PATIENCE_WITHOUT_PARTITIONS_S)
