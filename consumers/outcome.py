"""What OpenSearch's answer to an item of a bulk request, or to a whole one, means. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, Final


class Outcome(Enum):
    """What becomes of an item.

    INDEXED     written, or deleted
    SUPERSEDED  the index holds this version or a newer one; nothing to do
    RETRY       not now: the server is busy, a shard is away, or the disk is full; only this item again
    REJECTED    never: the document itself is refused
    NO_INDEX    the generation or its write alias is gone: nothing may be written
    DENIED      we may not write
    """

    INDEXED = "indexed"
    SUPERSEDED = "superseded"
    RETRY = "retry"
    REJECTED = "rejected"
    NO_INDEX = "no_index"
    DENIED = "denied"


class RequestOutcome(Enum):
    """What becomes of a bulk request that failed as a whole.

    RETRY      the server did not take it
    SPLIT      it is too large, or one of its items spoils it: halve it until the item stands alone
    NO_INDEX, DENIED  as for an item
    """

    RETRY = "retry"
    SPLIT = "split"
    NO_INDEX = "no_index"
    DENIED = "denied"


_BUSY: Final = frozenset({429, 502, 503, 504})


def item_outcome(status: int, error: Mapping[str, Any] | None) -> Outcome:
    """The outcome of an item by its status and error.

    A delete that finds nothing has status 404 and no error: done. A 409 is a version conflict, which the
    server reports only when the stored version is at least ours."""
    if status in (200, 201) or (status == 404 and error is None):
        return Outcome.INDEXED
    kind = "" if error is None else str(error.get("type"))
    if status == 409 and kind == "version_conflict_engine_exception":
        return Outcome.SUPERSEDED
    if status in _BUSY or status >= 500 or status == 409 or kind == "cluster_block_exception":
        return Outcome.RETRY
    if status == 404:
        return Outcome.NO_INDEX
    if status in (401, 403):
        return Outcome.DENIED
    return Outcome.REJECTED


def request_outcome(status: int, reason: str) -> RequestOutcome:
    """The outcome of a whole request by its status and the server's reason."""
    if "cluster_block_exception" in reason or status in _BUSY or status >= 500:
        return RequestOutcome.RETRY
    if status in (401, 403):
        return RequestOutcome.DENIED
    if status == 404:
        return RequestOutcome.NO_INDEX
    return RequestOutcome.SPLIT


def reason_of(error: Mapping[str, Any]) -> str:
    """The server's words about an item, with the causes behind them."""
    texts: list[str] = []
    cause: Any = error
    while isinstance(cause, Mapping):
        text = str(cause.get("reason", ""))
        if text and text not in texts:
            texts.append(text)
        cause = cause.get("caused_by")
    return "; ".join(texts)
