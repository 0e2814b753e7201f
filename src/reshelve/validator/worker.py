"""Does a task of a check. Blocking, one task at a time; knows nothing of Faust."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, Final

from reshelve.context import RunContext
from reshelve.errors import ReshelveError
from reshelve.model import partition_of
from reshelve.producers.snapshot import SnapshotReader
from reshelve.throttle import Throttle
from reshelve.validator.alignment import read_unsettled
from reshelve.validator.changed import ChangeLog
from reshelve.validator.compare import PartitionSums, Written, differing_buckets
from reshelve.validator.drift import judge_unsettled, list_drift
from reshelve.validator.excuse import Excuses
from reshelve.validator.findings import Findings
from reshelve.validator.full import FullComparison
from reshelve.validator.log import DocumentLog
from reshelve.validator.measure import KeySample, Sample, measure_target, measure_topic
from reshelve.validator.samples import SampleComparison
from reshelve.validator.source_keys import SourceKeys
from reshelve.validator.suspects import SuspectReader
from reshelve.validator.target import Check, PointInTime
from reshelve.validator.tasks import CheckResult, CheckTask, check_of
from reshelve.validator.verdict import PartitionVerdict, RangeVerdict
from reshelve.validator.waived import read_waived

_LISTED: Final = 100  # drifted keys of a key range: there are many
_log = logging.getLogger(__name__)


class CheckWorker:
    """Measures and judges for one run.

    check  called often; raises to end the task under way
    share  (held, of): this worker is given the tasks of `held` of the `of` partitions, and has that share of the limits
    """

    def __init__(
        self, context: RunContext, check: Check = lambda: None, share: Callable[[], tuple[int, int]] = lambda: (1, 1)
    ) -> None:
        self._context, self._check, self._share = context, check, share
        self._topic = context.run.topic("documents")
        self._tails: tuple[str, dict[bytes, list[Written]]] | None = None
        self._throttles: dict[float | None, Throttle] = {}
        self._waivers: tuple[str, frozenset[bytes]] | None = None
        self.name = f"{socket.gethostname()}/{os.getpid()}"

    def perform(self, task: CheckTask) -> CheckResult:
        """The result; what could not be done is a result too, with the error. Raises what `check` raises."""
        started = time.monotonic()
        data: dict[str, Any] = {}
        failure: dict[str, str] | None = None
        try:
            if task.kind != "range":
                self._point(task).touch()  # gone with the check that nobody waits for any more
            data = self._done(task)
        except ReshelveError as error:
            self._check()
            failure = error.as_dict()
        except Exception as error:  # noqa: BLE001 - the coordinator waits for an answer, and must learn the reason
            self._check()
            _log.exception("check %s: %s/%d failed", task.check, task.kind, task.number)
            failure = ReshelveError(
                f"the validator failed on {task.kind} {task.number}",
                where=self.name,
                why=f"{type(error).__name__}: {error}",
                remedy="see the validator's log; this is a fault of Reshelve",
            ).as_dict()
        seconds = time.monotonic() - started
        return CheckResult(task.check, task.kind, task.number, self.name, seconds, data, failure)

    def close(self) -> None:
        if "_source" in self.__dict__:
            self._source.close()

    def _done(self, task: CheckTask) -> dict[str, Any]:
        match task.kind:
            case "target":
                return self._target(task)
            case "partition":
                return self._partition(task).as_dict()
            case "range" | "extras":
                return self._full(task).as_dict()

    def _full(self, task: CheckTask) -> RangeVerdict:
        findings = Findings(self._context, check_of(task.check), self._check, waived=self._waived(task))
        excuses = Excuses(self._context, task.scope.live, self._check)
        comparison = FullComparison(
            self._context,
            self._source,
            excuses,
            findings,
            throttle=self._throttle(task.scope.rate),
            share=self._share,
            check=self._check,
        )
        if task.kind == "range":
            found = comparison.compare_range(task.number, task.low, task.high)
        else:
            found = comparison.find_extras(task.number, self._point(task))
        findings.close()
        return replace(found, drift=findings.counts, drifted=findings.listed[:_LISTED])

    def _target(self, task: CheckTask) -> dict[str, Any]:
        sums = measure_target(
            self._point(task),
            task.number,
            partitions=self._context.partitions,
            buckets=task.scope.buckets,
            unsettled=self._unsettled(task).keys(),
            check=self._check,
        )
        return {"sums": [part.encode() for part in sums]}

    def _partition(self, task: CheckTask) -> PartitionVerdict:
        scope, partitions = task.scope, self._context.partitions
        log = self._log(task)
        unsettled = self._unsettled_here(task)
        chosen = KeySample(scope.samples, f"{task.check}/{task.number}")
        measure = measure_topic(
            log,
            ChangeLog(self._context.cluster, self._context.run, task.number, partitions, self._check).changed_keys(),
            partitions=partitions,
            buckets=scope.buckets,
            unsettled=unsettled.keys(),
            samples=chosen,
        )
        topic = measure.sums
        target = None if task.target is None else PartitionSums.decode(task.target)
        findings = Findings(self._context, check_of(task.check), self._check, waived=self._waived(task))
        findings.watch(sample.key for sample in chosen.items)
        if target is not None:
            self._compare_versions(task, log, topic, target, measure.lower, unsettled, findings)
        samples = [sample for sample in chosen.items if sample.key not in findings.seen]
        pending = self._compare_samples(task, samples, findings) if samples else 0
        findings.close()
        documents = sum(not one.gone for candidates in unsettled.values() for one in candidates)
        return PartitionVerdict(
            partition=task.number,
            topic_documents=topic.documents,
            topic_checksum=f"{topic.checksum:016x}",
            target_documents=target.documents if target else None,
            counts_match=topic.counts == target.counts if target and scope.counts else None,
            checksums_match=topic.checksums == target.checksums if target and scope.checksums else None,
            unsettled=sum(map(bool, unsettled.values())),
            samples=len(chosen.items),
            drift=findings.counts,
            drifted=findings.listed,
            waived=findings.excused,
            pending=pending,
            end=log.end,
            version=log.version,
            page_records=measure.page_records,
            changed_records=measure.changed_records + documents,
        )

    def _compare_versions(
        self,
        task: CheckTask,
        log: DocumentLog,
        topic: PartitionSums,
        target: PartitionSums,
        lower: Mapping[bytes, Written],
        unsettled: Mapping[bytes, Sequence[Written]],
        findings: Findings,
    ) -> None:
        scope, point = task.scope, self._point(task)
        add = partial(findings.add, "checksums" if scope.checksums else "counts")
        differing = differing_buckets(topic, target, counts=scope.counts, checksums=scope.checksums)
        if differing:
            list_drift(log, point, add, buckets=scope.buckets, differing=differing, unsettled=unsettled.keys())
        judge_unsettled(point, add, lower=lower, candidates=unsettled, check=self._check)

    def _compare_samples(self, task: CheckTask, samples: Sequence[Sample], findings: Findings) -> int:
        """How many were not judged."""
        context = self._context
        keys = SourceKeys(self._source, context.plan.source.key)
        reader = SuspectReader(
            keys.documents,
            context.opensearch,
            context.plan.index,
            context.transform,
            Excuses(context, task.scope.live, self._check),
            self._check,
        )
        settled = task.scope.settled[task.number]
        drifted, pending = SampleComparison(context, task.number, settled, reader, self._check).compare(samples)
        for one in drifted:
            findings.add("samples", one.key, one.drift, one.expected, one.found)
        return pending

    def _log(self, task: CheckTask) -> DocumentLog:
        context, end = self._context, task.scope.settled[task.number]
        return DocumentLog(context.cluster, self._topic, task.number, context.partitions, end, self._check)

    def _unsettled(self, task: CheckTask) -> dict[bytes, list[Written]]:
        """Of all partitions; read once for a check. Waived keys are among them, without records: no sum tells whether
        one of them is in the index."""
        if self._tails is None or self._tails[0] != task.check:
            scope = task.scope
            found = read_unsettled(self._context, scope.settled, scope.written, self._check)
            self._tails = task.check, {key: [] for key in self._waived(task)} | found
        return self._tails[1]

    def _waived(self, task: CheckTask) -> frozenset[bytes]:
        """Read once for a check."""
        if self._waivers is None or self._waivers[0] != task.check:
            self._waivers = task.check, read_waived(self._context, task.scope.rejects)
        return self._waivers[1]

    def _unsettled_here(self, task: CheckTask) -> dict[bytes, list[Written]]:
        partitions = self._context.partitions
        return {k: c for k, c in self._unsettled(task).items() if partition_of(k, partitions) == task.number}

    def _throttle(self, rate: float | None) -> Throttle:
        """One for all tasks of a rate: what a task owes, the next one waits off."""
        if rate not in self._throttles:
            limits = self._context.spec.limits
            self._throttles = {rate: Throttle(rate or limits.documents_per_second, limits.megabytes_per_second)}
        return self._throttles[rate]

    @cached_property
    def _source(self) -> SnapshotReader:
        return self._context.snapshot_reader(f"{self._context.run.prefix}validator")

    def _point(self, task: CheckTask) -> PointInTime:
        return PointInTime(self._context.opensearch, task.scope.index, task.scope.pit, task.scope.slices)
