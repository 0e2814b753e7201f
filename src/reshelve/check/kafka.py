"""Checks of Kafka: can the run's topics be made there, and are they wide enough?"""

from __future__ import annotations

from typing import Final

from confluent_kafka import KafkaException
from confluent_kafka.cimpl import NewTopic

from reshelve.check.findings import Findings, Size
from reshelve.errors import ReshelveError
from reshelve.kafka import KafkaCluster, kafka_error, refusal
from reshelve.model import RunId

_BOOTSTRAP: Final = "kafka.bootstrap"
_PARTITIONS: Final = "kafka.partitions"
_FACTOR: Final = "kafka.replication_factor"
_BYTES_PER_PARTITION: Final = 25 << 30
_DOCUMENTS_PER_PARTITION: Final = 50_000_000


def check_kafka(findings: Findings, size: Size | None) -> None:
    """Everything about Kafka. `size` is what the source holds, where known."""
    if size is not None:
        _check_width(findings, size)
    kafka = findings.spec.kafka
    cluster = KafkaCluster(kafka.bootstrap, kafka.config)
    try:
        brokers = cluster.probe()
    except ReshelveError as error:
        findings.add(_BOOTSTRAP, error)
        return
    except KafkaException as error:  # the client does not know a setting, or its value
        what = f"librdkafka refuses the settings: {kafka_error(error).str()}"
        findings.error("kafka.config", what, "correct kafka.config; see librdkafka's CONFIGURATION.md")
        return
    if kafka.replication_factor is not None and kafka.replication_factor > brokers:
        what = f"replication factor {kafka.replication_factor}, and {brokers} brokers"
        findings.error(_FACTOR, what, f"set it to at most {brokers}, or leave it out for the brokers' default")
        return
    _check_creation(findings, cluster)


def _check_width(findings: Findings, size: Size) -> None:
    partitions = findings.spec.kafka.partitions
    wanted = max(-(-size.bytes // _BYTES_PER_PARTITION), -(-size.documents // _DOCUMENTS_PER_PARTITION))
    if wanted > partitions:
        findings.warning(
            _PARTITIONS,
            f"{partitions} partitions for about {size.documents:,} documents of {size.bytes / (1 << 30):,.0f} GiB: "
            "more than 25 GiB or 50 million documents each",
            f"set kafka.partitions to {min(wanted, 10_000)} or more, so that more workers can share the work",
        )


def _check_creation(findings: Findings, cluster: KafkaCluster) -> None:
    """Have the brokers judge a topic of the run without creating it: privileges, replication, policies."""
    spec = findings.spec
    topic = NewTopic(
        RunId(spec.reindex, "check").topic("documents"),
        num_partitions=spec.kafka.partitions,
        replication_factor=spec.kafka.replication_factor or -1,
        config={"retention.ms": "-1", "max.message.bytes": str(spec.kafka.max_document_bytes)},
    )
    admin = cluster.admin
    try:
        admin.create_topics([topic], operation_timeout=10, validate_only=True)[topic.topic].result()
    except KafkaException as error:
        findings.add(_BOOTSTRAP, refusal(error, "Kafka would refuse the run's topics", spec.kafka.bootstrap))
