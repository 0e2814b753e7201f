"""Sends the tasks of a check, collects what the validators answer, and makes the verdict of it."""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import Final

from reshelve.consumers.rejects import read_ledger
from reshelve.context import RunContext
from reshelve.errors import BlockedError, ReshelveError, Unreachable
from reshelve.model import add_checksums
from reshelve.receipts import Tiling
from reshelve.validator.alignment import align
from reshelve.validator.channel import CheckChannel
from reshelve.validator.compare import Drift, PartitionSums, add_sums, buckets_for
from reshelve.validator.full_check import CheckBegan, FullCheck, check_name, plan_ranges
from reshelve.validator.levels import Levels
from reshelve.validator.target import PointInTime
from reshelve.validator.tasks import CheckResult, CheckTask, Scope
from reshelve.validator.verdict import FullVerdict, PartitionVerdict, Validation
from reshelve.validator.waived import rejects_end

TIMEOUT_S: Final = 6 * 3600.0
_QUIET_S: Final = 30.0  # without a result before the operator is told
_RESEND_S: Final = 120.0  # before unfinished tasks are sent again; doubled each time
_RESEND_RANGES_S: Final = 30.0  # the same of tasks that take a second
_PROGRESS_S: Final = 30.0
_AT_ONCE: Final = 4  # tasks for each partition of `checks`
_TOUCH_S: Final = 300.0  # well under the point in time's keep-alive
_RETRY_S: Final = 5.0

Report = Callable[[str], None]


def validate(
    context: RunContext,
    tiling: Tiling,
    *,
    levels: Levels | None = None,
    live: bool | None = None,
    began: CheckBegan | None = None,
    rate: float | None = None,
    timeout: float = TIMEOUT_S,
    report: Report = lambda text: None,
) -> Validation:
    """Have the run checked by whichever validators there are, for at most `timeout` seconds, while it goes on.

    levels  None: those of the spec
    live    the source's changes are followed now; None: if the plan follows them. Else whatever it has changed since is
            drift: nobody is about to read it
    began   what level "full" goes on with (`full_check.begin`); None: with nothing, nor can anybody go on with it
    rate    documents a second that level "full" may compare; None: as the run's limits say

    A difference is a result. What can't be checked is an error: BlockedError when no validator finishes in time, or
    what a validator could not do. While a server is away it waits, says so to `report`, and starts the check anew."""
    deadline = time.time() + timeout
    asked = levels or Levels.of(context.spec.validation)
    followed = context.plan.changes.followed if live is None else live
    while True:
        try:
            if asked.full and began is None:
                began = CheckBegan.now(asked.names, plan_ranges(context))
            return _Check(context, tiling, asked, followed, began, rate, deadline, report).run()
        except Unreachable as error:
            if time.time() + _RETRY_S > deadline:
                raise
            report(f"validation starts anew: {error}")
            time.sleep(_RETRY_S)


