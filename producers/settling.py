"""Settling: the key tasks of the copy phase once more.

A page is read early and may be appended late, behind a newer record of the same key. The index keeps the highest
version all the same, but not for ever: a delete that it has forgotten (`index.gc_deletes`, a node's restart) does not
keep an older document out. So once the receipts tile, every key that changed until then is read again: from then on the
newest record of each key is also the one with its highest version, and the topic may be compacted and replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from reshelve.kafka import KafkaCluster
from reshelve.model import RunId
from reshelve.producers.key_tasks import write_key_tasks
from reshelve.schemas.codec import KEY_TASK

_WINDOW: Final = 200_000  # keys remembered at once: one that comes again later is only read twice


def distinct(keys: Iterable[bytes], window: int = _WINDOW) -> Iterator[bytes]:
    """Each key once, or now and then again where there are more than `window` of them."""
    seen: set[bytes] = set()
    for key in keys:
        if key not in seen:
            if len(seen) >= window:
                seen.clear()
            seen.add(key)
            yield key


def settle(
    cluster: KafkaCluster, run: RunId, ends: Mapping[int, int], waiting: Callable[[str], None]
) -> tuple[int, dict[int, int]]:
    """Append the keys of `changes` before `ends` (offset by partition) to it again.

    Returns their number, and the ends behind them: settled is what the key readers have passed those. Arguments and
    errors as of `write_key_tasks`."""
    keys = (
        key for partition, end in ends.items() for key in distinct(_keys(cluster, run.topic("changes"), partition, end))
    )
    return write_key_tasks(cluster, run, keys, len(ends), waiting)


def _keys(cluster: KafkaCluster, topic: str, partition: int, end: int) -> Iterator[bytes]:
    for message in cluster.read(topic, [partition]):
        offset = message.offset()
        assert offset is not None
        if offset >= end:
            return
        if (message.value() or b"").startswith(KEY_TASK.prefix):
            yield message.key() or b""
