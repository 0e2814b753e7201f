"""How far Debezium's topics have been read, as a position of the source's log. Pure.

1. The slot's confirmed position C is seen: the connector confirms only what Kafka has acknowledged, in the order of
   commits, so that every event of the transactions that committed up to C is in the topics.
2. Then, and not before, the topics' ends are read: those events lie before them.
3. Once every partition has been read up to its end, C is passed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import TypeAlias

Place: TypeAlias = tuple[str, int]
"""A topic and the number of its partition."""


class Passage:
    """`positions` are the offsets at which reading begins."""

    def __init__(self, positions: Mapping[Place, int]) -> None:
        self._positions = dict(positions)
        self._awaited: tuple[int, dict[Place, int]] | None = None
        self._marks: deque[tuple[int, dict[Place, int]]] = deque()
        self.passed = 0

    def wants(self, confirmed: int) -> bool:
        """Whether the ends of the topics are to be read, now that the slot is seen to be confirmed up to there."""
        return self._awaited is None and confirmed > self.passed

    def saw(self, confirmed: int, ends: Mapping[Place, int]) -> None:
        """The ends were read after the slot was seen to be confirmed up to there."""
        if self.wants(confirmed):
            self._awaited = (confirmed, {place: end for place, end in ends.items() if end > self._positions[place]})
            self._look()

    def read(self, place: Place, position: int) -> None:
        """Everything of the partition before `position` was returned, or it has nothing there."""
        self._positions[place] = max(position, self._positions[place])
        if self._awaited is not None and position >= self._awaited[1].get(place, position + 1):
            del self._awaited[1][place]
            self._look()

    def confirm(self, lsn: int) -> Mapping[Place, int] | None:
        """The positions that may be committed when everything is durable that came up to `lsn`; None: as before."""
        durable: dict[Place, int] | None = None
        while self._marks and self._marks[0][0] <= lsn:
            durable = self._marks.popleft()[1]
        return durable

    def _look(self) -> None:
        if self._awaited is not None and not self._awaited[1]:
            self.passed, self._awaited = self._awaited[0], None
            self._marks.append((self.passed, dict(self._positions)))
