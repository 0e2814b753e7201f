"""Makes way for documents whose version is behind one that somebody else has written.

Documents are written at the clock of their snapshot, and the index keeps the highest version. A plain write by another
client makes the version that was there one higher, one with a version of its own may be ahead by any number, and a
plain delete leaves a version that the index remembers for `index.gc_deletes`. What is ahead of the clock refuses the
right document until the clock has passed it.

So: delete exactly what was seen (`if_seq_no`, `if_primary_term`: a document that changed meanwhile is not touched),
then have the index forget its deletes. Tried on OpenSearch 3.8: with `index.gc_deletes` at 0 a refresh forgets them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

import orjson
from opensearchpy import OpenSearch
from opensearchpy.exceptions import TransportError

from reshelve.consumers.generation import BUILDING, flat_settings
from reshelve.consumers.opensearch import refusal
from reshelve.model import MAX_ID_BYTES

_GC: Final = "index.gc_deletes"
_NOTHING: Final = "0s"
# A delete is older than nothing only on the next tick of the node's cached clock (thread_pool.estimated_time_interval).
_TICK_S: Final = 0.5
_BATCH: Final = 500
_HEADERS: Final = {"content-type": "application/x-ndjson"}


def remove_exactly(client: OpenSearch, index: str, write_alias: str, seen: Mapping[str, int]) -> set[str]:
    """Delete documents that still have the version at which they were seen, by key; the keys of those deleted.

    One that was written meanwhile, before or after it is looked at, stays. Raises ReshelveError."""
    removed: set[str] = set()
    keys = [key for key in seen if 0 < len(key.encode()) <= MAX_ID_BYTES]
    try:
        for start in range(0, len(keys), _BATCH):
            removed |= _remove(client, index, write_alias, {key: seen[key] for key in keys[start : start + _BATCH]})
    except TransportError as error:
        raise refusal(error, "cannot delete documents of foreign versions", index) from error
    return removed


def _remove(client: OpenSearch, index: str, write_alias: str, seen: Mapping[str, int]) -> set[str]:
    answer = client.mget(index=index, body={"ids": list(seen)}, params={"_source": "false"})
    lines = [_delete(doc) for doc in answer["docs"] if doc.get("found") and doc["_version"] == seen[doc["_id"]]]
    if not lines:
        return set()
    done = client.transport.perform_request(
        "POST",
        f"/{write_alias}/_bulk",
        params={"require_alias": "true"},
        body=b"\n".join(lines) + b"\n",
        headers=_HEADERS,
    )
    return {item["delete"]["_id"] for item in done["items"] if item["delete"]["status"] == 200}


def _delete(doc: Mapping[str, Any]) -> bytes:
    fields = {"_id": doc["_id"], "if_seq_no": doc["_seq_no"], "if_primary_term": doc["_primary_term"]}
    if "_routing" in doc:
        fields["routing"] = doc["_routing"]
    return orjson.dumps({"delete": fields})


def forget_deletes(client: OpenSearch, index: str, definition: Mapping[str, Any], *, followed: bool) -> None:
    """Have the index forget the versions of deleted documents, those of other clients too; then it remembers them for
    as long as before. Raises ReshelveError.

    followed  changes are indexed until the run is retired: what it then is when a repair that died has left it at 0"""
    try:
        before = _remembered(client, index)
        if before == _NOTHING:
            before = BUILDING[_GC] if followed else flat_settings(definition).get(_GC)
        try:
            client.indices.put_settings(index=index, body={_GC: _NOTHING})
            time.sleep(_TICK_S)
            client.indices.refresh(index=index)
        finally:
            client.indices.put_settings(index=index, body={_GC: before})
    except TransportError as error:
        raise refusal(error, "cannot make the index forget its deletes", index) from error


def _remembered(client: OpenSearch, index: str) -> str | None:
    """The index's own setting; None where it has none."""
    found = client.indices.get_settings(index=index, params={"flat_settings": "true"})
    value: str | None = found[index]["settings"].get(_GC)
    return value
