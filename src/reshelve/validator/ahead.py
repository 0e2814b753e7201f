"""Documents whose version is ahead of the source's clock: what is read from the source now would be refused."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from reshelve.validator.target import Check, PointInTime

_LISTED: Final = 5
_SAY_S: Final = 10.0


@dataclass(slots=True)
class Ahead:
    """What was found above a version.

    documents  looked at; number: of those ahead
    highest    version of all; keys: the first of those ahead
    """

    above: int
    documents: int = 0
    number: int = 0
    highest: int = 0
    keys: tuple[str, ...] = ()

    def take(self, hits: Iterable[Mapping[str, Any]]) -> None:
        """Take hits (`_id`, `_version`) into account."""
        for hit in hits:
            version = hit["_version"]
            self.documents += 1
            if version > self.highest:
                self.highest = version
            if version > self.above:
                self.number += 1
                if len(self.keys) < _LISTED:
                    self.keys = (*self.keys, hit["_id"])


def find_ahead(point: PointInTime, version: int, check: Check, say: Callable[[str], None]) -> Ahead:
    """Scan ids and versions of the index. An equal version is not ahead: it is written again. Raises ReshelveError."""
    found, said = Ahead(version), time.monotonic()
    for number in range(point.slices):
        for hits in point.scan(number, check):
            found.take(hits)
            if time.monotonic() - said > _SAY_S:
                said = time.monotonic()
                say(f"looking at versions: {found.documents:,} documents so far")
    return found
