"""What the target holds under a name: nothing, an alias of indexes, an index, or a data stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from opensearchpy import OpenSearch
from opensearchpy.exceptions import NotFoundError


@dataclass(frozen=True, slots=True)
class Alias:
    """What a name stands for. `indexes` are those that the alias points to; a free name has none."""

    name: str
    indexes: tuple[str, ...] = ()
    is_index: bool = False
    is_data_stream: bool = False


def read_alias(client: OpenSearch, name: str) -> Alias:
    """What `name` stands for now. Raises opensearchpy's TransportError."""
    try:
        answer = client.transport.perform_request("GET", f"/_resolve/index/{name}")
    except NotFoundError:
        return Alias(name)
    indexes = [index for found in answer["aliases"] if found["name"] == name for index in found["indices"]]
    return Alias(
        name,
        tuple(sorted(indexes)),
        is_index=any(found["name"] == name for found in answer["indices"]),
        is_data_stream=any(found["name"] == name for found in answer["data_streams"]),
    )


def obstacle(alias: Alias) -> tuple[str, str] | None:
    """(what, remedy) where the alias can't be moved to a new index; None where it can."""
    if alias.is_data_stream:
        return (
            f"{alias.name!r} is a data stream: its backing indexes can't be swapped behind it",
            "choose an alias of another name, and move the searches to it",
        )
    if alias.is_index:
        return (
            f"{alias.name!r} is an index, not an alias: it would have to be deleted to take its name",
            "choose an alias of another name and let searches use that; or copy the index into one with another "
            "name, then replace it by an alias (`remove_index` and `add` in one `_aliases` request)",
        )
    if len(alias.indexes) > 1:
        return (
            f"alias {alias.name!r} points to several indexes: {', '.join(alias.indexes)}",
            "leave it on one of them; which one would be replaced is not for Reshelve to guess",
        )
    return None


def index_uuid(client: OpenSearch, index: str) -> str:
    """The index's UUID: its identity, which a new index of the same name does not share."""
    answer: dict[str, Any] = client.indices.get_settings(index=index, name="index.uuid", flat_settings=True)
    return str(answer[index]["settings"]["index.uuid"])


def index_mapping(client: OpenSearch, index: str) -> dict[str, Any]:
    """The index's mapping as it is now, with the fields that documents have added."""
    answer: dict[str, Any] = client.indices.get_mapping(index=index)
    return dict(answer[index]["mappings"])
