"""The rejects of a run: written before their offsets are committed, read by whoever wants to know why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from reshelve.consumers.bulk import Stopped
from reshelve.consumers.reject_ledger import RejectLedger
from reshelve.kafka import KafkaCluster, header_items, refusal
from reshelve.model import RunId
from reshelve.reporter import Reporter
from reshelve.schemas.reject import Reject, Resolution, read_record

_FLUSH_S: Final = 5.0


class RejectWriter:
    """Writes rejects durably: when `write` returns, the brokers have them."""

    def __init__(self, cluster: KafkaCluster, run: RunId, max_document_bytes: int, reporter: Reporter) -> None:
        self._topic, self._where = run.topic("rejects"), cluster.bootstrap
        self._reporter = reporter
        # No timeout of its own: while the brokers are away, whoever is told why decides how long to wait.
        self._producer: Producer = cluster.producer(
            {"message.max.bytes": max_document_bytes + 64 * 1024, "message.timeout.ms": 0}
        )
        self._errors: list[KafkaError] = []

    def write(self, rejects: Iterable[Reject]) -> None:
        """Waits while the brokers are away. Raises ReshelveError when they refuse one, Stopped."""
        for reject in rejects:
            self._producer.produce(
                self._topic, reject.document, reject.key.encode(), headers=reject.headers(), on_delivery=self._delivered
            )
        waited = False
        while left := self._producer.flush(1.0):
            waited = True
            if self._reporter.pause(f"Kafka ({self._where}): {left} rejects are not acknowledged", 0):
                raise Stopped
        if waited:
            self._reporter.waiting("")
        if self._errors:
            error = self._errors.pop()
            self._errors.clear()
            raise refusal(error, "cannot write rejects", self._where)

    def _delivered(self, error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            self._errors.append(error)


def read_rejects(
    cluster: KafkaCluster, run: RunId, start: int = 0, end: int | None = None
) -> Iterator[tuple[Reject | Resolution, int, int]]:
    """Every record of `rejects` from an offset on and before another (None: as far as it goes), oldest first, with when
    it was written (milliseconds since 1970 UTC) and its offset. A redelivered document may be there more than once.

    Raises ReshelveError."""
    topic = run.topic("rejects")
    try:
        for message in cluster.read(topic, [0], starts={0: start}, ends=None if end is None else {0: end}):
            record = read_record(message.key() or b"", message.value(), header_items(message))
            yield record, message.timestamp()[1], message.offset() or 0
    except KafkaException as error:
        raise refusal(error, "cannot read the rejects", cluster.bootstrap) from None


def read_ledger(cluster: KafkaCluster, run: RunId, end: int | None = None) -> RejectLedger:
    """The newest word about each rejected key, before an offset of `rejects`. Raises ReshelveError."""
    ledger = RejectLedger()
    for record, at, place in read_rejects(cluster, run, end=end):
        ledger.take(record, at, place)
    return ledger


def write_resolutions(
    cluster: KafkaCluster, run: RunId, resolutions: Iterable[Resolution], waiting: Callable[[str], None]
) -> None:
    """Returns when the brokers have them. `waiting` is told what it waits for, and ends it by raising.

    Raises ReshelveError."""
    failures: list[KafkaError] = []
    producer = cluster.producer({"message.timeout.ms": 0})
    for one in resolutions:
        producer.produce(
            run.topic("rejects"), None, one.key.encode(), headers=one.headers(),
            on_delivery=lambda error, _: failures.append(error) if error else None,
        )  # fmt: skip
    while left := producer.flush(_FLUSH_S):
        waiting(f"Kafka ({cluster.bootstrap}): {left} resolutions of rejects are not acknowledged")
    if failures:
        raise refusal(failures[0], "cannot write resolutions of rejects", cluster.bootstrap)
