"""Bulk requests: a batch of documents goes in, and comes back only when each one has an outcome."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

import orjson
from opensearchpy import OpenSearch
from opensearchpy.exceptions import ConnectionError, SerializationError, TransportError

from reshelve.consumers.opensearch import is_tls_refusal, reason, refusal
from reshelve.consumers.outcome import Outcome, RequestOutcome, item_outcome, reason_of, request_outcome
from reshelve.errors import AccessRefused, ReshelveError, TargetRefused
from reshelve.reporter import Backoff
from reshelve.schemas.reject import Reject

MAX_BODY_BYTES: Final = 8 * 1024 * 1024
# A document that the server fails on itself (500) more often than this is rejected: it would stop the run for ever.
_FAILURES_BEFORE_REJECT: Final = 8
_HEADERS: Final = {"content-type": "application/x-ndjson"}
_FILTER: Final = "errors,items.*.status,items.*.error"


class Item(NamedTuple):
    """A record of `documents`: a document to index, or (document None) a tombstone."""

    key: bytes
    version: int
    document: bytes | None
    partition: int
    offset: int


@dataclass(slots=True)
class BulkResult:
    """What became of a batch. Every item is in exactly one of the three."""

    indexed: int = 0
    superseded: int = 0
    rejects: list[Reject] = field(default_factory=list)


class Waiter(Protocol):
    """Waits with a reason that people can see; True when told to stop meanwhile."""

    def pause(self, reason: str, seconds: float) -> bool: ...


class Meter(Protocol):
    """Is told of every request that was sent."""

    def answered(self, seconds: float, *, busy: bool) -> None: ...
    def count(self, name: str, amount: int = 1) -> None: ...


class Stopped(Exception):
    """The worker was told to stop; what has no outcome yet is left to the next one."""


class GivenUp(Exception):
    """Nobody wants the batch's outcome any more: its partitions are another worker's, who writes it again. Sent on, an
    old document might come behind a newer delete that the index has forgotten."""


def action_line(key: bytes, version: int, *, delete: bool = False) -> bytes:
    """The line before a document.

    external_gte: an equal version is written again, because the same clock means the same content. Refused, it would
    be taken for written; but what wrote it may have been a request whose answer, and with it whose durability, nobody
    knows."""
    return b'{"%b":{"_id":%b,"version":%d,"version_type":"external_gte"}}' % (
        b"delete" if delete else b"index",
        b'"%b"' % key if key.isalnum() else orjson.dumps(key.decode()),  # isalnum: of ASCII, nothing to escape
        version,
    )


def body_of(items: Sequence[Item]) -> bytes:
    """The request's body."""
    lines: list[bytes] = []
    for item in items:
        if item.document is None:
            lines.append(action_line(item.key, item.version, delete=True))
        else:
            lines.append(action_line(item.key, item.version))
            lines.append(item.document)
    lines.append(b"")
    return b"\n".join(lines)


def _wanted() -> bool:
    return False


class BulkWriter:
    """Writes batches to one generation through its write alias. Thread-safe; `write` blocks."""

    def __init__(
        self, client: OpenSearch, write_alias: str, where: str, waiter: Waiter, topic: str, meter: Meter | None = None
    ) -> None:
        self._client, self._alias, self.where, self._waiter, self._topic = client, write_alias, where, waiter, topic
        self._meter = meter
        self._path = f"/{write_alias}/_bulk"

    def write(self, items: Sequence[Item], given_up: Callable[[], bool] = _wanted) -> BulkResult:
        """Write until every item has an outcome. No two items may have the same key: one that has to be sent again
        would come after the other. `given_up` is asked before anything is sent again.

        Raises TargetRefused (the generation is gone), AccessRefused, Stopped and GivenUp."""
        writing = _Writing(self, given_up)
        writing.write(items)
        return writing.result

    def send(self, body: bytes) -> Mapping[str, Any]:
        began, busy = time.monotonic(), False
        try:
            answer: Mapping[str, Any] = self._client.transport.perform_request(
                "POST",
                self._path,
                params={"require_alias": "true", "filter_path": _FILTER},
                body=body,
                headers=_HEADERS,
            )
            busy = bool(answer["errors"]) and any(fields["status"] == 429 for fields in _fields(answer))
            return answer
        except TransportError as error:
            busy = error.status_code == 429
            raise
        finally:
            if self._meter is not None:
                self._meter.answered(time.monotonic() - began, busy=busy)

    def require_alias(self) -> None:
        try:
            if self._client.indices.exists_alias(name=self._alias):
                return
        except TransportError:
            return  # not known now; the request itself will tell
        raise self.gone(f"no alias {self._alias}")

    def pause(self, why: str, seconds: float) -> None:
        """Before something is sent again. Raises Stopped when the worker is told to stop meanwhile."""
        if self._meter is not None:
            self._meter.count("retries")
        if self._waiter.pause(f"OpenSearch ({self.where}): {why}", seconds * random.uniform(0.75, 1.25)):
            raise Stopped

    def gone(self, why: str) -> ReshelveError:
        return TargetRefused(
            "the generation that the run builds is gone",
            where=f"{self.where}/{self._alias}",
            why=why,
            remedy="somebody dropped the index or its write alias: start a new run",
        )

    def reject(self, item: Item, kind: str, why: str) -> Reject:
        return Reject(
            item.key.decode(), item.document, "index", kind, why, self._topic, item.partition, item.offset, item.version
        )


