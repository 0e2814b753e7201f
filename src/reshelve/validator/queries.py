"""Real searches, previous index against new: what people will find after the swap that they did not find before."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from opensearchpy import OpenSearch
from opensearchpy.exceptions import TransportError

from reshelve.consumers import generation
from reshelve.consumers.opensearch import reason, refusal
from reshelve.context import RunContext
from reshelve.errors import ReshelveError, Unreachable, UsageError
from reshelve.redaction import redact
from reshelve.spec.validation import Queries
from reshelve.validator.ranking import overlap, rank_biased_overlap

WORST: Final = 10
_TIMEOUT_S: Final = 10
_PREFERENCE: Final = "reshelve"  # the same copies for each search: two copies of a shard may score differently
_FILTER: Final = "timed_out,_shards.failed,_shards.failures.reason,hits.hits._id"
_REASON: Final = 300  # characters of a server's words in an entry of the journal

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Query:
    """A search: its name for people, and its body as `_search` takes it."""

    name: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class QueryResult:
    """What a search finds in both indexes, the first k hits of each.

    overlap, rbo    0 to 1; None when it can't be compared because it fails on the previous index
    vanished, came  ids of hits that only the previous, and only the new index finds; in their order
    error           why it failed, and on which index; empty when it did not
    """

    name: str
    overlap: float | None
    rbo: float | None
    vanished: tuple[str, ...] = ()
    came: tuple[str, ...] = ()
    error: str = ""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> QueryResult:
        return cls(**(dict(data) | {"vanished": tuple(data["vanished"]), "came": tuple(data["came"])}))


@dataclass(frozen=True, slots=True)
class QueriesVerdict:
    """What all searches together found.

    at             ISO 8601 UTC
    number         of searches
    compared       those that the previous index answered; one that fails on the new one counts with 0
    overlap, rbo   on average over those; None when there is none
    worst          the worst `WORST` of those that differ or fail, worst first
    """

    at: str
    previous_index: str
    index: str
    k: int
    number: int
    compared: int
    failed: int
    overlap: float | None
    rbo: float | None
    min_overlap: float | None
    min_rbo: float | None
    worst: tuple[QueryResult, ...]

    @property
    def clean(self) -> bool:
        """Every minimum is reached."""
        return all(
            minimum is None or (found is not None and found >= minimum)
            for found, minimum in ((self.overlap, self.min_overlap), (self.rbo, self.min_rbo))
        )

    def summary(self) -> str:
        """One line for people."""
        if self.overlap is None or self.rbo is None:
            return f"none of {self.number:,} searches could be compared with {self.previous_index}"
        text = f"{self.compared:,} searches: overlap@{self.k} {self.overlap:.3f}, rank-biased overlap {self.rbo:.3f}"
        return text + (f"; {self.failed:,} fail on the new index" if self.failed else "")

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON, bounded."""
        return asdict(self) | {"clean": self.clean, "summary": self.summary()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> QueriesVerdict:
        """The inverse of `as_dict`."""
        fields = {name: data[name] for name in cls.__dataclass_fields__}
        return cls(**(fields | {"worst": tuple(QueryResult.from_dict(one) for one in data["worst"])}))


def compare_queries(context: RunContext, report: Report = lambda text: None) -> QueriesVerdict | None:
    """Run the spec's searches against the previous index and the run's. None when the spec names none, or there is no
    previous index any more.

    A search that fails is a result. Raises UsageError for a file that holds no searches, Unreachable, ReshelveError."""
    asked, plan = context.spec.validation.queries, context.plan
    previous = plan.previous_index
    if asked is None or previous is None:
        return None
    queries = read_queries(Path(asked.file))
    client = context.opensearch
    if generation.uuid(client, previous) != plan.previous_uuid:
        report(f"searches are not compared: {previous} is gone")
        return None
    report(f"comparing {len(queries):,} searches with {previous}")
    try:
        client.indices.refresh(index=plan.index)
    except TransportError as error:
        raise refusal(error, "cannot compare searches", plan.index) from None
    results = []
    for query in queries:
        report("")  # a stop that is asked for ends it
        here, there = _search(client, previous, query, asked.k), _search(client, plan.index, query, asked.k)
        results.append(judge(query.name, here, there))
    return summarize(results, asked, previous, plan.index)


def minimum_of(context: RunContext) -> str:
    """What the spec asks of the comparison, for people; empty when that is nothing, or there is nothing to compare
    with."""
    asked = context.spec.validation.queries
    if asked is None or context.plan.previous_index is None:
        return ""
    texts = ((f"overlap@{asked.k}", asked.min_overlap), ("rank-biased overlap", asked.min_rbo))
    return ", ".join(f"{name} at least {minimum:g}" for name, minimum in texts if minimum is not None)


def judge(name: str, previous: Sequence[str] | str, new: Sequence[str] | str) -> QueryResult:
    """Of the ids of the hits, or the reason why there are none: a text. Pure."""
    if isinstance(previous, str):
        also = f"; on the new one, too: {new}" if isinstance(new, str) else ""
        return QueryResult(name, None, None, error=f"fails on the previous index: {previous}{also}")
    if isinstance(new, str):
        return QueryResult(name, 0.0, 0.0, tuple(previous), error=f"fails on the new index: {new}")
    return QueryResult(
        name,
        round(overlap(previous, new), 4),
        round(rank_biased_overlap(previous, new), 4),
        tuple(key for key in previous if key not in new),
        tuple(key for key in new if key not in previous),
    )


def summarize(results: Sequence[QueryResult], asked: Queries, previous_index: str, index: str) -> QueriesVerdict:
    """The verdict of all results. Pure but for the time."""
    overlaps = [one.overlap for one in results if one.overlap is not None]
    rbos = [one.rbo for one in results if one.rbo is not None]
    differing = [one for one in results if one.error or one.rbo != 1.0]
    worst = sorted(differing, key=lambda one: (-1.0 if one.rbo is None else one.rbo, one.overlap or 0.0, one.name))
    return QueriesVerdict(
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        previous_index=previous_index,
        index=index,
        k=asked.k,
        number=len(results),
        compared=len(overlaps),
        failed=sum(bool(one.error) and one.overlap is not None for one in results),
        overlap=_average(overlaps),
        rbo=_average(rbos),
        min_overlap=asked.min_overlap,
        min_rbo=asked.min_rbo,
        worst=tuple(worst[:WORST]),
    )


def read_queries(file: Path) -> tuple[Query, ...]:
    """The searches of a file. Raises UsageError with the line that is none."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"cannot read the searches in {file}", why=str(error), remedy="correct validation.queries.file in the spec"
        ) from None
    found = [_query(file, number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not found:
        raise UsageError(f"{file} holds no search", remedy="write one JSON object with `name` and `body` a line")
    return tuple(found)


def _query(file: Path, number: int, line: str) -> Query:
    try:
        fields = json.loads(line)
        why = ""
    except ValueError as error:
        fields, why = None, str(error)
    if isinstance(fields, dict) and fields.keys() == {"name", "body"}:
        name, body = fields["name"], fields["body"]
        if isinstance(name, str) and name and isinstance(body, dict):
            return Query(name, body)
    raise UsageError(
        "a search can't be read",
        where=f"{file}:{number}",
        why=why or "it has not exactly `name`, a text, and `body`, an object",
        remedy='write {"name": "…", "body": {"query": {…}}} on one line',
    )


def _search(client: OpenSearch, index: str, query: Query, k: int) -> tuple[str, ...] | str:
    """The ids of the first k hits, or why the search fails. Raises Unreachable, AccessRefused."""
    body = {**query.body, "size": k, "_source": False, "track_total_hits": False, "timeout": f"{_TIMEOUT_S}s"}
    try:
        answer: Any = client.search(body=body, index=index, params={"preference": _PREFERENCE, "filter_path": _FILTER})
    except TransportError as error:
        refused: ReshelveError = refusal(error, "cannot compare searches", index)
        if isinstance(refused, Unreachable) or refused.code == "access":
            raise refused from None
        return reason(error)[:_REASON]
    if answer.get("timed_out"):
        return f"it took longer than {_TIMEOUT_S} s"
    shards = answer.get("_shards", {})
    if shards.get("failed"):
        causes = [str(one.get("reason", {}).get("reason")) for one in shards.get("failures", [])]
        return redact("; ".join(dict.fromkeys(causes)))[:_REASON] or "a shard failed"
    return tuple(hit["_id"] for hit in answer.get("hits", {}).get("hits", []))


def _average(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None
