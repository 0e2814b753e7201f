from __future__ import annotations

from confluent_kafka import KafkaError

from reshelve.kafka_errors import place_lost


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
