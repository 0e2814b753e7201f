"""Sends the tasks of a check, collects what the validators answer, and makes the verdict of it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from reshelve.consumers.rejects import read_ledger
from reshelve.context import RunContext
from reshelve.errors import BlockedError, ReshelveError, Unreachable
from reshelve.model import add_checksums
from reshelve.receipts import Tiling
from reshelve.validator.alignment import align
from reshelve.validator.channel import CheckChannel
from reshelve.validator.compare import PartitionSums, add_sums, buckets_for
from reshelve.validator.levels import Levels
from reshelve.validator.target import PointInTime
from reshelve.validator.tasks import CheckResult, CheckTask, Scope
from reshelve.validator.verdict import PartitionVerdict, Validation

TIMEOUT_S: Final = 6 * 3600.0
_QUIET_S: Final = 30.0  # without a result before the operator is told
_RESEND_S: Final = 120.0  # before unfinished tasks are sent again; doubled each time
_TOUCH_S: Final = 300.0  # well under the point in time's keep-alive
_RETRY_S: Final = 5.0

Report = Callable[[str], None]


def validate(
    context: RunContext,
    tiling: Tiling,
    *,
    levels: Levels | None = None,
    live: bool | None = None,
    timeout: float = TIMEOUT_S,
    report: Report = lambda text: None,
) -> Validation:
    """Have the run checked by whichever validators there are, for at most `timeout` seconds, while it goes on.

    levels  None: those of the spec
    live    the source's changes are followed now; None: if the plan follows them. Else whatever it has changed since is
            drift: nobody is about to read it

    A difference is a result. What can't be checked is an error: BlockedError when no validator finishes in time, or
    what a validator could not do. While a server is away it waits, says so to `report`, and starts the check anew."""
    deadline = time.time() + timeout
    asked = levels or Levels.of(context.spec.validation)
    followed = context.plan.changes.followed if live is None else live
    while True:
        check = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
        try:
            return _Check(context, tiling, asked, followed, check, deadline, report).run()
        except Unreachable as error:
            if time.time() + _RETRY_S > deadline:
                raise
            report(f"validation starts anew: {error}")
            time.sleep(_RETRY_S)


@dataclass(frozen=True)
class _Check:
    """One attempt: valid for one point in time of the index."""

    context: RunContext
    tiling: Tiling
    levels: Levels
    live: bool
    name: str
    deadline: float
    report: Report

    def run(self) -> Validation:
        started = time.monotonic()
        verdicts = self._with_rejects(self._judge()) if self.levels.topic else ()
        return Validation(
            check=self.name,
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - started, 3),
            expected=self.tiling.documents,
            levels=self.levels.names,
            partitions=verdicts,
            faults=faults(verdicts, self.tiling) if verdicts else (),
        )

    def _judge(self) -> tuple[PartitionVerdict, ...]:
        """Counts, checksums and samples."""
        partitions = self.context.partitions
        with self._open_point() as (point, scope):
            texts: list[str | None] = [None] * partitions
            if scope.counts or scope.checksums:
                self.report(f"validating: counts and checksums of {point.slices} shards")
                slices = [CheckTask(self.name, "target", n, scope) for n in range(point.slices)]
                sums = _by_partition([one.data["sums"] for one in self._have_done(slices, point)])
                texts = [one.encode() for one in sums]
            self.report(f"validating: {partitions} partitions against the index, {scope.samples} samples each")
            tasks = [CheckTask(self.name, "partition", n, scope, text) for n, text in enumerate(texts)]
            return tuple(PartitionVerdict.from_dict(one.data) for one in self._have_done(tasks, point))

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
        )
        try:
            yield point, scope
        finally:
            try:
                point.close()
            except ReshelveError as error:  # it expires by itself, and the verdict stands
                self.report(str(error))

    def _have_done(self, tasks: Sequence[CheckTask], point: PointInTime) -> list[CheckResult]:
        """The results of the tasks, all of one kind, in their order. Raises the first error of a validator."""
        kind = tasks[0].kind
        waiting = {task.number: task for task in tasks}
        done: dict[int, CheckResult] = {}
        touch, tell, resend = _Timer(_TOUCH_S, 1), _Timer(_QUIET_S, 2), _Timer(_RESEND_S, 2)
        with CheckChannel(self.context, self.report) as channel:
            channel.send(waiting.values())
            while waiting:
                result = channel.receive(1.0)
                if result is not None and (result.check, result.kind) == (self.name, kind):
                    result.raise_error()
                    done[result.number] = result
                    waiting.pop(result.number, None)
                    tell.restart()
                    resend.restart()
                if touch.due():
                    point.touch()
                if tell.due():
                    self.report(
                        f"no validator has finished a task for a while, {len(waiting)} are open; is one running? "
                        f"`reshelve worker validator {self.context.run}` starts one"
                    )
                if resend.due():  # a task that was done already costs the validator nothing
                    channel.send(waiting.values())
                if time.time() > self.deadline and waiting:
                    raise self._late(len(waiting))
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
        rejects = {one.key for one in read_ledger(self.context.cluster, self.context.run)}
        return tuple(
            replace(v, rejected=sum(drift == "missing" and key in rejects for key, drift in v.drifted))
            for v in verdicts
        )


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
