"""What a run will take, and whether there is room: by what is known, and said where it is not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from reshelve.consumers.capacity import DiskRoom, IndexSize, disk_room
from reshelve.forecast import Forecast, Measured, forecast
from reshelve.headroom import headrooms, size
from reshelve.history import last_measured
from reshelve.journal import Event
from reshelve.model import KeyColumn, RunId, SourceFacts
from reshelve.spec import Spec, parse
from reshelve.state import RunState, fold

FACTS = SourceFacts("7", 1, (KeyColumn("id", "bigint"),), (), 600_000, 600_000_000)
FORECAST = Forecast(100, 1_000, "assumed", 10, 20, 4_000_000_000, "assumed")
START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def a_spec(sections: str = "") -> Spec:
    text = f"""
reindex: cities
source: {{postgres: {{url: "postgresql://h/d", key: id, query: select 1}}}}
target: {{opensearch: {{url: "http://h:9200", alias: cities, index: i.json}}}}
kafka: {{bootstrap: "h:9092"}}
{sections}
"""
    return parse(text, name="s.yaml", folder=Path(), environ={}, definition={})


def test_a_run_that_was_measured_tells_more_than_an_assumption() -> None:
    found = forecast(FACTS, a_spec(), measured=Measured("cities.1", 100_000, 10**8, 10.0))
    assert "10,000 documents/s measured in run cities.1" in found.basis
    assert found.seconds_low < 60 < found.seconds_high
    limited = forecast(
        FACTS, a_spec("limits: {documents_per_second: 1000}"), measured=Measured("cities.1", 100_000, 10**8, 10.0)
    )
    assert (limited.seconds_low, limited.seconds_high) == (600, 600)
    assert "assumed" in forecast(FACTS, a_spec(), measured=Measured("cities.1", 0, 0, 10.0)).basis


def test_bytes_by_the_previous_index_and_its_replicas() -> None:
    assert forecast(FACTS, a_spec()).index_bytes == 1_200_000_000
    found = forecast(FACTS, a_spec(), replicas=2, previous=IndexSize(1_000, 500_000))
    assert found.index_bytes == 600_000 * 500 * 3
    assert "500 bytes a document, as in the previous index, 3 copies" in found.index_basis
    assert 0 < found.topic_low < FACTS.estimated_bytes < found.topic_high
    assert "assumed" in forecast(FACTS, a_spec(), previous=IndexSize(0, 200)).index_basis


def test_target_disk() -> None:
    def verdict(room: DiskRoom | None) -> str:
        return headrooms(a_spec(), FORECAST, room, None)[0].verdict

    assert verdict(DiskRoom(9 * 10**9, 2, "95%")) == "enough"
    assert verdict(DiskRoom(7 * 10**9, 2, "95%")) == "tight"  # merges
    assert verdict(None) == "unknown"


def test_brokers_do_not_tell() -> None:
    found = headrooms(a_spec(), FORECAST, None, None)[1]
    assert found.verdict == "unknown" and "no way to ask" in found.why and "nothing that it needs expires" in found.why


@pytest.mark.parametrize(
    ("rate", "verdict"), [(None, "unknown"), (0.0, "unknown"), (10**6, "enough"), (10**8, "tight")]
)
def test_wal(rate: float | None, verdict: str) -> None:
    (found,) = headrooms(a_spec(), FORECAST, None, rate)[2:]
    assert (found.verdict, "10.0 GB" in found.there_is) == (verdict, True)


def test_without_a_slot_no_wal_is_kept() -> None:
    assert len(headrooms(a_spec("changes: none"), FORECAST, None, 1.0)) == 2


def test_room_of_data_nodes_alone() -> None:
    settings: dict[str, Any] = {"defaults": {}, "persistent": {}, "transient": {}}
    disk = {"total_in_bytes": 1_000, "available_in_bytes": 300}
    nodes = {"a": {"fs": {"total": disk}, "roles": ["data"]}, "b": {"fs": {"total": disk}, "roles": ["ingest"]}}
    assert disk_room(settings, nodes) == DiskRoom(300 - 50, 1, "95%")
    settings["transient"] = {"cluster.routing.allocation.disk.threshold_enabled": "false"}
    assert disk_room(settings, nodes).bytes == 300


def test_sizes() -> None:
    assert [size(n) for n in (0, 1_500, 2_500_000, 3 * 10**9, 10**13)] == [
        "0.0 kB", "1.5 kB", "2.5 MB", "3.0 GB", "10.0 TB",
    ]  # fmt: skip


def _run(name: str, *entries: tuple[str, dict[str, Any]]) -> RunState:
    run = RunId("cities", name)
    last: Event | None = None
    events = []
    for number, (kind, data) in enumerate(entries):
        last = Event.after(last, run, kind, data, START + timedelta(seconds=10 * number))
        events.append(last)
    return fold(events)[str(run)]


def test_the_newest_run_that_was_copied_in_one_go() -> None:
    stage = {name: ("stage", {"stage": name}) for name in ("copy", "index", "validate")}
    copied = ("copied", {"documents": 500, "bytes": 9_000})
    whole = (("started", {"resumed": False}), stage["copy"], copied, stage["index"], stage["validate"])
    done = _run("1", *whole, ("completed", {}))
    interrupted = _run("2", *whole, ("started", {"resumed": True}), ("completed", {}))
    unfinished = _run("3", *whole)
    assert last_measured([done, interrupted, unfinished]) == Measured("cities.1", 500, 9_000, 30.0)
    assert last_measured([interrupted, unfinished]) is None
