"""An event brought to a topic, a webhook or a command. Each of them is waited for a few seconds, and never for long."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Final

import urllib3
from confluent_kafka import KafkaError, KafkaException
from urllib3.exceptions import HTTPError

from reshelve.errors import BlockedError, ReshelveError, Unreachable
from reshelve.kafka import KafkaCluster, refusal
from reshelve.notify.event import CONTENT_TYPE, CloudEvent
from reshelve.spec.notify import Webhook

_KAFKA_S: Final = 10.0
_COMMAND_S: Final = 30.0
_TIMEOUT: Final = urllib3.Timeout(connect=3.0, read=5.0)
_RETRIES: Final = urllib3.Retry(
    total=3,
    backoff_factor=0.5,
    status_forcelist=(429, 500, 502, 503, 504),
    allowed_methods=None,  # POST too: the event's id tells who gets it twice
    raise_on_status=False,
    redirect=0,  # the headers are for this address
    raise_on_redirect=False,
    respect_retry_after_header=False,  # it may be an hour
)


def to_topic(event: CloudEvent, cluster: KafkaCluster, topic: str, replication_factor: int | None) -> None:
    """Structured content mode, keyed by the reindex. Raises ReshelveError."""
    what = f"cannot write to topic {topic}"
    if topic not in cluster.topics(topic, timeout=_KAFKA_S):
        cluster.create_topic(topic, 1, {}, replication_factor)
    failures: list[KafkaError] = []
    producer = cluster.producer({"message.timeout.ms": int(_KAFKA_S * 1000)})
    producer.produce(
        topic,
        event.encode(),
        event.key.encode(),
        headers=[("content-type", CONTENT_TYPE.encode())],
        on_delivery=lambda error, _: failures.append(error) if error is not None else None,
    )
    left = producer.flush(_KAFKA_S + 2)
    if failures:
        raise refusal(KafkaException(failures[0]), what, cluster.bootstrap)
    if left:
        raise Unreachable(
            what, where=cluster.bootstrap, why="it is not acknowledged", remedy="see that the brokers run"
        )


def to_webhook(event: CloudEvent, hook: Webhook) -> None:
    """POST in structured content mode; every 2xx is an acceptance. Raises ReshelveError."""
    what = "a webhook did not take the event"
    headers = {"User-Agent": "reshelve", **hook.headers, "Content-Type": CONTENT_TYPE}
    with urllib3.PoolManager(timeout=_TIMEOUT, retries=_RETRIES) as pool:
        try:
            answer = pool.request("POST", hook.url, body=event.encode(), headers=headers)
        except HTTPError as error:
            # In its words stands the whole address.
            why = str(getattr(error, "reason", None) or type(error).__name__).replace(hook.url, hook.shown)
            raise BlockedError(what, where=hook.shown, why=why, remedy="see that it answers") from None
    if not 200 <= answer.status < 300:
        why = f"it answered {answer.status} {answer.reason or ''}".rstrip()
        raise BlockedError(what, where=hook.shown, why=why, remedy="see its log; the event is in the journal")


def to_command(event: CloudEvent, command: Sequence[str]) -> None:
    """The event on standard input; exit code 0 is an acceptance. Raises ReshelveError."""
    what, remedy = "a command did not take the event", "run it by hand; the event is in the journal"
    try:
        done = subprocess.run(list(command), input=event.encode(), capture_output=True, check=False, timeout=_COMMAND_S)
    except (OSError, ValueError) as error:
        raise ReshelveError(what, where=command[0], why=str(error), remedy=remedy) from None
    except subprocess.TimeoutExpired:
        why = f"it had not ended after {_COMMAND_S:.0f} s, and was killed"
        raise ReshelveError(what, where=command[0], why=why, remedy=remedy) from None
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        said = f": {lines[-1][:200]}" if lines else ""
        raise ReshelveError(
            what, where=command[0], why=f"it ended with exit code {done.returncode}{said}", remedy=remedy
        )
