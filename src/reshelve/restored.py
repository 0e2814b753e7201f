"""An index that has taken the place of the one that a run made: it was restored from a snapshot.

OpenSearch gives an index that it restores a UUID of its own, unless one of that name is there, closed. The journal
names the index by its UUID, and indexers write to no other. So somebody has to say that the restored one is the run's
now; then the journal says so too.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

from opensearchpy import OpenSearch
from opensearchpy.exceptions import TransportError

from reshelve.consumers import generation
from reshelve.consumers.opensearch import refusal
from reshelve.context import RunContext
from reshelve.errors import TargetRefused
from reshelve.state import RunState

RESTORED: Final = "restored"


@dataclass(frozen=True, slots=True)
class Restored:
    """uuid      of the index that is there; was: of the one that the journal names
    snapshot  REPOSITORY/SNAPSHOT that it was restored from; empty where the cluster does not know (any more)"""

    index: str
    uuid: str
    was: str
    snapshot: str

    def summary(self) -> str:
        """One line for people."""
        origin = f"was restored from snapshot {self.snapshot}" if self.snapshot else "is not the one that the run made"
        return f"index {self.index} {origin}: its UUID is {self.uuid}, not {self.was}"

    def as_dict(self) -> dict[str, Any]:
        """For the journal."""
        return asdict(self)


def find_restored(context: RunContext, state: RunState) -> Restored | None:
    """The index that has taken the place of the run's; None where the run's own is there.

    Raises TargetRefused when the index is gone, or is not marked as the run's by its write alias, Unreachable."""
    client, plan = context.opensearch, context.plan
    found = generation.uuid(client, plan.index)
    if found == state.index_uuid:
        return None
    if found is None:
        from_topic = f"`reshelve replay {plan.run} --to INDEX`, from the topic"
        otherwise = "`reshelve run`" if plan.adopted else from_topic
        raise TargetRefused(
            f"index {plan.index} is gone",
            where=plan.index,
            why="somebody dropped it",
            remedy=f"restore it from a snapshot with its aliases, or make one with {otherwise}",
        )
    if generation.alias_targets(client, plan.write_alias).indexes != (plan.index,):
        raise TargetRefused(
            f"index {plan.index} is not the one that the run made",
            where=plan.index,
            why=f"its UUID is {found}, not {state.index_uuid}, and alias {plan.write_alias} does not point to it",
            remedy="if it was restored from a snapshot of the run's index, give it that alias (restore it with"
            " include_aliases), then repair again; else find out whose it is",
        )
    return Restored(plan.index, found, state.index_uuid, _snapshot(client, plan.index))


def _snapshot(client: OpenSearch, index: str) -> str:
    """Of its primaries; the cluster forgets it when a node restarts."""
    try:
        shards = client.indices.recovery(index=index).get(index, {}).get("shards", ())
    except TransportError as error:
        raise refusal(error, f"cannot look at index {index}", index) from error
    origins = {
        f"{shard['source']['repository']}/{shard['source']['snapshot']}"
        for shard in shards
        if shard["primary"] and shard["type"] == "SNAPSHOT"
    }
    return ", ".join(sorted(origins))
