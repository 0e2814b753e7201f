from __future__ import annotations

from confluent_kafka import KafkaError

from reshelve.errors import Unreachable
from reshelve.kafka_errors import is_transient, may_pass, place_lost, refusal


def test_offsets_that_expired_are_told_from_records_that_are_gone() -> None:
    """The words are librdkafka's."""
    lost = KafkaError(
        KafkaError._AUTO_OFFSET_RESET,
        "no previously committed offset available: Local: No offset stored (broker -1)",
    )
    error = place_lost(lost, "g", "t", "h")
    assert error.what == "the offsets of group g are lost"
    assert "offsets.retention.minutes" in error.why
    gone = KafkaError(
        KafkaError._AUTO_OFFSET_RESET,
        "fetch failed due to requested offset not available on the broker: Broker: Offset out of range (broker 1)",
    )
    assert place_lost(gone, "g", "t", "h").what == "records of t are gone before they were read"


def test_a_topic_that_brokers_do_not_know_yet_is_waited_for() -> None:
    for code in (KafkaError._UNKNOWN_PARTITION, KafkaError.UNKNOWN_TOPIC_OR_PART):
        error = KafkaError(code, "Local: Unknown partition")
        assert may_pass(error) and not is_transient(error)
        assert isinstance(refusal(error, "cannot read the end of topic t", "h"), Unreachable)
