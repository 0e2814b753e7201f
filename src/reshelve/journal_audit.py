"""Whether the journal is what was written: each run's chain of hashes, and heads that were kept elsewhere.

A chain shows an entry that was changed, removed or put elsewhere, but not that its end was cut off, or that all of it
was written anew by somebody who computes the hashes. That takes its head, kept where the journal's writers can't reach:
a run whose chain doesn't hold the anchored head any more was cut or rewritten."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from reshelve.errors import UsageError
from reshelve.journal import Event, chain_faults
from reshelve.kafka import KafkaCluster
from reshelve.model import JOURNAL_TOPIC
from reshelve.schemas.codec import CodecError

ANCHOR_NAMESPACE: Final = "reshelve-journal@1"
"""Of the signatures of heads."""


@dataclass(frozen=True, slots=True)
class Record:
    """A record of the journal's topic, as it lies there."""

    offset: int
    key: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Head:
    """The last entry of a run: its number, its hash, and when it was written (ISO 8601 UTC)."""

    sequence: int
    hash: str
    at: str


@dataclass(frozen=True, slots=True)
class Audit:
    """What was found. chains: the hashes of each run's entries, in the order in which they lie; heads: their last."""

    entries: int = 0
    heads: Mapping[str, Head] = field(default_factory=dict)
    chains: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    faults: tuple[str, ...] = ()


def read_records(cluster: KafkaCluster) -> tuple[list[Record], int]:
    """Every record of the journal, and the offset at which it begins now; nothing when there is none.

    Raises ReshelveError."""
    if JOURNAL_TOPIC not in cluster.topics(JOURNAL_TOPIC):
        return [], 0
    first = cluster.begins(JOURNAL_TOPIC, 1)[0]
    records = [
        Record(message.offset() or 0, (message.key() or b"").decode(errors="replace"), message.value() or b"")
        for message in cluster.read(JOURNAL_TOPIC, [0])
    ]
    return records, first


def audit(records: Iterable[Record], first: int = 0, *, reindex: str | None = None) -> Audit:
    """Check the chain of every run, or of those of one reindex. `first`: the topic's first offset; the journal is kept
    for ever, so it is 0. Pure."""
    faults = [f"the journal begins at offset {first}: what was before is removed"] if first else []
    runs: dict[str, list[Event]] = {}
    for record in records:
        if reindex is not None and record.key.rpartition(".")[0] != reindex:
            continue
        try:
            event = Event.decode(record.value)
        except (CodecError, ValueError) as error:
            faults.append(f"the record at offset {record.offset} is no entry: {error}")
            continue
        if event.run != record.key:
            faults.append(f"the record at offset {record.offset} has key {record.key}, and is an entry of {event.run}")
        runs.setdefault(event.run, []).append(event)
    for events in runs.values():
        faults += chain_faults(events)
    return Audit(
        entries=sum(map(len, runs.values())),
        heads={run: Head(events[-1].sequence, events[-1].hash, events[-1].at) for run, events in runs.items()},
        chains={run: tuple(event.hash for event in events) for run, events in runs.items()},
        faults=tuple(faults),
    )


def anchor_text(found: Audit, cluster_id: str, now: datetime) -> str:
    """The heads as text, to be kept elsewhere."""
    facts: dict[str, Any] = {
        "v": 1,
        "kafka": cluster_id,
        "at": now.astimezone(UTC).isoformat(timespec="seconds"),
        "heads": {run: asdict(head) for run, head in sorted(found.heads.items())},
    }
    return json.dumps(facts, ensure_ascii=False, indent=2) + "\n"


@dataclass(frozen=True, slots=True)
class Anchor:
    """Heads that were kept: of which cluster, when, and by run."""

    kafka: str
    at: str
    heads: Mapping[str, Head]

    @classmethod
    def parse(cls, text: str | bytes) -> Anchor:
        """Raises UsageError."""
        try:
            facts = json.loads(text)
            if facts["v"] != 1:
                raise ValueError(f"version {facts['v']}")
            return cls(facts["kafka"], facts["at"], {run: Head(**head) for run, head in facts["heads"].items()})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            remedy = "write it with `reshelve journal heads --output FILE`"
            raise UsageError("these are no heads of the journal", why=f"{error}", remedy=remedy) from None


def anchor_faults(found: Audit, anchor: Anchor, cluster_id: str, *, reindex: str | None = None) -> Iterator[str]:
    """Where the journal does not hold what it held when the heads were written. Pure."""
    if anchor.kafka != cluster_id:
        yield f"the heads are those of another Kafka cluster ({anchor.kafka}, this one is {cluster_id})"
        return
    for run, head in anchor.heads.items():
        if reindex is not None and run.rpartition(".")[0] != reindex:
            continue
        chain = found.chains.get(run, ())
        if not chain:
            yield f"{run} is gone: it had {head.sequence + 1} entries at {anchor.at}"
        elif len(chain) <= head.sequence:
            yield f"{run} was cut: it has {len(chain)} entries, and had {head.sequence + 1} at {anchor.at}"
        elif chain[head.sequence] != head.hash:
            yield f"{run} was rewritten: its entry {head.sequence} is not the one of {anchor.at}"
