"""Bulk requests: a batch of documents goes in, and comes back only when each one has an outcome."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
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


class Stopped(Exception):
    """The worker was told to stop; what has no outcome yet is left to the next one."""


def action_line(key: bytes, version: int, *, delete: bool = False, resent: bool = False) -> bytes:
    """The line before a document. `resent`: the first answer was lost, so an equal version is no conflict
    (the same clock means the same content), and the item is written again rather than taken for written."""
    return b'{"%b":{"_id":%b,"version":%d,"version_type":"%b"}}' % (
        b"delete" if delete else b"index",
        b'"%b"' % key if key.isalnum() else orjson.dumps(key.decode()),  # isalnum: of ASCII, nothing to escape
        version,
        b"external_gte" if resent else b"external",
    )


def body_of(items: Sequence[Item], *, resent: bool = False) -> bytes:
    """The request's body."""
    lines: list[bytes] = []
    for item in items:
        if item.document is None:
            lines.append(action_line(item.key, item.version, delete=True, resent=resent))
        else:
            lines.append(action_line(item.key, item.version, resent=resent))
            lines.append(item.document)
    lines.append(b"")
    return b"\n".join(lines)


class BulkWriter:
    """Writes batches to one generation through its write alias. Thread-safe; `write` blocks."""

    def __init__(self, client: OpenSearch, write_alias: str, where: str, waiter: Waiter, topic: str) -> None:
        self._client, self._alias, self._where, self._waiter, self._topic = client, write_alias, where, waiter, topic
        self._path = f"/{write_alias}/_bulk"

    def write(self, items: Sequence[Item]) -> BulkResult:
        """Write until every item has an outcome. No two items may have the same key: one that has to be sent again
        would come after the other.

        Raises TargetRefused (the generation is gone), AccessRefused and Stopped."""
        result = BulkResult()
        self._write(items, result, Backoff(), resent=False, rounds=0, failures=Counter())
        return result

    def _write(
        self,
        items: Sequence[Item],
        result: BulkResult,
        backoff: Backoff,
        *,
        resent: bool,
        rounds: int,
        failures: Counter[Item],
    ) -> None:
        """`rounds`: answers that left items pending so far; `failures`: 500s of each item."""
        pending = items
        while pending:
            if all(item.document is None for item in pending):
                self._require_alias()  # a bulk of versioned deletes alone would create a missing index
            try:
                answer = self._send(body_of(pending, resent=resent))
            except (ConnectionError, SerializationError) as error:
                if isinstance(error, TransportError) and is_tls_refusal(error):
                    raise refusal(error, "cannot write documents", self._where) from None
                # It may have been applied or not: send it again in a form for which both are right.
                resent = True
                self._pause(f"OpenSearch ({self._where}): {_one_line(error)}", backoff)
                continue
            except TransportError as error:
                pending = self._request_failed(error, pending, result, backoff, resent, failures)
                continue
            before = len(pending)
            pending, why = self._take_outcomes(pending, answer, result, failures)
            if not pending:
                return
            rounds += 1
            self._pause(f"OpenSearch ({self._where}): {why}", backoff)
            if len(pending) == before and before > 1 and rounds > 1:
                # Nothing at all went through, twice: smaller requests have a better chance.
                self._halves(pending, result, backoff, resent, rounds, failures)
                return

    def _request_failed(
        self,
        error: TransportError,
        items: Sequence[Item],
        result: BulkResult,
        backoff: Backoff,
        resent: bool,
        failures: Counter[Item],
    ) -> Sequence[Item]:
        """What is still pending after the request failed as a whole."""
        why = reason(error)
        outcome = request_outcome(int(error.status_code), why)
        if outcome is RequestOutcome.DENIED:
            raise refusal(error, "cannot write documents", self._where) from None
        if outcome is RequestOutcome.NO_INDEX:
            raise self._gone(why)
        if outcome is RequestOutcome.RETRY:
            self._pause(f"OpenSearch ({self._where}): {error.status_code} {why}", backoff)
            return items
        if len(items) == 1:
            result.rejects.append(self._reject(items[0], str(error.status_code), why))
            return ()
        self._halves(items, result, backoff, resent, 0, failures)
        return ()

    def _halves(
        self,
        items: Sequence[Item],
        result: BulkResult,
        backoff: Backoff,
        resent: bool,
        rounds: int,
        failures: Counter[Item],
    ) -> None:
        middle = len(items) // 2
        for half in (items[:middle], items[middle:]):
            self._write(half, result, backoff, resent=resent, rounds=rounds, failures=failures)

    def _send(self, body: bytes) -> Mapping[str, Any]:
        answer: Mapping[str, Any] = self._client.transport.perform_request(
            "POST",
            self._path,
            params={"require_alias": "true", "filter_path": _FILTER},
            body=body,
            headers=_HEADERS,
        )
        return answer

    def _take_outcomes(
        self, items: Sequence[Item], answer: Mapping[str, Any], result: BulkResult, failures: Counter[Item]
    ) -> tuple[list[Item], str]:
        """Sort the items by outcome; those to be sent again, and why."""
        if not answer["errors"]:
            result.indexed += len(items)
            return [], ""
        pending: list[Item] = []
        why = ""
        answers = answer["items"]
        if len(answers) != len(items):
            raise TargetRefused(
                "OpenSearch answered a bulk request with another number of items",
                where=self._where,
                why=f"{len(answers)} instead of {len(items)}",
                remedy="see whether a proxy in between changes answers",
            )
        for item, entry in zip(items, answers, strict=True):
            (fields,) = entry.values()
            status, error = fields["status"], fields.get("error")
            outcome = item_outcome(status, error)
            if outcome is Outcome.RETRY and status == 500:
                failures[item] += 1
                if failures[item] > _FAILURES_BEFORE_REJECT:
                    outcome = Outcome.REJECTED
            if outcome is Outcome.INDEXED:
                result.indexed += 1
            elif outcome is Outcome.SUPERSEDED:
                result.superseded += 1
            elif outcome is Outcome.REJECTED:
                result.rejects.append(self._reject(item, str(error["type"]), reason_of(error)))
            elif outcome is Outcome.RETRY:
                pending.append(item)
                why = f"{status} {reason_of(error)}"
            elif outcome is Outcome.NO_INDEX:
                raise self._gone(reason_of(error))
            else:
                raise AccessRefused(
                    "cannot write documents",
                    where=self._where,
                    why=f"{status}: {reason_of(error)}",
                    remedy="give the user the right to write to the index",
                )
        return pending, why

    def _require_alias(self) -> None:
        try:
            if self._client.indices.exists_alias(name=self._alias):
                return
        except TransportError:
            return  # not known now; the request itself will tell
        raise self._gone(f"no alias {self._alias}")

    def _pause(self, why: str, backoff: Backoff) -> None:
        wait = backoff.next_s()
        if self._waiter.pause(why, wait * random.uniform(0.75, 1.25)):
            raise Stopped

    def _gone(self, why: str) -> ReshelveError:
        return TargetRefused(
            "the generation that the run builds is gone",
            where=f"{self._where}/{self._alias}",
            why=why,
            remedy="somebody dropped the index or its write alias: start a new run",
        )

    def _reject(self, item: Item, kind: str, why: str) -> Reject:
        return Reject(
            item.key.decode(), item.document, "index", kind, why, self._topic, item.partition, item.offset
        )  # fmt: skip


def _one_line(error: TransportError | SerializationError) -> str:
    text = error.error if isinstance(error, TransportError) else json.dumps(str(error))
    return " ".join(str(text).split())
