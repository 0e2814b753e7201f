"""The rejects of a run: written before their offsets are committed, read by whoever wants to know why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from reshelve.consumers.bulk import Stopped
from reshelve.kafka import KafkaCluster, header_items, refusal
from reshelve.model import RunId
from reshelve.reporter import Reporter
from reshelve.schemas.reject import Reject


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


def read_rejects(cluster: KafkaCluster, run: RunId) -> Iterator[Reject]:
    """Every reject of the run, oldest first; a redelivered document may be there more than once.

    Raises ReshelveError."""
    try:
        for message in cluster.read(run.topic("rejects"), [0]):
            yield Reject.of(message.key() or b"", message.value(), header_items(message))
    except KafkaException as error:
        raise refusal(error, "cannot read the rejects", cluster.bootstrap) from None


def count_rejects(cluster: KafkaCluster, run: RunId) -> int:
    """The number of rejected documents: distinct keys."""
    return len({reject.key for reject in read_rejects(cluster, run)})