@dataclass(slots=True)
class _Writing:
    """One batch on its way.

    result    what has an outcome
    failures  500s of each item
    """

    writer: BulkWriter
    given_up: Callable[[], bool]
    result: BulkResult = field(default_factory=BulkResult)
    backoff: Backoff = field(default_factory=Backoff)
    failures: Counter[Item] = field(default_factory=Counter)

    def write(self, items: Sequence[Item], rounds: int = 0) -> None:
        """`rounds`: answers that left items pending so far."""
        pending = items
        while pending:
            before = len(pending)
            if all(item.document is None for item in pending):
                self.writer.require_alias()  # a bulk of versioned deletes alone would create a missing index
            try:
                answer = self.writer.send(body_of(pending))
            except (ConnectionError, SerializationError) as error:
                if isinstance(error, TransportError) and is_tls_refusal(error):
                    raise refusal(error, "cannot write documents", self.writer.where) from None
                self._pause(_one_line(error))  # it may have been applied or not: sent again, both are right
                continue
            except TransportError as error:
                pending = self._request_failed(error, pending)
                if error.status_code != 429:
                    continue
            else:
                pending, why = self._take_outcomes(pending, answer)
                if not pending:
                    return
                self._pause(why)
            rounds += 1
            if len(pending) == before and before > 1 and rounds > 1:
                # Nothing at all went through, twice: smaller requests have a better chance.
                self._halves(pending, rounds)
                return

    def _request_failed(self, error: TransportError, items: Sequence[Item]) -> Sequence[Item]:
        """What is still pending after the request failed as a whole."""
        why = reason(error)
        outcome = request_outcome(int(error.status_code), why)
        if outcome is RequestOutcome.DENIED:
            raise refusal(error, "cannot write documents", self.writer.where) from None
        if outcome is RequestOutcome.NO_INDEX:
            raise self.writer.gone(why)
        if outcome is RequestOutcome.RETRY:
            self._pause(f"{error.status_code} {why}")
            return items
        if len(items) == 1:
            self.result.rejects.append(self.writer.reject(items[0], str(error.status_code), why))
            return ()
        self._halves(items, 0)
        return ()

    def _halves(self, items: Sequence[Item], rounds: int) -> None:
        middle = len(items) // 2
        for half in (items[:middle], items[middle:]):
            self.write(half, rounds)

    def _pause(self, why: str) -> None:
        self.writer.pause(why, self.backoff.next_s())
        if self.given_up():
            raise GivenUp

    def _take_outcomes(self, items: Sequence[Item], answer: Mapping[str, Any]) -> tuple[list[Item], str]:
        """Sort the items by outcome; those to be sent again, and why."""
        if not answer["errors"]:
            self.result.indexed += len(items)
            return [], ""
        pending: list[Item] = []
        why = ""
        answers = answer["items"]
        if len(answers) != len(items):
            raise TargetRefused(
                "OpenSearch answered a bulk request with another number of items",
                where=self.writer.where,
                why=f"{len(answers)} instead of {len(items)}",
                remedy="see whether a proxy in between changes answers",
            )
        for item, entry in zip(items, answers, strict=True):
            (fields,) = entry.values()
            status, error = fields["status"], fields.get("error")
            outcome = item_outcome(status, error)
            if outcome is Outcome.RETRY and status == 500:
                self.failures[item] += 1
                if self.failures[item] > _FAILURES_BEFORE_REJECT:
                    outcome = Outcome.REJECTED
            if outcome is Outcome.INDEXED:
                self.result.indexed += 1
            elif outcome is Outcome.SUPERSEDED:
                self.result.superseded += 1
            elif outcome is Outcome.REJECTED:
                self.result.rejects.append(self.writer.reject(item, str(error["type"]), reason_of(error)))
            elif outcome is Outcome.RETRY:
                pending.append(item)
                why = f"{status} {reason_of(error)}"
            elif outcome is Outcome.NO_INDEX:
                raise self.writer.gone(reason_of(error))
            else:
                raise AccessRefused(
                    "cannot write documents",
                    where=self.writer.where,
                    why=f"{status}: {reason_of(error)}",
                    remedy="give the user the right to write to the index",
                )
        return pending, why


def _fields(answer: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """What was answered of each item."""
    for entry in answer["items"]:
        yield from entry.values()


def _one_line(error: TransportError | SerializationError) -> str:
    text = error.error if isinstance(error, TransportError) else json.dumps(str(error))
    return " ".join(str(text).split())
