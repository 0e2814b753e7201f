"""Index and source compared, key by key and whole document: what the demo's promise comes down to."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
import psycopg
from opensearchpy import OpenSearch
from opensearchpy.exceptions import TransportError
from opensearchpy.helpers import scan

from reshelve.applied import Applied, oldest
from reshelve.consumers.opensearch import refusal
from reshelve.errors import ReshelveError
from reshelve.kafka import KafkaCluster
from reshelve.model import make_version
from reshelve.producers.source import server_of
from reshelve.producers.visibility import SnapshotIds
from reshelve.spec import Spec
from reshelve.state import RunState

_BATCH: Final = 5_000
_LOOK_S: Final = 0.25
_PATIENCE_S: Final = 120.0
_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Comparison:
    """What index and source have and don't have in common.

    documents   of the index
    missing     keys of the source that the index lacks
    extra       keys of the index that the source lacks: resurrected, or never there
    different   keys of both, with another document
    caught_up_seconds   that the index needed for it after the last write
    """

    documents: int
    missing: int
    extra: int
    different: int
    caught_up_seconds: float
    examples: tuple[str, ...]

    @property
    def differences(self) -> int:
        return self.missing + self.extra + self.different


def compare_at_rest(spec: Spec, client: OpenSearch, state: RunState) -> Comparison:
    """Wait until the index has everything that the source has, and compare. Nobody writes to the source meanwhile.

    Raises ReshelveError, also when the index does not catch up within two minutes."""
    waited = _await_applied(spec, state)
    index = state.plan.index
    try:
        client.indices.refresh(index=index)
        return compare(_source(spec), _index(client, index), waited)
    except TransportError as error:
        raise refusal(error, "cannot read the index", index) from error
    except psycopg.Error as error:
        raise _lost(error, spec) from error


def compare(source: dict[str, bytes], index: Iterable[tuple[str, bytes]], waited: float) -> Comparison:
    """Digests of documents by key, of both sides. Takes from `source` what the index has. Pure but for that."""
    extra, different, documents = list[str](), list[str](), 0
    for key, digest in index:
        documents += 1
        expected = source.pop(key, None)
        if expected is None:
            extra.append(key)
        elif expected != digest:
            different.append(key)
    found: tuple[tuple[str, Sequence[str]], ...] = (("missing", [*source]), ("extra", extra), ("different", different))
    examples = tuple(f"{what}: {', '.join(keys[:_SHOWN])}" for what, keys in found if keys)
    return Comparison(documents, len(source), len(extra), len(different), waited, examples)


def _source(spec: Spec) -> dict[str, bytes]:
    """Digests of what the spec's query returns, by key."""
    postgres = spec.source.postgres
    query = f"select geonameid::text, row_to_json(q)::text from ({postgres.query}) q"
    with psycopg.connect(postgres.url) as connection, connection.cursor("compared") as cursor:
        cursor.itersize = _BATCH
        cursor.execute(query)
        return {key: _digest(orjson.loads(document)) for key, document in cursor}


def _index(client: OpenSearch, index: str) -> Iterator[tuple[str, bytes]]:
    for hit in scan(client, index=index, query={"sort": "_doc"}, size=_BATCH):
        yield hit["_id"], _digest(hit["_source"])


def _digest(document: dict[str, Any]) -> bytes:
    return hashlib.blake2b(orjson.dumps(document, option=orjson.OPT_SORT_KEYS), digest_size=16).digest()


def _await_applied(spec: Spec, state: RunState) -> float:
    """Until every partition's applied clock has reached the source's clock of now; the seconds that it took."""
    cluster, begun = KafkaCluster(spec.kafka.bootstrap, spec.kafka.config), time.monotonic()
    wanted = make_version(state.plan.epoch, _clock(spec))
    group, topic = state.run.group("indexer"), state.run.topic("documents")
    while True:
        places = cluster.committed_places(group, topic, spec.kafka.partitions)
        clock = oldest(Applied.decode(place.metadata) for place in places.values())
        if clock is not None and clock.version >= wanted:
            return time.monotonic() - begun
        if time.monotonic() - begun > _PATIENCE_S:
            raise ReshelveError(
                "the index does not catch up with its source",
                where=str(state.run),
                why=f"it is not at clock {wanted} after {_PATIENCE_S:.0f} s without a write",
                remedy="see the logs of its tailer, key reader and indexer beside its report",
            )
        time.sleep(_LOOK_S)


def _clock(spec: Spec) -> int:
    try:
        with psycopg.connect(spec.source.postgres.url) as connection:
            row = connection.execute("select pg_current_snapshot()::text").fetchone()
    except psycopg.Error as error:
        raise _lost(error, spec) from error
    assert row is not None
    return SnapshotIds.parse(row[0]).clock


def _lost(error: psycopg.Error, spec: Spec) -> ReshelveError:
    url = spec.source.postgres.url
    return ReshelveError(
        "cannot read the source", where=server_of(url), why=str(error).strip(), remedy="see that it runs"
    )
