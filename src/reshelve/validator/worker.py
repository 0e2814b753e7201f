"""Does a task of a check. Blocking, one task at a time; knows nothing of Faust."""

from __future__ import annotations

import logging
import os
import socket
import time
from functools import cached_property
from typing import Any

from reshelve.context import RunContext
from reshelve.errors import ReshelveError
from reshelve.producers.snapshot import SnapshotReader
from reshelve.validator.changed import ChangeLog
from reshelve.validator.compare import PartitionSums, classify, differing_buckets
from reshelve.validator.drift import LISTED, DriftedKeys, list_drift
from reshelve.validator.log import DocumentLog
from reshelve.validator.measure import KeySample, Sample, bucket_of, measure_target, measure_topic
from reshelve.validator.samples import DriftedSample, SampleComparison
from reshelve.validator.target import Check, PointInTime
from reshelve.validator.tasks import CheckResult, CheckTask
from reshelve.validator.verdict import PartitionVerdict, RangeVerdict, merge_drift

_log = logging.getLogger(__name__)


class CheckWorker:
    """Measures and judges for one run. `check` is called often, and raises to end the task under way."""

    def __init__(self, context: RunContext, check: Check = lambda: None) -> None:
        self._context, self._check = context, check
        self._topic = context.run.topic("documents")
        self.name = f"{socket.gethostname()}/{os.getpid()}"

    def perform(self, task: CheckTask) -> CheckResult:
        """The result; what could not be done is a result too, with the error. Raises what `check` raises."""
        started = time.monotonic()
        data: dict[str, Any] = {}
        failure: dict[str, str] | None = None
        try:
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
        """To become, with `FullComparison` of validator/full.py:

        comparison = FullComparison(self._context, self._source, excuses, findings, self._check)
        range: comparison.compare_range(task.number, task.low, task.high)
        extras: comparison.find_extras(task.number, self._point(task))
        """
        raise NotImplementedError(task.kind)

    def _target(self, task: CheckTask) -> dict[str, Any]:
        sums = measure_target(
            self._point(task),
            task.number,
            partitions=self._context.partitions,
            buckets=task.scope.buckets,
            check=self._check,
        )
        return {"sums": [part.encode() for part in sums]}

    def _partition(self, task: CheckTask) -> PartitionVerdict:
        context, changes = self._context, self._changes(task)
        log = DocumentLog(
            context.cluster, self._topic, task.number, context.partitions, task.scope.settled[task.number], self._check
        )
        chosen = KeySample(task.scope.samples, f"{task.check}/{task.number}")
        measure = measure_topic(
            log,
            changes.changed_keys(),
            partitions=context.partitions,
            buckets=task.scope.buckets,
            samples=chosen,
        )
        topic = measure.sums
        target = None if task.target is None else PartitionSums.decode(task.target)
        differing = self._differing(task, topic, target)
        keys = self._list_drift(task, log, differing) if differing else DriftedKeys({}, ())
        suspects = [one for one in self._compare(chosen.items) if not self._listed(one, task, differing)]
        found = self._not_pending(suspects, changes)
        by_sample = merge_drift({one.drift: 1} for one in found)
        drifted = [*keys.listed, *((one.sample.key.decode("utf-8", "replace"), one.drift) for one in found)]
        return PartitionVerdict(
            partition=task.number,
            topic_documents=topic.documents,
            topic_checksum=f"{topic.checksum:016x}",
            target_documents=target.documents if target else None,
            counts_match=topic.counts == target.counts if target and task.scope.counts else None,
            checksums_match=topic.checksums == target.checksums if target and task.scope.checksums else None,
            samples=len(chosen.items),
            drift=merge_drift((keys.counts, by_sample)),
            drifted=tuple(drifted[:LISTED]),
            pending=len(suspects) - len(found),
            end=task.scope.settled[task.number],
            version=log.version,
            page_records=measure.page_records,
            changed_records=measure.changed_records,
        )

    def _changes(self, task: CheckTask) -> ChangeLog:
        return ChangeLog(self._context.cluster, self._context.run, task.number, self._context.partitions, self._check)

    def _differing(self, task: CheckTask, topic: PartitionSums, target: PartitionSums | None) -> frozenset[int]:
        if target is None:
            return frozenset()
        return differing_buckets(topic, target, counts=task.scope.counts, checksums=task.scope.checksums)

    def _list_drift(self, task: CheckTask, log: DocumentLog, differing: frozenset[int]) -> DriftedKeys:
        return list_drift(log, self._point(task), buckets=task.scope.buckets, differing=differing)

    def _not_pending(self, suspects: list[DriftedSample], changes: ChangeLog) -> list[DriftedSample]:
        """Those whose difference no key task explains that is still to be done."""
        if not suspects or not self._context.plan.changes.followed:
            return suspects
        keys = frozenset(one.sample.key for one in suspects)
        pending = changes.pending(keys, max(one.source_version for one in suspects))
        return [one for one in suspects if one.sample.key not in pending]

    def _compare(self, samples: list[Sample]) -> list[DriftedSample]:
        if not samples:
            return []
        comparison = SampleComparison(
            self._source,
            len(self._context.plan.source.key),
            self._context.transform,
            self._context.opensearch,
            self._context.plan.index,
        )
        return comparison.compare(samples, self._check)

    def _listed(self, one: DriftedSample, task: CheckTask, differing: frozenset[int]) -> bool:
        """Whether the drift of a sample was found by its version already: a key counts once."""
        _, bucket = bucket_of(one.sample.key, self._context.partitions, task.scope.buckets)
        version = one.sample.version if one.sample.document is not None else None
        return bucket in differing and classify(version, one.target_version) is not None

    @cached_property
    def _source(self) -> SnapshotReader:
        return self._context.snapshot_reader(f"{self._context.run.prefix}validator")

    def _point(self, task: CheckTask) -> PointInTime:
        return PointInTime(self._context.opensearch, task.scope.index, task.scope.pit, task.scope.slices)
