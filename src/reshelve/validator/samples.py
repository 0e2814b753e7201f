"""Whole documents of sampled keys, source against index: what neither counts nor checksums can see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reshelve.context import RunContext
from reshelve.validator.compare import Drift, Reading, classify_changed, digest
from reshelve.validator.log import read_between
from reshelve.validator.measure import Sample
from reshelve.validator.suspects import ROUND_KEYS, Suspect, SuspectReader
from reshelve.validator.target import Check


@dataclass(frozen=True, slots=True)
class DriftedSample:
    """A sample that differs for certain. expected, found: versions, as in `model.DriftedKey`."""

    key: bytes
    drift: Drift
    expected: int | None
    found: int | None


@dataclass(frozen=True)
class SampleComparison:
    """The samples of one partition, read from both sides by `reader`.

    settled  offset up to which the topic was read for the samples"""

    context: RunContext
    partition: int
    settled: int
    reader: SuspectReader
    check: Check

    def compare(self, samples: Sequence[Sample]) -> tuple[list[DriftedSample], int]:
        """Those that differ, and how many were not judged because a change of theirs is under way.

        Raises Unreachable when a server is gone, else ReshelveError."""
        certain: list[Suspect] = []
        pending = 0
        for start in range(0, len(samples), ROUND_KEYS):
            found = self.reader.read([sample.key for sample in samples[start : start + ROUND_KEYS]])
            certain += found.certain
            pending += found.pending
        if not certain:
            return [], pending
        keys = {one.key for one in certain}
        topic = self._newest([sample for sample in samples if sample.key in keys])
        return [_drifted(one, topic[one.key]) for one in certain], pending

    def _newest(self, samples: Sequence[Sample]) -> dict[bytes, Reading]:
        """What the topic has of the keys by now."""
        newest = {sample.key: _reading(sample.version, sample.document) for sample in samples}
        topic, partitions = self.context.run.topic("documents"), self.context.partitions
        cluster, starts = self.context.cluster, {self.partition: self.settled}
        ends = cluster.stable_ends(topic, partitions)
        for key, _, version, document in read_between(cluster, topic, starts, ends, partitions, self.check):
            if key in newest and version > newest[key].version:
                newest[key] = _reading(version, document)
        return newest


def _reading(version: int, document: bytes | None) -> Reading:
    return Reading(version, None if document is None else digest(document))


def _drifted(one: Suspect, topic: Reading) -> DriftedSample:
    drift = classify_changed(one.target, topic) if one.difference == "changed" and one.target else one.difference
    assert drift != "changed"
    found = None if one.target is None else one.target.version
    # A source that has moved on says nothing of versions.
    known = drift != "extra" and topic.digest is not None and not (drift == "stale" and found == topic.version)
    return DriftedSample(one.key, drift, topic.version if known else None, found)
