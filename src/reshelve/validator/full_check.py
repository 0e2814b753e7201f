"""The level `full` of a check as its coordinator sees it: key ranges first, then what the source does not have.

A check of this level may take hours, so it can be gone on with: its name and its key ranges stand in the journal
(entry `check_began`), the results of the tasks that were done in `checks`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from opensearchpy.exceptions import TransportError

from reshelve.consumers.opensearch import refusal
from reshelve.context import RunContext
from reshelve.errors import ReshelveError
from reshelve.model import Segment
from reshelve.producers.planner import estimate_query, sample_size
from reshelve.producers.segments import plan_segments, tile
from reshelve.producers.source import source_session
from reshelve.schemas.codec import CodecError
from reshelve.validator.target import PointInTime
from reshelve.validator.tasks import CheckResult, CheckTask, Kind, Scope, check_of, decode
from reshelve.validator.verdict import FullVerdict, RangeVerdict

BEGAN: Final = "check_began"
_DOCUMENTS: Final = 30_000  # of a key range: about a second of work, which is what a killed validator loses
_MOST_RANGES: Final = 4_096  # they stand in the journal
# What was found longer ago says little about now. Shorter than `checks` keeps results (`plan.plan_topics`).
_VALID: Final = timedelta(days=1)

HaveDone = Callable[[Sequence[CheckTask], PointInTime], Sequence[CheckResult]]


@dataclass(frozen=True, slots=True)
class CheckBegan:
    """A check that can be gone on with. levels: what it was asked to look at; ranges: key ranges that tile all keys."""

    check: str
    levels: tuple[str, ...]
    ranges: tuple[Segment, ...]

    @classmethod
    def now(cls, levels: Sequence[str], ranges: tuple[Segment, ...]) -> CheckBegan:
        return cls(check_name(), tuple(levels), ranges)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        bounds = [list(one.high) for one in self.ranges if one.high is not None]
        at = datetime.now(UTC).isoformat(timespec="seconds")
        return {"check": self.check, "at": at, "levels": list(self.levels), "bounds": bounds}


def check_name() -> str:
    """New for each check; sorts by the time of its beginning."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


def begin(
    context: RunContext,
    levels: Sequence[str],
    facts: Mapping[str, Mapping[str, Any]],
    record: Callable[[str, dict[str, Any]], None],
    report: Callable[[str], None],
) -> CheckBegan:
    """The check of these levels that was left, or a new one, which `record` writes to the journal; `facts` are the
    newest of its entries of each kind, kept up to date by `record`. Raises ReshelveError."""
    left = unfinished(facts, levels, datetime.now(UTC))
    if left is not None:
        report(f"going on with check {left.check}")
        return left
    began = CheckBegan.now(levels, plan_ranges(context))
    record(BEGAN, began.as_dict())
    # As it stands there: the journal masks what looks like a secret, and who goes on with it must mean the same ranges.
    return unfinished(facts, levels, datetime.now(UTC)) or began


def unfinished(facts: Mapping[str, Mapping[str, Any]], levels: Sequence[str], now: datetime) -> CheckBegan | None:
    """The newest check, if it was of these levels and not finished. Pure. `facts`: the newest entry of each kind."""
    began = facts.get(BEGAN)
    if began is None or began["levels"] != list(levels) or facts.get("validated", {}).get("check") == began["check"]:
        return None
    if now - datetime.fromisoformat(began["at"]) > _VALID:
        return None
    return CheckBegan(began["check"], tuple(levels), tile([tuple(bound) for bound in began["bounds"]]))


def plan_ranges(context: RunContext) -> tuple[Segment, ...]:
    """Key ranges that tile all keys, as the source is now. Raises ReshelveError."""
    with source_session(context.spec.source.postgres.url, "reshelve validate") as connection:
        rows, _ = sample_size(connection, context.query, estimate_query(connection, context.query))
        wanted = max(1, min(_MOST_RANGES, -(-rows // _DOCUMENTS)))
        return plan_segments(connection, context.spec, context.plan.source, wanted)


def read_results(context: RunContext, check: str) -> dict[tuple[Kind, int], CheckResult]:
    """What the tasks of a check's level "full" came to in whichever attempt, those that could be done, by kind and
    number. Raises ReshelveError."""
    found: dict[tuple[Kind, int], CheckResult] = {}
    for message in context.cluster.read(context.run.topic("checks"), range(context.partitions)):
        try:
            record = decode(message.value() or b"")
        except CodecError:
            continue
        if isinstance(record, CheckResult) and check_of(record.check) == check and record.error is None:
            found[record.kind, record.number] = record
    return found


@dataclass(frozen=True)
class FullCheck:
    """attempt     what tasks are told by that are about a point in time
    have_done   sends tasks of one kind, returns their results; raises ReshelveError
    open_point  a point in time of the index, for as long as it is entered; with the scope of tasks about it"""

    context: RunContext
    began: CheckBegan
    attempt: str
    have_done: HaveDone
    open_point: Callable[[], AbstractContextManager[tuple[PointInTime, Scope]]]
    report: Callable[[str], None]

    def run(self) -> FullVerdict:
        """What was found, by this attempt and by earlier ones of the same check. Raises ReshelveError."""
        known = read_results(self.context, self.began.check)
        before = self._writes()
        with self.open_point() as (point, scope):
            tasks = [
                CheckTask(self.began.check, "range", one.number, scope, low=one.low, high=one.high)
                for one in self.began.ranges
            ]
            done = sum(("range", task.number) in known for task in tasks)
            self.report(f"validating: {len(tasks)} key ranges of the source" + (f", {done} done before" * bool(done)))
            ranges = self._results(tasks, known, point)
            if not done and self._complete(ranges, before):
                return FullVerdict.of(ranges, None)
            slices = [CheckTask(self.attempt, "extras", number, scope) for number in range(point.slices)]
            self.report(f"validating: keys of {point.slices} shards that the source does not have")
            return FullVerdict.of(ranges, self._results(slices, known, point))

    def _results(
        self, tasks: Sequence[CheckTask], known: Mapping[tuple[Kind, int], CheckResult], point: PointInTime
    ) -> list[RangeVerdict]:
        """In the order of their numbers."""
        undone = [task for task in tasks if (task.kind, task.number) not in known]
        done = self.have_done(undone, point) if undone else ()
        results = [known[task.kind, task.number] for task in tasks if (task.kind, task.number) in known]
        return [RangeVerdict.from_dict(one.data) for one in sorted([*results, *done], key=lambda one: one.number)]

    def _complete(self, ranges: Sequence[RangeVerdict], before: int) -> bool:
        """Whether the index holds nothing but what was found in it: nobody has written to it meanwhile, and it has as
        many documents."""
        if any(one.pending for one in ranges):
            return False
        try:
            held = int(self.context.opensearch.count(index=self.context.plan.index)["count"])
        except TransportError as error:
            raise self._failure(error) from error
        return self._writes() == before and held == sum(one.found for one in ranges)

    def _writes(self) -> int:
        """A number that grows with every write to the index."""
        index = self.context.plan.index
        try:
            stats = self.context.opensearch.indices.stats(index=index, metric="docs", params={"level": "shards"})
        except TransportError as error:
            raise self._failure(error) from error
        copies = stats["indices"][index]["shards"].values()
        return sum(max(int(copy["seq_no"]["max_seq_no"]) for copy in shard) for shard in copies)

    def _failure(self, error: TransportError) -> ReshelveError:
        return refusal(error, "cannot read the index", self.context.plan.index)
