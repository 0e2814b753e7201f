"""Whole documents that differ, source against index, while both go on: which of them a change under way explains.

A key is read from the source at a snapshot of version V, then from the index. What it had been changed by, up to V, is

    in `changes`    as a key task that no key reader has done: it is *pending*
    in `documents`  as a record that no indexer has done: the key is *unsettled*
    in the index

and nowhere else. What changed it after V, and is in the index already, was written to `documents` after `Places` was
taken, so it makes the key unsettled, too. A difference of any other key is there to stay, until somebody repairs it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Places:
    """By partition: what the indexers have committed of `documents`, and the key readers of `changes`.

    To be taken before the source is read (and so before the index is)."""

    indexed: Mapping[int, int]
    read: Mapping[int, int]


class Excuses(Protocol):
    """To be used in this order, for each batch of keys anew:

    1. `now`
    2. read the keys from the source at one snapshot, then from the index (in real time, not at a point in time)
    3. `excused` for those that differ
    """

    def now(self) -> Places:
        """Raises ReshelveError."""
        ...

    def excused(self, places: Places, keys: Collection[bytes], version: int) -> frozenset[bytes]:
        """Which of these keys a change under way explains; to be read again, or not judged. Of the others the
        difference is definite. `version`: of the snapshot at which the source was read.

        Costs a reading of what the indexers and key readers have before them, and waits until a watermark of
        `version` has come. Raises ReshelveError."""
        ...
