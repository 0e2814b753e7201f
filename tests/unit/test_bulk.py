from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from opensearchpy import OpenSearch
from opensearchpy.exceptions import SSLError, TransportError

from reshelve.consumers.bulk import BulkResult, BulkWriter, GivenUp, Item

GOOD, BAD = (Item(b"%d" % n, 1, b"{}", 0, n) for n in range(2))


class Waits:
    """Waits for nothing."""

    def pause(self, _reason: str, _seconds: float) -> bool:
        return False


def write(
    items: Sequence[Item], answers: Sequence[dict[str, Any] | Exception], *, given_up: bool = False
) -> tuple[BulkResult, list[bytes]]:
    """The result and the bodies sent, when requests are answered so."""
    left, bodies = list(answers), []

    def perform_request(*_: str, body: bytes, **__: object) -> dict[str, Any]:
        bodies.append(body)
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    client = cast(OpenSearch, SimpleNamespace(transport=SimpleNamespace(perform_request=perform_request)))
    return BulkWriter(client, "w", "here", Waits(), "documents").write(items, lambda: given_up), bodies


def answer(*statuses: int) -> dict[str, Any]:
    return {
        "errors": any(status >= 400 for status in statuses),
        "items": [{"index": {"status": s, "error": {"type": "t", "reason": "r"}}} for s in statuses],
    }


def test_a_document_that_the_server_keeps_failing_on_is_rejected() -> None:
    result, bodies = write([GOOD, BAD], [answer(201, 500), *[answer(500)] * 8])
    assert (result.indexed, [r.key for r in result.rejects], len(bodies)) == (1, ["1"], 9)


def test_a_busy_server_is_no_fault_of_the_document_that_fails_once_after_it() -> None:
    result, _ = write([GOOD], [*[answer(429)] * 20, answer(500), answer(201)])
    assert (result.indexed, result.rejects) == (1, [])


def test_a_request_that_is_turned_away_as_a_whole_gets_smaller() -> None:
    busy = TransportError(429, "rejected_execution_exception", {})
    result, bodies = write([GOOD, BAD], [busy, busy, answer(201), busy, answer(201)])
    assert (result.indexed, result.rejects) == (2, [])
    assert [body.count(b"\n") // 2 for body in bodies] == [2, 2, 1, 1, 1]


def test_nor_are_the_failures_of_another_document() -> None:
    together, good, bad = [answer(429, 500)] * 2, [answer(500), answer(201)], [answer(500)] * 7
    result, _ = write([GOOD, BAD], [*together, *good, *bad])
    assert (result.indexed, [r.key for r in result.rejects]) == (1, ["1"])


def test_a_request_whose_connection_was_cut_in_tls_is_sent_again_as_ambiguous() -> None:
    cut = SSLError("N/A", "[SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred", Exception())
    result, bodies = write([GOOD], [cut, answer(201)])
    assert result.indexed == 1
    assert len(bodies) == 2 and bodies[0] == bodies[1]


def test_what_nobody_wants_any_more_is_not_sent_again() -> None:
    with pytest.raises(GivenUp):
        write([GOOD], [answer(429)] * 3, given_up=True)