@dataclass(frozen=True)
class _Check:
    """One attempt: valid for one point in time of the index. Key ranges are of no attempt, but of the whole check."""

    context: RunContext
    tiling: Tiling
    levels: Levels
    live: bool
    began: CheckBegan | None
    rate: float | None
    deadline: float
    report: Report

    @cached_property
    def name(self) -> str:
        return self.began.check if self.began else check_name()

    @cached_property
    def attempt(self) -> str:
        """What its tasks are told by: a validator may still be at those of an attempt before."""
        return f"{self.name}/{secrets.token_hex(3)}"

    def run(self) -> Validation:
        started = time.monotonic()
        with CheckChannel(self.context, self.report) as channel:  # one for all: each takes a while to find its brokers
            verdicts = self._with_rejects(self._judge(channel)) if self.levels.topic else ()
            full = self._compare_all(channel, self.began) if self.levels.full and self.began else None
        return Validation(
            check=self.name,
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - started, 3),
            expected=self.tiling.documents,
            levels=self.levels.names,
            partitions=verdicts,
            faults=faults(verdicts, self.tiling) if verdicts else (),
            full=full,
        )

    def _judge(self, channel: CheckChannel) -> tuple[PartitionVerdict, ...]:
        """Counts, checksums and samples."""
        partitions = self.context.partitions
        with self._open_point() as (point, scope):
            texts: list[str | None] = [None] * partitions
            if scope.counts or scope.checksums:
                self.report(f"validating: counts and checksums of {point.slices} shards")
                slices = [CheckTask(self.attempt, "target", n, scope) for n in range(point.slices)]
                sums = _by_partition([one.data["sums"] for one in self._have_done(channel, slices, point)])
                texts = [one.encode() for one in sums]
            self.report(f"validating: {partitions} partitions against the index, {scope.samples} samples each")
            tasks = [CheckTask(self.attempt, "partition", n, scope, text) for n, text in enumerate(texts)]
            return tuple(PartitionVerdict.from_dict(one.data) for one in self._have_done(channel, tasks, point))

    def _compare_all(self, channel: CheckChannel, began: CheckBegan) -> FullVerdict:
        """Whole documents."""
        have_done = partial(self._have_done, channel)
        check = FullCheck(self.context, began, self.attempt, have_done, self._open_point, self.report)
        found = check.run()
        if not found.drift.get("missing"):
            return found
        return replace(found, rejected=_count_rejects(found.drifted, self._rejects))

    @contextmanager
    def _open_point(self) -> Iterator[tuple[PointInTime, Scope]]:
        aligned = align(self.context, self.report)
        point = aligned.point
        scope = Scope(
            expires=self.deadline,
            index=point.index,
            pit=point.id,
            slices=point.slices,
            settled=aligned.settled,
            written=aligned.written,
            live=self.live,
            buckets=buckets_for(self.context.partitions),
            counts=self.levels.counts,
            checksums=self.levels.checksums,
            samples=self.levels.samples,
            rejects=rejects_end(self.context),
            rate=self.rate,
        )
        try:
            yield point, scope
        finally:
            try:
                point.close()
            except ReshelveError as error:  # it expires by itself, and the verdict stands
                self.report(str(error))

    def _have_done(self, channel: CheckChannel, tasks: Sequence[CheckTask], point: PointInTime) -> list[CheckResult]:
        """The results of the tasks, all of one check and kind, in their order. Raises the first error of a validator.

        Few are sent at a time: what a coordinator that dies leaves behind is done before anything else."""
        check, kind, most = tasks[0].check, tasks[0].kind, _AT_ONCE * self.context.partitions
        later = deque(tasks)
        sent: dict[int, CheckTask] = {}
        done: dict[int, CheckResult] = {}
        touch, tell = _Timer(_TOUCH_S, 1), _Timer(_QUIET_S, 2)
        resend = _Timer(_RESEND_RANGES_S if kind == "range" else _RESEND_S, 2)
        progress = _Timer(_PROGRESS_S, 1)
        while later or sent:
            channel.send(_move(later, sent, most))
            result = channel.receive(1.0)
            # One that is not waited for is of an attempt before, and known, or comes a second time.
            if result is not None and (result.check, result.kind) == (check, kind) and result.number in sent:
                result.raise_error()
                done[result.number] = result
                del sent[result.number]
                tell.restart()
                resend.restart()
            if touch.due():
                point.touch()
            if progress.due() and done:
                self.report(f"validating: {len(done)} of {len(tasks)} tasks done")
            if tell.due():
                self.report(
                    f"no validator has finished a task for a while, {len(sent)} are open; is one running? "
                    f"`reshelve worker validator {self.context.run}` starts one"
                )
            if resend.due():  # a task that was done already costs the validator nothing
                channel.send(sent.values())
            if time.time() > self.deadline and sent:
                raise self._late(len(sent) + len(later))
        return [done[number] for number in sorted(done)]

    def _late(self, open_tasks: int) -> BlockedError:
        return BlockedError(
            "the validation was not finished in time",
            where=self.context.run.topic("checks"),
            why=f"{open_tasks} tasks have no result",
            remedy=f"start a validator with `reshelve worker validator {self.context.run}`, then validate again",
        )

    def _with_rejects(self, verdicts: tuple[PartitionVerdict, ...]) -> tuple[PartitionVerdict, ...]:
        """Rejects stay missing, but are told apart: they have another remedy."""
        if not any(verdict.drift.get("missing") for verdict in verdicts):
            return verdicts
        return tuple(replace(v, rejected=_count_rejects(v.drifted, self._rejects)) for v in verdicts)

    @cached_property
    def _rejects(self) -> frozenset[str]:
        return frozenset(one.key for one in read_ledger(self.context.cluster, self.context.run) if not one.resolution)


class _Timer:
    """Due `after` seconds from its start, and then again, each time after `factor` times as long."""

    def __init__(self, after: float, factor: float) -> None:
        self._after, self._factor = after, factor
        self.restart()

    def restart(self) -> None:
        self._since, self._wait = time.monotonic(), self._after

    def due(self) -> bool:
        if time.monotonic() - self._since < self._wait:
            return False
        self._since, self._wait = time.monotonic(), self._wait * self._factor
        return True


def _move(later: deque[CheckTask], sent: dict[int, CheckTask], most: int) -> list[CheckTask]:
    """Takes as many tasks as may be sent now from `later`."""
    moved = [later.popleft() for _ in range(min(most - len(sent), len(later)))]
    sent |= {task.number: task for task in moved}
    return moved


def _count_rejects(drifted: Sequence[tuple[str, Drift]], rejects: frozenset[str]) -> int:
    return sum(drift == "missing" and key in rejects for key, drift in drifted)


def _by_partition(slices: list[list[str]]) -> list[PartitionSums]:
    decoded = [[PartitionSums.decode(text) for text in texts] for texts in slices]
    return [add_sums(parts) for parts in zip(*decoded, strict=True)]


def faults(verdicts: Sequence[PartitionVerdict], tiling: Tiling) -> tuple[str, ...]:
    """What is wrong with the topic as a whole. Pure.

    Of the documents that the receipts count, those of keys never changed are in the topic once each; those of the
    others are some of those keys' records. Where no key was changed, this leaves one number, and the checksum must
    be that of the receipts: the proof that each key stands in the topic once. Where keys were changed, it is the
    index that proves it for the others, because that counts a key once."""
    pages = sum(verdict.page_records for verdict in verdicts)
    most = pages + sum(verdict.changed_records for verdict in verdicts)
    found = []
    if not pages <= tiling.documents <= most:
        held = f"{pages:,}" if pages == most else f"{pages:,} to {most:,}"
        found.append(f"the topic holds {held} documents of pages, the receipts {tiling.documents:,}")
    elif pages == most:
        checksum = add_checksums(int(verdict.topic_checksum, 16) for verdict in verdicts)
        if checksum != tiling.checksum:
            found.append("the checksum of the topic is not that of the receipts")
    twice = [
        v.partition for v in verdicts if False in (v.counts_match, v.checksums_match) and not any(v.drift.values())
    ]
    if twice:
        text = ", ".join(map(str, twice))
        found.append(f"partitions {text}: a document stands in the topic twice, and no key task names it")
    return tuple(found)
