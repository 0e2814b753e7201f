"""Of what class a document is that both sides have and that differs: the topic knows what was read for it, and when."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from reshelve.context import RunContext
from reshelve.model import partition_of
from reshelve.validator.compare import Drift, Reading, digest
from reshelve.validator.log import DocumentLog, LogRecord
from reshelve.validator.suspects import Suspect
from reshelve.validator.target import Check

_NEVER: Final = -1


@dataclass(frozen=True, slots=True)
class Classified:
    """A drifted key, with its versions as in `DriftedKey`."""

    key: bytes
    drift: Drift
    expected: int | None
    found: int | None


@dataclass(slots=True)
class _Track:
    """What the topic has of a key. same: the digest of its record at the version that the index has; None: no document;
    known: there is such a record."""

    newest: int = _NEVER
    gone: bool = True
    known: bool = False
    same: bytes | None = None


def classify_changed(records: Iterable[LogRecord], targets: Mapping[bytes, Reading]) -> Iterator[Classified]:
    """Pure. `targets` are the documents of the index that are not what the source says; the records those of the topic.

    foreign    of a version that the topic does not have
    stale      of an older version than the newest; or what was read last, and the source says something else by now
    different  of the newest version, and not what was read"""
    tracks = {key: _Track() for key in targets}
    for key, _, version, document in records:
        track = tracks.get(key)
        if track is None:
            continue
        if version >= track.newest:
            track.newest, track.gone = version, document is None
        if version == targets[key].version:
            track.known, track.same = True, None if document is None else digest(document)
    for key, track in tracks.items():
        target = targets[key]
        drift: Drift = "stale"
        if not track.known:
            drift = "foreign"
        elif target.version == track.newest and target.digest != track.same:
            drift = "different"
        yield Classified(key, drift, None if track.gone else track.newest, target.version)


class TopicTrace:
    """The run's topic `documents`. A partition is read from its beginning for all suspects of it at once, and only
    where there are any."""

    def __init__(self, context: RunContext, check: Check) -> None:
        self._context, self._check = context, check

    def classify(self, suspects: Sequence[Suspect]) -> Iterator[Classified]:
        """Each suspect with its class. Raises ReshelveError."""
        changed: dict[int, dict[bytes, Reading]] = defaultdict(dict)
        for one in suspects:
            if one.difference == "changed":
                assert one.target is not None
                changed[partition_of(one.key, self._context.partitions)][one.key] = one.target
            else:
                yield Classified(one.key, one.difference, None, one.target.version if one.target else None)
        if changed:
            topic = self._context.run.topic("documents")
            ends = self._context.cluster.stable_ends(topic, self._context.partitions)
            for partition, targets in changed.items():
                log = DocumentLog(
                    self._context.cluster, topic, partition, self._context.partitions, ends[partition], self._check
                )
                yield from classify_changed(log, targets)
