from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from reshelve.applied import Applied
from reshelve.commands import Bounds
from reshelve.errors import UsageError
from reshelve.metrics import Metrics
from reshelve.model import Receipt, Segment
from reshelve.plan import Plan
from reshelve.progress import Progress
from reshelve.rates import Rate
from reshelve.receipts import tile

_PLAN = cast(
    Plan,
    SimpleNamespace(
        run="docs.1",
        index="docs-1",
        alias="docs",
        estimated_documents=120,
        spec={"limits": {"max_wal_retained": 10**9}},
    ),
)
_TILING = tile([Segment(0, None, None)], [Receipt(0, None, None, 100, 100, 0, 0, 1000, 1, 1)])
_REPORTS = ({"role": "tailer", "worker": "a", "at": 1, "counts": {"wal_retained": 4096}},)


def picture(*, followed: bool) -> Progress:
    return Progress(
        _TILING, {0: 51}, {0: 102}, 3, _REPORTS, ("why",), Rate(None, None), Rate(None, None),
        at_ms=12_500, followed=followed, applied={0: Applied(9, 10_000), 1: Applied((1 << 53) - 1, 10_500)},
        key_positions={0: 4}, change_ends={0: 9},
        bounds=Bounds(500, 2, "the spec's limits"), signals={"heap": 60},
    )  # fmt: skip


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    served = Metrics(_PLAN, "127.0.0.1", 0)
    yield served
    served.close()


def scrape(metrics: Metrics) -> dict[tuple[str, str], float]:
    """Values by name and labels; a label's name is left out."""
    with urlopen(f"http://127.0.0.1:{metrics.port}/metrics") as answer:
        text = answer.read().decode()
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_figures_are_those_of_the_progress(metrics: Metrics) -> None:
    metrics.stage("copy")
    assert ("reshelve_documents_read", "") not in scrape(metrics)
    seen = picture(followed=True)
    metrics.progress("index", seen)
    found = scrape(metrics)
    assert found[("reshelve_run_info", "docs,docs-1,docs.1,index")] == 1
    assert {name: value for (name, labels), value in found.items() if not labels and "reshelve" in name} == {
        "reshelve_documents_expected": 120,
        "reshelve_documents_read": 100,
        "reshelve_documents_indexed": seen.indexed,
        "reshelve_segments": 1,
        "reshelve_segments_covered": 1,
        "reshelve_paused": 0,
        "reshelve_rejects": 3,
        "reshelve_waiting": 1,
        "reshelve_seconds_behind": 2.5,
        "reshelve_wal_retained_bytes": 4096,
        "reshelve_wal_limit_bytes": 10**9,
        "reshelve_limit_documents_per_second": 500,
        "reshelve_limit_bytes_per_second": 2e6,
    }
    assert found[("reshelve_lag_offsets", "documents")] == 51
    assert found[("reshelve_lag_offsets", "changes")] == 5
    assert found[("reshelve_workers", "tailer")] == 1
    assert found[("reshelve_throttle_signal", "heap")] == 60
    assert found[("process_start_time_seconds", "")] > 0
    assert found[("reshelve_applied_clock", "1")] == (1 << 53) - 1
    assert found[("reshelve_applied_timestamp_seconds", "1")] == 10.5


def test_without_live_changes_there_are_no_figures_of_them(metrics: Metrics) -> None:
    metrics.progress("copy", picture(followed=False))
    found = scrape(metrics)
    assert ("reshelve_seconds_behind", "") not in found
    assert ("reshelve_lag_offsets", "changes") not in found


def test_a_port_that_is_taken_is_refused_with_a_remedy(metrics: Metrics) -> None:
    with pytest.raises(UsageError, match="--metrics-port"):
        Metrics(_PLAN, "127.0.0.1", metrics.port)
