"""How the rejects of a run stand now: which of them are open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from opensearchpy import OpenSearch

from reshelve.consumers.reject_ledger import RejectedKey, RejectLedger, waivers
from reshelve.consumers.rejects import read_ledger
from reshelve.consumers.superseded import find_superseded
from reshelve.kafka import KafkaCluster
from reshelve.model import RunId
from reshelve.schemas.reject import Resolution


@dataclass(frozen=True)
class RejectPicture:
    """superseded  of the keys without resolution, those of which something newer was accepted"""

    ledger: RejectLedger
    superseded: frozenset[str]

    @cached_property
    def open(self) -> tuple[RejectedKey, ...]:
        """Somebody has to do something about these."""
        return tuple(one for one in self.ledger if one.status(self.superseded) == "open")

    @cached_property
    def waived(self) -> Mapping[bytes, Resolution]:
        return self.ledger.waived()

    @property
    def redriven(self) -> int:
        """Keys that were read again and accepted."""
        return sum(one.status(self.superseded) == "redriven" for one in self.ledger)

    @property
    def waivers(self) -> str:
        """Who waived how many, and why; empty when nothing is waived."""
        return waivers(self.waived.values())


def look_at_rejects(
    cluster: KafkaCluster, run: RunId, client: OpenSearch, index: str, partitions: int
) -> RejectPicture:
    """Looks at `rejects`; where some have no resolution, at the index and `documents`, too. Raises ReshelveError."""
    ledger = read_ledger(cluster, run)
    unresolved = [one for one in ledger if one.resolution is None]
    superseded = find_superseded(cluster, run, client, index, partitions, unresolved) if unresolved else frozenset()
    return RejectPicture(ledger, superseded)
