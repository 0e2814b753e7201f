"""The index as a check sees it: one point in time for all workers, scanned by slices, read by key."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import orjson
from opensearchpy import OpenSearch
from opensearchpy.exceptions import NotFoundError, TransportError

from reshelve.consumers.opensearch import reason, refusal
from reshelve.errors import BlockedError, ReshelveError, TargetRefused, Unreachable
from reshelve.model import MAX_ID_BYTES
from reshelve.validator.compare import Reading, digest_value, parse

KEEP_ALIVE: Final = "15m"
_PAGE: Final = 5_000  # hits of one search: twice as many are no faster, and their JSON takes 10 MB more
_SCANNED: Final = "timed_out,_shards.failed,hits.hits._id,hits.hits._version,hits.hits.sort"
_BUSY: Final = (429, 502, 503, 504)
_WHAT: Final = "cannot read the index"
_REMEDY: Final = "see that the cluster is well, then validate again: `reshelve validate` with the run"

# Returns, or raises what ends the work: a stop is asked for.
Check: TypeAlias = Callable[[], None]


@dataclass(frozen=True)
class PointInTime:
    """The documents of an index as they were at one moment, whatever is written meanwhile.

    slices  as many as primary shards, so that each slice is a shard: with more, every shard would be
            read several times"""

    client: OpenSearch
    index: str
    id: str
    slices: int

    def scan(self, number: int, check: Check) -> Iterator[Sequence[dict[str, Any]]]:
        """Pages of hits (`_id`, `_version`) of slice `number`, each document once.

        Sorted by `_shard_doc`: with `_doc`, search_after over several shards skips documents at page edges.
        Raises Unreachable when the cluster or the point in time is gone, else ReshelveError."""
        body: dict[str, Any] = {
            "size": _PAGE,
            "_source": False,
            "version": True,
            "track_total_hits": False,
            "sort": ["_shard_doc"],
            "pit": {"id": self.id, "keep_alive": KEEP_ALIVE},
        }
        if self.slices > 1:  # one slice is the whole, and `max` must be 2 or more
            body["slice"] = {"id": number, "max": self.slices}
        with ThreadPoolExecutor(1, "scan") as pool:  # the next page is searched for while this one is worked on
            asked = pool.submit(self._search, body)
            while True:
                check()
                hits: list[dict[str, Any]] = asked.result().get("hits", {}).get("hits", [])
                more = len(hits) == _PAGE
                if more:
                    asked = pool.submit(self._search, {**body, "search_after": hits[-1]["sort"]})
                if hits:
                    yield hits
                if not more:
                    return

    def versions(self, keys: Sequence[bytes]) -> dict[bytes, int]:
        """The versions of those of the keys (at most 10,000) that there are. Raises as `scan` does."""
        ids = _ids(keys)
        if not ids:
            return {}
        body = {
            "size": len(ids),
            "_source": False,
            "version": True,
            "track_total_hits": False,
            "query": {"ids": {"values": ids}},
            "pit": {"id": self.id, "keep_alive": KEEP_ALIVE},
        }
        hits = self._search(body).get("hits", {}).get("hits", [])
        return {hit["_id"].encode(): hit["_version"] for hit in hits}

    def touch(self) -> None:
        """Keep the point in time for another `KEEP_ALIVE`. Raises as `scan` does."""
        self._search({"size": 0, "track_total_hits": False, "pit": {"id": self.id, "keep_alive": KEEP_ALIVE}})

    def close(self) -> None:
        """Let go of it. Raises ReshelveError; one that is gone already is no error."""
        try:
            self.client.transport.perform_request("DELETE", "/_search/point_in_time", body={"pit_id": [self.id]})
        except NotFoundError:
            return
        except TransportError as error:
            raise refusal(error, "cannot close a point in time", self.index) from error

    def _search(self, body: dict[str, Any]) -> dict[str, Any]:
        params = {"filter_path": _SCANNED, "allow_partial_search_results": "false"}
        text = ask(self.client, "POST", "/_search", params, body, self.index)
        answer: dict[str, Any] = orjson.loads(text)
        if answer.get("timed_out") or answer.get("_shards", {}).get("failed"):
            raise Unreachable(_WHAT, where=self.index, why="a shard gave no answer", remedy=_REMEDY)
        return answer


def open_point_in_time(client: OpenSearch, index: str) -> PointInTime:
    """A point in time after a refresh, so that it holds everything written so far. Raises ReshelveError."""
    try:
        client.indices.refresh(index=index)
        settings = client.indices.get_settings(index=index, params={"flat_settings": "true"})
        shards = int(settings[index]["settings"]["index.number_of_shards"])
        answer = client.transport.perform_request(
            "POST",
            f"/{index}/_search/point_in_time",
            params={"keep_alive": KEEP_ALIVE, "allow_partial_pit_creation": "false"},
        )
    except NotFoundError as error:
        raise TargetRefused(
            "there is no index to validate", where=index, why=reason(error), remedy="start a new run"
        ) from error
    except TransportError as error:
        raise _failure(error, index) from error
    return PointInTime(client, index, answer["pit_id"], shards)


def ask(client: OpenSearch, method: str, path: str, params: dict[str, str], body: Any, where: str) -> str:
    """The text of an answer, past the client's own JSON parser, which takes most of a scan's time.

    Raises Unreachable for what may be well again later, else ReshelveError."""
    try:
        _, _, text = client.transport.get_connection().perform_request(
            method, path, params, orjson.dumps(body), headers={"content-type": "application/json"}
        )
    except NotFoundError as error:
        why = f"the index or its point in time is gone: {reason(error)}"
        raise Unreachable(_WHAT, where=where, why=why, remedy=_REMEDY) from error
    except TransportError as error:
        raise _failure(error, where) from error
    result: str = text
    return result


def _failure(error: TransportError, where: str) -> ReshelveError:
    """Unreachable for what may be well again later: the check is then made anew."""
    if error.status_code in _BUSY:
        return Unreachable(_WHAT, where=where, why=reason(error), remedy=_REMEDY)
    return refusal(error, _WHAT, where)


def read_documents(client: OpenSearch, index: str, keys: Sequence[bytes]) -> dict[bytes, Reading]:
    """What the index has for the keys now, in real time. Raises ReshelveError."""
    ids = _ids(keys)
    if not ids:
        return {}
    text = ask(client, "POST", f"/{index}/_mget", {}, {"ids": ids}, index)
    found: dict[bytes, Reading] = {}
    for item in parse(text)["docs"]:
        if "error" in item:
            raise BlockedError(_WHAT, where=index, why=str(item["error"].get("reason")), remedy=_REMEDY)
        if not item["found"]:
            continue
        if "_source" not in item:
            raise TargetRefused(
                "documents can't be compared",
                where=index,
                why="its mapping keeps no _source",
                remedy="set validation.samples_per_partition to 0 in the spec",
            )
        found[item["_id"].encode()] = Reading(item["_version"], digest_value(item["_source"]))
    return found


def _ids(keys: Sequence[bytes]) -> list[str]:
    # A key that can be no `_id` was rejected, and one such would spoil the answer for all.
    return [key.decode() for key in keys if 0 < len(key) <= MAX_ID_BYTES]
