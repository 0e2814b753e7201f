"""Which rejects are of no account any more: the source has changed since, and what it made of the key was accepted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from opensearchpy import OpenSearch
from opensearchpy.exceptions import TransportError

from reshelve.consumers.opensearch import reason, refusal
from reshelve.consumers.reject_ledger import RejectedKey
from reshelve.errors import BlockedError
from reshelve.kafka import KafkaCluster, header_items
from reshelve.model import MAX_ID_BYTES, RunId, partition_of
from reshelve.schemas.envelope import VERSION_HEADER

_CHUNK: Final = 1_000
# A reject that never was a record of `documents` tells its place there by its time, which its writer's clock gave it.
_CLOCKS_APART_MS: Final = 10 * 60_000


def find_superseded(
    cluster: KafkaCluster, run: RunId, client: OpenSearch, index: str, partitions: int, rejected: Iterable[RejectedKey]
) -> frozenset[str]:
    """Those of which the index holds a newer version, or a newer tombstone is durably done.

    For those that the index does not hold, what stands behind the reject in their partitions of `documents` is read.
    Raises ReshelveError."""
    judged = {one.key: one for one in rejected if one.reject.version is not None}
    held = versions_held(client, index, judged)
    found = {key for key, version in held.items() if version > _version(judged[key])}
    absent = {key: one for key, one in judged.items() if key not in held}
    return frozenset(found | _buried(cluster, run, partitions, absent))


def versions_held(client: OpenSearch, index: str, keys: Iterable[str]) -> dict[str, int]:
    """The versions that the index holds of these keys now, in real time. Raises ReshelveError."""
    # A key that can be no `_id` is not there, and one such would spoil the answer for all.
    ids = [key for key in keys if 0 < len(key.encode()) <= MAX_ID_BYTES]
    return {
        item["_id"]: int(item["_version"])
        for start in range(0, len(ids), _CHUNK)
        for item in _get(client, index, ids[start : start + _CHUNK])
    }


def _get(client: OpenSearch, index: str, ids: Sequence[str]) -> Iterator[dict[str, Any]]:
    what = "cannot look up the versions that the index holds"
    try:
        answer = client.mget(body={"ids": ids}, index=index, params={"_source": "false"})
    except TransportError as error:
        raise refusal(error, what, index) from None
    for item in answer["docs"]:
        if "error" in item:
            why = reason(TransportError(0, "", {"error": item["error"]}))
            raise BlockedError(what, where=index, why=why, remedy="see that the index is well, then try again")
        if item["found"]:
            yield item


def _buried(cluster: KafkaCluster, run: RunId, partitions: int, rejected: Mapping[str, RejectedKey]) -> set[str]:
    """Of keys that the index does not hold, those whose newest tombstone is newer than their reject."""
    wanted = {partition_of(key.encode(), partitions) for key in rejected}
    if not wanted:
        return set()
    topic = run.topic("documents")
    done = cluster.committed(run.group("indexer"), topic, partitions)
    starts = _starts(cluster, topic, partitions, rejected.values())
    ends = {p: max(done[p] or 0, starts[p]) for p in wanted}
    found: set[str] = set()
    for message in cluster.read(topic, wanted, starts=starts, ends=ends):
        key = (message.key() or b"").decode(errors="replace")
        one = rejected.get(key)
        if one is None or message.value() is not None:
            continue
        versions = [int(value) for name, value in header_items(message) if name == VERSION_HEADER]
        if versions and versions[0] > _version(one):
            found.add(key)
    return found


def _starts(cluster: KafkaCluster, topic: str, partitions: int, rejected: Iterable[RejectedKey]) -> dict[int, int]:
    """By partition, an offset before which nothing of what followed these rejects stands."""
    starts: dict[int, int] = {}
    earliest: dict[int, int] = {}
    for one in rejected:
        partition = partition_of(one.key.encode(), partitions)
        if one.reject.topic == topic:
            starts[partition] = min(one.reject.offset + 1, starts.get(partition, one.reject.offset + 1))
        else:
            earliest[partition] = min(one.first, earliest.get(partition, one.first))
    if earliest:
        since = cluster.offsets_since(topic, partitions, max(0, min(earliest.values()) - _CLOCKS_APART_MS))
        ends = cluster.stable_ends(topic, partitions)
        for partition in earliest:
            offset = since[partition] if since[partition] >= 0 else ends[partition]
            starts[partition] = min(offset, starts.get(partition, offset))
    return starts


def _version(one: RejectedKey) -> int:
    assert one.reject.version is not None
    return one.reject.version
