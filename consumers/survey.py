"""What is there before a run: the index that the alias points to now, and room for another. Nothing is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from opensearchpy import OpenSearch
from opensearchpy.exceptions import AuthorizationException, TransportError

from reshelve.consumers.alias import index_mapping, index_uuid, obstacle, read_alias
from reshelve.consumers.capacity import DiskRoom, IndexSize, disk_room
from reshelve.consumers.opensearch import connect, refusal
from reshelve.errors import TargetRefused
from reshelve.spec import Spec


@dataclass(frozen=True, slots=True)
class Survey:
    """index, uuid, mapping, size  of the index that the alias points to; None and empty when there is none
    size, room                     None, too, where the role may not ask"""

    index: str | None = None
    uuid: str | None = None
    mapping: dict[str, Any] = field(default_factory=dict)
    size: IndexSize | None = None
    room: DiskRoom | None = None


def survey_target(spec: Spec) -> Survey:
    """Look at the target. Raises TargetRefused, Unreachable."""
    target = spec.target.opensearch
    client = connect(target, timeout=30)
    try:
        alias = read_alias(client, target.alias)
        if found := obstacle(alias):
            raise TargetRefused(found[0], where=spec.place("target.opensearch.alias"), remedy=found[1])
        room = _allowed_room(client)
        if not alias.indexes:
            return Survey(room=room)
        (index,) = alias.indexes
        return Survey(index, index_uuid(client, index), index_mapping(client, index), _size(client, index), room)
    except TransportError as error:
        raise refusal(error, f"cannot read alias {target.alias}", target.alias) from None
    finally:
        client.close()


def look_at_disks(client: OpenSearch) -> DiskRoom:
    """Of the data nodes. Raises opensearchpy's TransportError."""
    settings = client.cluster.get_settings(include_defaults=True, flat_settings=True)
    return disk_room(settings, client.nodes.stats(metric="fs")["nodes"])


def _allowed_room(client: OpenSearch) -> DiskRoom | None:
    try:
        return look_at_disks(client)
    except AuthorizationException:
        return None


def _size(client: OpenSearch, index: str) -> IndexSize | None:
    try:
        answer: dict[str, Any] = client.indices.stats(index=index, metric="docs,store")
    except AuthorizationException:
        return None
    primaries = answer["_all"]["primaries"]
    return IndexSize(primaries["docs"]["count"], primaries["store"]["size_in_bytes"])
