"""Checks of the topics that a Debezium connector fills. Its slot is looked at with the source."""

from __future__ import annotations

from collections.abc import Container
from typing import Final

from confluent_kafka import KafkaException
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._resource import ResourceType

from reshelve.check.findings import Findings, Size
from reshelve.errors import ReshelveError
from reshelve.forecast import SLOW
from reshelve.kafka import KafkaCluster, kafka_error
from reshelve.producers.debezium import cluster_of
from reshelve.producers.debezium_registry import SchemaRegistry

_TOPICS: Final = "changes.debezium.topics"
_BOOTSTRAP: Final = "changes.debezium.bootstrap"
_FLUSH_INTERVAL_S: Final = 60  # Connect's own default


def check_debezium(findings: Findings, size: Size | None = None) -> None:
    """The brokers answer, the topics are there and keep every event, the registry answers. `size` is what the source
    holds, where known."""
    debezium = findings.spec.changes.debezium
    if debezium is None:
        return
    cluster = cluster_of(findings.spec)
    try:
        cluster.probe()
        known = cluster.topics("")
    except ReshelveError as error:
        findings.add(_BOOTSTRAP, error)
        return
    except KafkaException as error:  # the client does not know a setting, or its value
        what = f"librdkafka refuses the settings: {kafka_error(error).str()}"
        findings.error("changes.debezium.config", what, "correct them; see librdkafka's CONFIGURATION.md")
        return
    for topic in debezium.topics:
        if topic not in known:
            remedy = "correct the name (`<topic.prefix>.<schema>.<table>`), or make the topic"
            findings.error(_TOPICS, f"topic {topic} does not exist at {cluster.bootstrap}", remedy)
    seconds = 0.0 if size is None else size.documents / min(findings.spec.limits.documents_per_second or SLOW, SLOW)
    _check_retention(findings, cluster, [topic for topic in debezium.topics if topic in known], seconds)
    _check_pace(findings)
    _check_messages(findings, known)
    if debezium.registry is not None:
        try:
            SchemaRegistry(debezium.registry).probe()
        except ReshelveError as error:
            findings.add("changes.debezium.registry", error)


def _check_retention(findings: Findings, cluster: KafkaCluster, topics: list[str], seconds: float) -> None:
    """Compaction keeps the newest event of a row: what the row was before it, a parent's key say, is lost. `seconds` is
    what the copy may take: events that are kept for less may be gone before a run that stood still has read them."""
    for topic in topics:
        resource = ConfigResource(ResourceType.TOPIC, topic)
        try:
            config = cluster.ask(lambda admin, r=resource: admin.describe_configs([r])[r].result())  # type: ignore[misc]
        except KafkaException as error:
            what = f"the settings of topic {topic} can't be read: {kafka_error(error).str()}"
            findings.warning(_TOPICS, what, "see that its cleanup.policy is delete")
            continue
        policy = config["cleanup.policy"].value or ""
        if "compact" in policy:
            findings.warning(
                _TOPICS,
                f"topic {topic} is compacted (cleanup.policy = {policy}): old values of rows that are written often"
                " may be gone before they are read",
                "set cleanup.policy = delete, with a retention that outlasts the longest standstill of the run",
            )
        kept = int(config["retention.ms"].value or -1) / 1000
        if 0 <= kept < seconds:
            findings.warning(
                _TOPICS,
                f"topic {topic} keeps events for {kept / 3600:,.1f} h (retention.ms), and the copy may take"
                f" {seconds / 3600:,.1f} h: a run that stands still has less time left than that to go on",
                "raise retention.ms above what the copy and the longest standstill take",
            )


def _check_pace(findings: Findings) -> None:
    limit = findings.spec.limits.max_seconds_behind
    if limit < _FLUSH_INTERVAL_S:
        findings.warning(
            "changes.debezium",
            f"the connector's worker confirms its slot every {_FLUSH_INTERVAL_S} s unless offset.flush.interval.ms says"
            f" otherwise, and limits.max_seconds_behind is {limit:g} s",
            f"set the worker's offset.flush.interval.ms below {limit / 2:g} s, or raise limits.max_seconds_behind above"
            f" {_FLUSH_INTERVAL_S}",
        )


def _check_messages(findings: Findings, known: Container[str]) -> None:
    """By messages in the log the connector is moved on while nobody writes to its tables."""
    debezium = findings.spec.changes.debezium
    assert debezium is not None
    wanted = sorted({f"{topic.rsplit('.', 2)[0]}.message" for topic in debezium.topics})
    missing = [topic for topic in wanted if topic not in known]
    if missing:
        findings.warning(
            _TOPICS,
            f"no topic {missing[0]}: while nobody writes to the followed tables, the connector does not say how far it"
            " is, and the run waits",
            "make the topic, to which the connector writes the log's logical messages, or set heartbeat.action.query",
        )
