"""The journal: one topic for all runs, kept for ever, each entry with the hash of the run's entry before.

Status, the list of runs and resuming are derived from it and from nothing else.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from confluent_kafka import KafkaException, Producer

from reshelve.errors import AccessRefused, BlockedError, LeaseHeld, Unreachable
from reshelve.kafka import KafkaCluster, refusal
from reshelve.kafka_errors import bounded
from reshelve.model import JOURNAL_TOPIC, RunId
from reshelve.redaction import redact_facts
from reshelve.schemas.codec import EVENT, CodecError

PLANNED: Final = "planned"
APPROVED: Final = "approved"
APPROVAL_USED: Final = "approval_used"
_AS_IT_IS: Final = frozenset({PLANNED, APPROVED, APPROVAL_USED})
_MAX_EVENT_BYTES: Final = 8 * 1024 * 1024
_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Event:
    """An entry. `at` is ISO 8601 UTC; `hash` is the SHA-256 of all other fields, `previous` the hash of the
    run's entry before, empty in its first."""

    run: str
    sequence: int
    at: str
    kind: str
    data: Mapping[str, Any]
    previous: str
    hash: str

    @classmethod
    def after(cls, last: Event | None, run: RunId, kind: str, data: Mapping[str, Any], at: datetime) -> Event:
        """The entry that follows `last`. Secrets in `data` are masked before anything is hashed.

        A plan is taken as it is: it refers to its secrets by name, a run can't go on without those names, and
        a password that is also a word of the plan ("postgres") would spoil it. So is an approval, of which a signature
        covers every byte, and which holds names and identifiers only."""
        masked = json.loads(json.dumps(data, ensure_ascii=False, default=str))
        if kind not in _AS_IT_IS:
            masked = redact_facts(masked)
        sequence, previous = (0, "") if last is None else (last.sequence + 1, last.hash)
        event = cls(str(run), sequence, at.isoformat(timespec="milliseconds"), kind, masked, previous, "")
        return cls(event.run, sequence, event.at, kind, masked, previous, event.digest())

    def digest(self) -> str:
        """SHA-256 over the canonical JSON of every field but the hash, in hexadecimal."""
        fields = [self.run, self.sequence, self.at, self.kind, self.data, self.previous]
        return hashlib.sha256(
            json.dumps(fields, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
        ).hexdigest()

    def encode(self) -> bytes:
        return EVENT.encode(
            {
                "run": self.run,
                "sequence": self.sequence,
                "at": self.at,
                "kind": self.kind,
                "data": json.dumps(self.data, ensure_ascii=False),
                "previous": self.previous,
                "hash": self.hash,
            }
        )

    @classmethod
    def decode(cls, record: bytes) -> Event:
        """Raises CodecError."""
        fields = EVENT.decode(record)
        return cls(**{**fields, "data": json.loads(fields["data"])})


def chain_faults(events: Iterable[Event]) -> list[str]:
    """What is wrong with the chain of one run's entries, in order; empty when it is whole."""
    faults: list[str] = []
    last: Event | None = None
    for event in events:
        place = f"{event.run} entry {event.sequence} ({event.kind})"
        if event.hash != event.digest():
            faults.append(f"{place} was changed")
        if event.sequence != (0 if last is None else last.sequence + 1):
            faults.append(f"{place} does not follow entry {'none' if last is None else last.sequence}")
        elif event.previous != ("" if last is None else last.hash):
            faults.append(f"{place} names another entry before it")
        last = event
    return faults


def read_journal(cluster: KafkaCluster, *, reindex: str | None = None, run: RunId | None = None) -> Iterator[Event]:
    """The entries of one run, of one reindex or of all, in order, as they are read. None when there is no journal yet.

    Raises ReshelveError when Kafka does not answer, BlockedError when an entry can't be read."""
    if JOURNAL_TOPIC not in cluster.topics(JOURNAL_TOPIC):
        return
    for message in cluster.read(JOURNAL_TOPIC, [0]):
        key = (message.key() or b"").decode(errors="replace")
        if (run is not None and key != str(run)) or (reindex is not None and key.rpartition(".")[0] != reindex):
            continue
        try:
            event = Event.decode(message.value() or b"")
        except CodecError as error:
            raise BlockedError(
                f"entry {message.offset()} of the journal can't be read",
                where=f"{cluster.bootstrap}/{JOURNAL_TOPIC}",
                why=str(error),
                remedy="something else wrote to the journal, or a newer release did: use that release",
            ) from None
        yield event


class JournalWriter:
    """Appends entries to a run. There is one writer for each reindex: opening one fences the one before.

    shared        of a run that has completed, and is followed: its follower and the commands that look after it write
                  by turns, beside the writer of a newer run; the fence is the run's own, and who was fenced reads the
                  end anew and goes on
    still_leader  asked before a writer that lost its connection fences anybody again: False while that can't be
                  told; raises LeaseHeld when another process drives the reindex
    waiting       told why, while the brokers don't answer; True when told to stop meanwhile
    """

    def __init__(
        self,
        cluster: KafkaCluster,
        run: RunId,
        *,
        shared: bool = False,
        still_leader: Callable[[], bool] = lambda: True,
        waiting: Callable[[str], bool] | None = None,
    ) -> None:
        self._cluster, self._run, self._shared = cluster, run, shared
        self._still_leader = still_leader
        self._waiting = waiting or (lambda _reason: False)
        self._producer: Producer | None = None
        self._last: Event | None = None
        self._known: frozenset[str] = frozenset()  # hashes of the entries at the last opening

    def append(self, kind: str, data: Mapping[str, Any] | None = None) -> Event:
        """Append an entry; it is durable when this returns.

        Raises LeaseHeld when another process has taken the reindex over, AccessRefused."""
        event: Event | None = None
        while True:
            try:
                producer = self._open(event)
                if event is not None and event.hash in self._known:
                    return event  # it had arrived; only the answer was lost
                event = Event.after(self._last, self._run, kind, data or {}, datetime.now(UTC))
                producer.begin_transaction()
                producer.produce(JOURNAL_TOPIC, event.encode(), key=event.run, partition=0)
                bounded(lambda: producer.commit_transaction(_TIMEOUT_S), _TIMEOUT_S)  # noqa: B023 - waited for here
            except (KafkaException, Unreachable) as error:
                # Fenced is no proof of a successor: the brokers also fence a transaction that outlived its timeout.
                self._producer = None
                self._await_leadership(kind, error)
            else:
                self._last = event
                return event

    def _await_leadership(self, kind: str, error: KafkaException | Unreachable) -> None:
        """Wait until the brokers answer, and say that the reindex is still ours."""
        what, where = f"cannot write the journal entry {kind}", self._cluster.bootstrap
        refused = refusal(error, what, where) if isinstance(error, KafkaException) else error
        if refused.code == AccessRefused.code:
            raise refused from None
        while True:
            if self._waiting(f"Kafka ({where}): {refused.why}"):
                raise BlockedError(what, where=where, why=refused.why, remedy="see that the brokers run") from None
            time.sleep(0.5)
            if self._still_leader():
                return

    def _open(self, pending: Event | None) -> Producer:
        """The producer. `pending` is the entry of which it is not known whether it arrived."""
        if self._producer is None:
            producer = self._cluster.producer(
                {
                    "transactional.id": f"reshelve.{self._run if self._shared else self._run.reindex}.control",
                    "transaction.timeout.ms": 10_000,
                    "message.max.bytes": _MAX_EVENT_BYTES,
                }
            )
            bounded(lambda: producer.init_transactions(_TIMEOUT_S), _TIMEOUT_S)
            # Only now: nobody who was writer before can append any more.
            events = list(read_journal(self._cluster, run=self._run))
            if self._last is not None and not self._shared:
                added = {event.hash for event in events if event.sequence > self._last.sequence}
                if added - ({pending.hash} if pending is not None else set()):
                    raise self._taken_over("it has written to the journal since we did")
            self._last = events[-1] if events else None
            self._known = frozenset(event.hash for event in events)
            self._producer = producer
        return self._producer

    def _taken_over(self, why: str) -> LeaseHeld:
        return LeaseHeld(
            f"another process has taken over the reindex {self._run.reindex}",
            where=self._cluster.bootstrap,
            why=why,
            remedy=f"see `reshelve status {self._run}`; this process has stopped and left the run to it",
        )


def create_journal(cluster: KafkaCluster, replication_factor: int | None) -> None:
    """Create the journal's topic where there is none. Raises ReshelveError."""
    config = {
        "cleanup.policy": "delete",
        "retention.ms": "-1",
        "retention.bytes": "-1",
        "max.message.bytes": str(_MAX_EVENT_BYTES),
    }
    if JOURNAL_TOPIC not in cluster.topics(JOURNAL_TOPIC):
        cluster.create_topic(JOURNAL_TOPIC, 1, config, replication_factor)
