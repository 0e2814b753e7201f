"""Documents of the index by key, compared with those expected; what is equal byte for byte is not parsed.

OpenSearch keeps a document's bytes and copies them into its answers, unless asked to filter or indent these: then it
writes them anew. What the source says now is written as it was when it was indexed, so of a document that did not
change the bytes are those expected.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from opensearchpy import OpenSearch
from opensearchpy.exceptions import TransportError

from reshelve.consumers.opensearch import refusal
from reshelve.errors import TargetRefused, Unreachable
from reshelve.model import MAX_ID_BYTES
from reshelve.validator.compare import digest_value, parse
from reshelve.validator.target import ask

# Between score and source there may be further fields of its own, such as `_ignored`.
_HEAD: Final = re.compile(
    r'\{"_index":"[^"]*","_id":("(?:[^"\\]|\\.)*"),"_version":(\d+),"_score":(?:null|[0-9.E]+)'
    r'(?:,"_(?!source")\w+":\[(?:"(?:[^"\\]|\\.)*",?)*\])*(,"_source":|\})'
)
_HITS: Final = re.compile(r'"hits":\[')
_ANSWER: Final = re.compile(r'"timed_out":(true|false),.*?"failed":(\d+)', re.DOTALL)
_EXACT: Final = json.JSONDecoder(parse_float=Decimal)


@dataclass(slots=True)
class Comparison:
    """What came of a batch of keys.

    found    how many of the expected documents the index has, with whatever content
    suspect  keys to be looked at again: missing, of another content, of a version after the source's, or there though
             no document is expected"""

    found: int = 0
    suspect: list[bytes] = field(default_factory=list)


def compare_batch(client: OpenSearch, index: str, expected: Mapping[bytes, bytes | None], version: int) -> Comparison:
    """Compare what the last refresh of the index shows with what is expected as of `version`; None: no document.

    Raises Unreachable for what may be well again later, else ReshelveError."""
    # What can be no `_id` is missing for sure, and one such key would spoil the answer for all.
    texts = [key.decode() for key in expected if 0 < len(key) <= MAX_ID_BYTES]
    text = search_ids(client, index, texts) if texts else ""
    return compare_answer(text, expected, version, index)


def refresh(client: OpenSearch, index: str) -> None:
    """Have the index show what it holds. Raises ReshelveError."""
    try:
        client.indices.refresh(index=index)
    except TransportError as error:
        raise refusal(error, "cannot read the index", index) from error


def search_ids(client: OpenSearch, index: str, ids: Sequence[str]) -> str:
    """The answer for those ids: hits with version and `_source`."""
    body = {
        "size": len(ids),
        "query": {"bool": {"filter": {"ids": {"values": ids}}}},
        "version": True,
        "track_total_hits": False,
    }
    params = {"allow_partial_search_results": "false"}
    return ask(client, "POST", f"/{index}/_search", params, body, index)


def compare_answer(text: str, expected: Mapping[bytes, bytes | None], version: int, index: str) -> Comparison:
    """Pure. `text` is the answer to `search_ids`; empty: nothing was asked for.

    Raises Unreachable when it is incomplete, TargetRefused when the index keeps no `_source`."""
    result = Comparison()
    seen: set[bytes] = set()
    place = _first_hit(text, index) if text else None
    while place is not None:
        head = _HEAD.match(text, place)
        if head is None:
            break
        if head[3] == "}":
            raise _no_source(index)
        raw = head[1]
        key = (json.loads(raw) if "\\" in raw else raw[1:-1]).encode("utf-8", "surrogatepass")
        seen.add(key)
        document = expected.get(key)
        equal, place = _compare(text, head.end(), document)
        result.found += document is not None
        if not equal or int(head[2]) > version:
            result.suspect.append(key)
        place = place + 2 if text[place : place + 2] == "}," else None
    result.suspect += [key for key, document in expected.items() if document is not None and key not in seen]
    return result


def _first_hit(text: str, index: str) -> int | None:
    """Where the hits begin; None where there is none."""
    answer, hits = _ANSWER.search(text), _HITS.search(text)
    if answer is None or hits is None or answer[1] == "true" or answer[2] != "0":
        raise Unreachable(
            "cannot read the index",
            where=index,
            why="a shard gave no answer",
            remedy="see that the cluster is well, then validate again",
        )
    return hits.end()


def _compare(text: str, start: int, document: bytes | None) -> tuple[bool, int]:
    """Whether the document that starts there is the expected one, and where it ends."""
    if document is not None:
        expected = document.decode("utf-8", "surrogatepass")
        if text.startswith(expected, start):  # a whole JSON object, so nothing follows that would belong to it
            return True, start + len(expected)
    value: Any
    value, end = _EXACT.raw_decode(text, start)
    return document is not None and digest_value(value) == digest_value(parse(document)), end


def _no_source(index: str) -> TargetRefused:
    return TargetRefused(
        "documents can't be compared",
        where=index,
        why="its mapping keeps no _source",
        remedy="leave the levels samples and full out (validation.samples_per_partition: 0, validation.full: false)",
    )
