from __future__ import annotations

from typing import Any

import pytest

from reshelve.consumers.bulk import Item, action_line, body_of
from reshelve.consumers.outcome import Outcome, RequestOutcome, item_outcome, reason_of, request_outcome


def error(kind: str, reason: str = "why", **more: Any) -> dict[str, Any]:
    return {"type": kind, "reason": reason, **more}


@pytest.mark.parametrize(
    ("status", "found", "outcome"),
    [
        (200, None, Outcome.INDEXED),
        (201, None, Outcome.INDEXED),
        (404, None, Outcome.INDEXED),  # a delete that finds nothing
        (409, error("version_conflict_engine_exception"), Outcome.SUPERSEDED),
        (409, error("illegal_state_exception"), Outcome.RETRY),
        (429, error("rejected_execution_exception"), Outcome.RETRY),
        (429, error("cluster_block_exception"), Outcome.RETRY),  # the disk's flood stage
        (403, error("cluster_block_exception"), Outcome.RETRY),  # a read-only index
        (500, error("null_pointer_exception"), Outcome.RETRY),
        (502, error("x"), Outcome.RETRY),
        (503, error("unavailable_shards_exception"), Outcome.RETRY),
        (504, error("x"), Outcome.RETRY),
        (404, error("index_not_found_exception"), Outcome.NO_INDEX),
        (401, error("security_exception"), Outcome.DENIED),
        (403, error("security_exception"), Outcome.DENIED),
        (400, error("mapper_parsing_exception"), Outcome.REJECTED),
        (400, error("illegal_argument_exception"), Outcome.REJECTED),
        (413, error("x"), Outcome.REJECTED),
        (400, error("strict_dynamic_mapping_exception"), Outcome.REJECTED),
    ],
)
def test_what_an_item_comes_to(status: int, found: dict[str, Any] | None, outcome: Outcome) -> None:
    assert item_outcome(status, found) is outcome


@pytest.mark.parametrize(
    ("status", "reason", "outcome"),
    [
        (429, "rejected_execution_exception", RequestOutcome.RETRY),
        (502, "", RequestOutcome.RETRY),
        (503, "", RequestOutcome.RETRY),
        (504, "", RequestOutcome.RETRY),
        (500, "", RequestOutcome.RETRY),
        (403, "cluster_block_exception: index [x] blocked by [FORBIDDEN/8/index write]", RequestOutcome.RETRY),
        (403, "security_exception: no permissions", RequestOutcome.DENIED),
        (401, "", RequestOutcome.DENIED),
        (404, "index_not_found_exception", RequestOutcome.NO_INDEX),
        (413, "Request Entity Too Large", RequestOutcome.SPLIT),
        (400, "action_request_validation_exception: id is too long", RequestOutcome.SPLIT),
    ],
)
def test_what_a_request_comes_to(status: int, reason: str, outcome: RequestOutcome) -> None:
    assert request_outcome(status, reason) is outcome


def test_the_reason_names_the_causes_once() -> None:
    cause = error("b", "field [x]", caused_by=error("c", "not a number"))
    assert reason_of(error("a", "failed to parse", caused_by=cause)) == "failed to parse; field [x]; not a number"
    assert reason_of(error("a", "same", caused_by=error("b", "same"))) == "same"
    assert reason_of({}) == ""


def test_a_key_is_escaped_in_the_request() -> None:
    key = 'a"b\\c\né\U0001f600'
    line = action_line(key.encode(), 5)
    assert b"\n" not in line
    assert line.startswith(b'{"index":{"_id":"a\\"b\\\\c\\n') and line.endswith(b'"version_type":"external_gte"}}')


def test_a_tombstone_is_a_versioned_delete_without_a_document() -> None:
    items = [Item(b"1", 7, b"{}", 0, 0), Item(b"2", 8, None, 0, 1)]
    assert body_of(items).split(b"\n") == [
        b'{"index":{"_id":"1","version":7,"version_type":"external_gte"}}',
        b"{}",
        b'{"delete":{"_id":"2","version":8,"version_type":"external_gte"}}',
        b"",
    ]
