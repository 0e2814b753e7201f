"""The admin client of a cluster, replaced when an outage has spoilt it.

After a broker's restart librdkafka's admin client may stay with the leaders, epochs and coordinators that it
knew: every request fails or times out, for as long as it lives, though the broker is well."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from reshelve.kafka_errors import patiently

T = TypeVar("T")
_PROBE_S: Final = 1.0
# A younger client is not spoilt, the brokers are only not ready.
_YOUNG_S: Final = 5.0


class Admin:
    """Thread-safe in so far as two threads that find the client spoilt may both replace it."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = dict(config)
        self.client = AdminClient(self._config)
        self._made_at = time.monotonic()
        # A client that is destroyed with a request under way aborts the process: a spoilt one is kept.
        self._spoilt: list[AdminClient] = []

    def ask(self, request: Callable[[AdminClient], T], timeout: float) -> T:
        """The answer to an idempotent request, asked again for `timeout` seconds while brokers start or hand over.

        Raises the last KafkaException."""
        return patiently(lambda _: request(self.client), timeout, self._replace_if_spoilt)

    def _replace_if_spoilt(self) -> None:
        """It is, when it is not new, and brokers are there all the same."""
        client = self.client
        if time.monotonic() - self._made_at < _YOUNG_S:
            return
        try:
            client.list_topics(timeout=_PROBE_S)
        except KafkaException:
            return
        self._spoilt.append(client)
        self.client, self._made_at = AdminClient(self._config), time.monotonic()
