"""An index that somebody else has filled: what it is like, and whether it can be kept after a source from now on.

Nothing is written here but the private alias, through which alone documents are written (`require_alias`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from opensearchpy import OpenSearch
from opensearchpy.exceptions import NotFoundError, TransportError

from reshelve.consumers.alias import Alias, index_uuid, obstacle, read_alias
from reshelve.consumers.opensearch import reason, refusal
from reshelve.errors import TargetRefused

_TRUE: Final = ("true", True)
_BLOCKS: Final = ("index.blocks.read_only", "index.blocks.write", "index.blocks.metadata")
_PIPELINES: Final = {
    "index.default_pipeline": "an ingest pipeline would alter what is written",
    "index.final_pipeline": "an ingest pipeline would alter what is written",
    "index.search.default_pipeline": "a search pipeline may alter what is read",
}
_DERIVED: Final = "index.derived_source.enabled"


@dataclass(frozen=True, slots=True)
class FoundIndex:
    """An index as it is now.

    options      of the alias by which searches reach it: filter, routings
    settings     by their full dotted names
    data_stream  that it belongs to; empty: to none
    routed       documents that were written with a routing of their own
    private      what the name of its private alias stands for now
    """

    name: str
    uuid: str
    alias: str
    options: Mapping[str, Any]
    mapping: Mapping[str, Any]
    settings: Mapping[str, Any]
    data_stream: str
    routed: int
    private: Alias


def private_alias(index: str) -> str:
    """Named after the index, as that of a generation: whoever drops the index knows it for ours."""
    return f"{index}.write"


def index_behind(client: OpenSearch, alias: str) -> str | None:
    """The one index that searches of the alias read; None: there is no such alias.

    Raises TargetRefused where the name stands for anything else, Unreachable."""
    try:
        found = read_alias(client, alias)
    except TransportError as error:
        raise refusal(error, f"cannot look at alias {alias}", alias) from error
    if problem := obstacle(found):
        why = "an index is repaired through an alias of that index alone"
        raise TargetRefused(problem[0], where=alias, why=why, remedy=problem[1])
    return found.indexes[0] if found.indexes else None


def look_at_index(client: OpenSearch, index: str, alias: str) -> FoundIndex:
    """Raises ReshelveError."""
    try:
        found = client.indices.get(index=index, params={"flat_settings": "true"})[index]
        routed = client.count(index=index, body={"query": {"exists": {"field": "_routing"}}})["count"]
        return FoundIndex(
            name=index,
            uuid=str(found["settings"]["index.uuid"]),
            alias=alias,
            options=found["aliases"].get(alias, {}),
            mapping=found["mappings"],
            settings=found["settings"],
            data_stream=str(found.get("data_stream", "")),
            routed=int(routed),
            private=read_alias(client, private_alias(index)),
        )
    except TransportError as error:
        raise refusal(error, f"cannot look at index {index}", index) from error


def reasons_against(found: FoundIndex) -> list[str]:
    """Why the index can't be kept after a source; empty when it can. Pure."""
    against: list[str] = []
    if found.data_stream:
        against.append(f"it belongs to data stream {found.data_stream}, which takes no document a second time")
    if "filter" in found.options:
        against.append(
            f"alias {found.alias} has a filter: what it hides would be taken for documents in excess, and be deleted"
        )
    if any(name.endswith("routing") for name in found.options):
        against.append(f"alias {found.alias} has a routing: documents are written without one")
    if found.mapping.get("_routing", {}).get("required") in _TRUE:
        against.append("its mapping requires a routing: documents are written without one")
    if found.routed:
        against.append(f"{found.routed:,} documents have a routing of their own: their key alone does not reach them")
    against += _incomparable(found)
    against += [f"{name} is set: nothing can be written" for name in _BLOCKS if found.settings.get(name) in _TRUE]
    if found.private.is_index or found.private.is_data_stream or set(found.private.indexes) - {found.name}:
        against.append(f"the name {found.private.name}, for its private alias, stands for something else")
    return against


def _incomparable(found: FoundIndex) -> list[str]:
    """Why its documents, as it gives them back, say nothing about what was written."""
    why: list[str] = []
    source = found.mapping.get("_source", {})
    if source.get("enabled", True) in ("false", False):
        why.append("its mapping keeps no _source: documents can't be compared")
    elif source.get("includes") or source.get("excludes"):
        why.append("its mapping keeps a part of _source only: whole documents can't be compared")
    if found.settings.get(_DERIVED) in _TRUE:
        why.append(f"{_DERIVED} is set: documents come back in another form than they were written in")
    why += [
        f"{name} is set: {text}" for name, text in _PIPELINES.items() if found.settings.get(name, "_none") != "_none"
    ]
    return why


def put_private_alias(client: OpenSearch, index: str, alias: str, uuid: str) -> None:
    """Give the index its private alias, where it has not got it. Raises TargetRefused when it is another index of the
    same name, or the alias points elsewhere; Unreachable."""
    try:
        if (found := index_uuid(client, index)) != uuid:
            raise TargetRefused(
                f"index {index} is not the one that was adopted",
                where=index,
                why=f"its UUID is {found}, not {uuid}",
                remedy="`reshelve repair` with the spec adopts the one that the alias points to now",
            )
        known = read_alias(client, alias)
        if known.indexes == (index,):
            return
        if known.indexes or known.is_index or known.is_data_stream:
            raise TargetRefused(
                f"index {index} can't have its private alias",
                where=alias,
                why=f"it points to {', '.join(known.indexes)}" if known.indexes else "something else has this name",
                remedy="remove that alias or index, if it is of no use any more, then repair again",
            )
        client.indices.update_aliases(
            body={"actions": [{"add": {"index": index, "alias": alias, "is_write_index": True}}]}
        )
    except NotFoundError as error:
        raise TargetRefused(
            f"index {index} is gone",
            where=index,
            why=reason(error),
            remedy="`reshelve repair` with the spec adopts the one that the alias points to now",
        ) from error
    except TransportError as error:
        raise refusal(error, f"cannot add alias {alias}", index) from error


def take_private_alias(client: OpenSearch, index: str, alias: str, uuid: str) -> None:
    """Take it from the index again, which stays. One that is gone, or another of the same name, is no error.

    Raises ReshelveError."""
    try:
        if index_uuid(client, index) == uuid and read_alias(client, alias).indexes == (index,):
            client.indices.update_aliases(body={"actions": [{"remove": {"index": index, "alias": alias}}]})
    except (NotFoundError, KeyError):
        return
    except TransportError as error:
        raise refusal(error, f"cannot remove alias {alias}", index) from error
