"""Until key tasks are durably indexed: past the key readers, then past the indexers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from reshelve.kafka import KafkaCluster
from reshelve.model import RunId
from reshelve.offsets import read_offsets

_TIMEOUT_S: Final = 30.0


class Passage:
    """The way of the key tasks that stand before `change_ends` (offset of `changes` by partition)."""

    def __init__(self, cluster: KafkaCluster, run: RunId, change_ends: Mapping[int, int]) -> None:
        self._cluster, self._run, self._change_ends = cluster, run, change_ends
        self._document_ends: Mapping[int, int] | None = None

    def done(self) -> bool:
        """Whether they are indexed; to be asked again and again. Raises ReshelveError."""
        now = read_offsets(self._cluster, self._run, len(self._change_ends), followed=True, timeout=_TIMEOUT_S)
        if self._document_ends is None:
            if _reached(now.key_positions, self._change_ends):
                # Only now: what the key readers wrote for them stands before these.
                topic = self._run.topic("documents")
                self._document_ends = self._cluster.written_ends(topic, len(self._change_ends))
            return False
        return _reached(now.committed, self._document_ends)

    @property
    def stage(self) -> str:
        """Who has them now, for people."""
        return "key readers" if self._document_ends is None else "indexers"


def _reached(positions: Mapping[int, int], ends: Mapping[int, int]) -> bool:
    return all(positions.get(partition, 0) >= end for partition, end in ends.items())
