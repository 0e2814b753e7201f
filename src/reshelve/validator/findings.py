"""The drifted keys that a task finds: counted, the first of them listed, all of them written to the topic `drift`."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from confluent_kafka import KafkaError, KafkaException, Producer

from reshelve.context import RunContext
from reshelve.kafka import refusal
from reshelve.model import DriftedKey
from reshelve.producers.shaping import produce_when_free
from reshelve.schemas.codec import encode_drifted_key
from reshelve.validator.compare import DRIFT_CLASSES, Drift
from reshelve.validator.target import Check
from reshelve.validator.waived import is_excused

LISTED: Final = 1_000
_LISTED_BYTES: Final = 300_000  # of keys: a result must fit a record of 1 MB
_STEP: Final = 1_000  # keys between two looks at `check`
_FLUSH_S: Final = 1.0
_GIVE_UP_MS: Final = 60_000


class Findings:
    """The drifted keys of one task of `check_name`, each at one level once; but for those that a waiver covers.

    A key is written at least once: a task that is done again writes it again, and so do two levels that find it.
    Not thread-safe; `check` is called often, and raises to end the work."""

    def __init__(
        self,
        context: RunContext,
        check_name: str,
        check: Check = lambda: None,
        *,
        waived: Collection[bytes] = frozenset(),
    ) -> None:
        self._context, self._name, self._check = context, check_name, check
        self._waived = waived
        self._excused: set[bytes] = set()
        self._topic = context.run.topic("drift")
        self._listed: list[tuple[str, Drift]] = []
        self._room = _LISTED_BYTES
        self._counts = dict.fromkeys(DRIFT_CLASSES, 0)
        self._number = 0
        self._watched: set[bytes] = set()
        self._seen: set[bytes] = set()
        self._failures: list[KafkaError] = []
        self._producer: Producer | None = None  # made for the first key: each takes half a second to find its brokers

    def watch(self, keys: Iterable[bytes]) -> None:
        """Remember of these keys whether they are added from now on."""
        self._watched.update(keys)

    @property
    def seen(self) -> Collection[bytes]:
        """The watched keys that were added."""
        return self._seen

    def add(self, level: str, key: bytes, drift: Drift, expected: int | None, found: int | None) -> None:
        """A drifted key, with its fields as in `DriftedKey`. Raises ReshelveError when Kafka does not take it."""
        if is_excused(key, drift, self._waived):
            self._excused.add(key)
            return
        self._counts[drift] += 1
        self._room -= len(key)
        text = key.decode("utf-8", "replace")
        if len(self._listed) < LISTED and self._room >= 0:
            self._listed.append((text, drift))
        if key in self._watched:
            self._seen.add(key)
        if self._producer is None:
            settings = {"message.timeout.ms": _GIVE_UP_MS, "compression.type": "gzip"}
            self._producer = self._context.cluster.producer(settings)
        record = encode_drifted_key(DriftedKey(text, self._name, level, drift, expected, found))
        produce_when_free(self._producer, self._topic, record, key, on_delivery=self._on_delivery)
        self._number += 1
        if self._number % _STEP == 0:
            self._producer.poll(0)
            self._check()
            self._raise_failure()

    @property
    def counts(self) -> dict[Drift, int]:
        """Number of keys of each class that occurs; exact."""
        return {drift: count for drift, count in self._counts.items() if count}

    @property
    def excused(self) -> int:
        """Number of keys that a waiver covers; they count nowhere else."""
        return len(self._excused)

    @property
    def listed(self) -> tuple[tuple[str, Drift], ...]:
        """(key, class) of the first of them, `LISTED` at most."""
        return tuple(self._listed)

    def close(self) -> None:
        """Returns when the brokers have all of them. Raises ReshelveError when they don't take them."""
        while self._producer is not None and self._producer.flush(_FLUSH_S):
            self._check()
        self._raise_failure()

    def _on_delivery(self, error: KafkaError | None, _: object) -> None:
        if error is not None:
            self._failures.append(error)

    def _raise_failure(self) -> None:
        if self._failures:
            what = "cannot write the drifted keys"
            raise refusal(KafkaException(self._failures[0]), what, self._context.cluster.bootstrap)
