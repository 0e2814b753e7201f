"""The applied clock of a partition, as it travels with the committed offset of `documents`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_TEXT: Final = re.compile(r"applied (\d{1,19}) (\d{1,19})")


@dataclass(frozen=True, slots=True)
class Applied:
    """Every change visible at the clock of `version` is durably in the index, as far as one partition goes.

    at   wall time of that snapshot, milliseconds since 1970 UTC
    """

    version: int
    at: int

    def encode(self) -> str:
        """As the metadata of a committed offset: one write, so neither is ever ahead of the other."""
        return f"applied {self.version} {self.at}"

    @classmethod
    def decode(cls, metadata: str | None) -> Applied | None:
        """The inverse of `encode`; None when there is none, or when it isn't ours: whoever moves a group's offsets
        by hand leaves other metadata, and then nothing is known."""
        found = _TEXT.fullmatch(metadata or "")
        return None if found is None else cls(int(found[1]), int(found[2]))


def newest(clocks: Iterable[Applied | None]) -> Applied | None:
    """The highest of those that are known: once passed, a watermark holds for ever. While nobody writes to the source
    its versions are equal, and only time goes on."""
    return max((clock for clock in clocks if clock is not None), key=_age, default=None)


def oldest(clocks: Iterable[Applied | None]) -> Applied | None:
    """What holds for all of them; None as long as one is not known."""
    known = list(clocks)
    if not known or None in known:
        return None
    return min((clock for clock in known if clock is not None), key=_age)


def seconds_behind(clocks: Iterable[Applied | None], now_ms: int) -> float | None:
    """The age in seconds of the oldest applied clock: every change committed before it is in the index. None as long
    as a partition has none. `now_ms`: milliseconds since 1970 UTC."""
    clock = oldest(clocks)
    return None if clock is None else max(0.0, (now_ms - clock.at) / 1000)


def _age(clock: Applied) -> tuple[int, int]:
    return clock.version, clock.at
