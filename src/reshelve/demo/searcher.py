"""The searcher: somebody who keeps searching while the index behind the alias is rebuilt and swapped."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any, Final

from opensearchpy import OpenSearch
from opensearchpy.exceptions import TransportError

from reshelve.consumers.opensearch import reason

_PAUSE_S: Final = 0.01  # a person types slower, but leaves the machine to the rebuild too
_SHOWN_FAILURES: Final = 5


@dataclass(frozen=True, slots=True)
class Searches:
    """What the searcher saw.

    failures    answers other than 200, timeouts, answers that lacked a shard, and searches that found nothing
                where they must find something
    answered    searches that each index answered, by its name: shows when the alias moved
    median_ms, slowest_ms   of a search, as seen by the searcher
    """

    done: int
    failures: int
    answered: dict[str, int]
    median_ms: float
    slowest_ms: float
    seconds: float
    examples: tuple[str, ...]


def fault(answer: Mapping[str, Any]) -> str | None:
    """Why an answer (status 200) to a search that must find something is a failure; None when it is none."""
    shards = answer["_shards"]
    if shards["failed"]:
        return f"{shards['failed']} of {shards['total']} shards failed"
    if answer["timed_out"]:
        return "timed out in the cluster"
    if not answer["hits"]["total"]["value"]:
        return "nothing found"
    return None


class Searcher:
    """Searches in a thread from `start` to `stop`, one search at a time.

    client  with a timeout, and without retries: a search that had to be repeated has failed
    names   of cities that every version of the index holds
    """

    def __init__(self, client: OpenSearch, alias: str, names: Sequence[str]) -> None:
        self._client, self._alias, self._names = client, alias, cycle(names)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._search_on, name="searcher", daemon=True)
        self._answered: Counter[str] = Counter()
        self._milliseconds: list[float] = []
        self._failures: list[str] = []
        self._begun = 0.0

    def start(self) -> None:
        self._begun = time.monotonic()
        self._thread.start()

    def stop(self) -> Searches:
        """End the thread; what it saw."""
        self._stop.set()
        self._thread.join()
        times = sorted(self._milliseconds)
        return Searches(
            done=len(times),
            failures=len(self._failures),
            answered=dict(self._answered),
            median_ms=times[len(times) // 2] if times else 0.0,
            slowest_ms=times[-1] if times else 0.0,
            seconds=time.monotonic() - self._begun,
            examples=tuple(self._failures[:_SHOWN_FAILURES]),
        )

    def _search_on(self) -> None:
        while not self._stop.wait(_PAUSE_S):
            name = next(self._names)
            begun = time.monotonic()
            failure = self._search(name)
            self._milliseconds.append((time.monotonic() - begun) * 1000)
            if failure is not None:
                self._failures.append(f"search for {name!r}: {failure}")

    def _search(self, name: str) -> str | None:
        body = {
            "size": 1,
            "_source": False,
            "track_total_hits": True,
            "query": {"match": {"name": {"query": name, "operator": "and"}}},
        }
        try:
            answer = self._client.search(index=self._alias, body=body)
        except TransportError as error:
            return f"{error.status_code}: {reason(error)}"
        except Exception as error:  # noqa: BLE001 - whatever kept a search from its answer is a failure to report
            return f"{type(error).__name__}: {error}"
        found = fault(answer)
        if found is None:
            self._answered[answer["hits"]["hits"][0]["_index"]] += 1
        return found
