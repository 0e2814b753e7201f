"""The figures of workers, and that alerts and dashboard name no metric that nobody has."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from test_metrics import _PLAN, picture

from reshelve.metrics import Metrics
from reshelve.scraped import ServedCollector
from reshelve.watch import Look, WatchMetrics
from reshelve.worker import CheckFigures
from reshelve.worker_metrics import ROLES, WorkerMetrics

_DEPLOY = Path(__file__).parents[2] / "deploy"
_FILES = ("prometheus/alerts.yaml", "grafana/dashboard.json")


@contextmanager
def scraped(served: ServedCollector) -> Iterator[dict[str, float]]:
    """Values by name; of a metric with labels that of one."""
    try:
        with urlopen(f"http://127.0.0.1:{served.port}/metrics") as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
        yield {sample.name: sample.value for family in families for sample in family.samples}
    finally:
        served.close()


def of_worker(role: str) -> WorkerMetrics:
    figures = CheckFigures(counts=Counter({"indexed": 7, "requests": 3, "busy": 1}), limit=250.0, paused=True)
    for seconds in (0.01, 0.3, 99):
        figures.durations.observe(seconds)
    return WorkerMetrics("docs.1", role, "a", figures, "127.0.0.1", 0)


def test_an_indexer_serves_what_it_has_counted() -> None:
    with scraped(of_worker("indexer")) as found:
        assert found["reshelve_worker_documents_indexed_total"] == 7
        assert found["reshelve_worker_documents_rejected_total"] == 0
        assert found["reshelve_worker_bulk_requests_busy_total"] == 1
        assert found["reshelve_worker_bulk_duration_seconds_count"] == 3
        assert found["reshelve_worker_bulk_duration_seconds_sum"] == pytest.approx(99.31)
        assert found["reshelve_worker_limit_documents_per_second"] == 250
        assert found["reshelve_worker_paused"] == 1
        assert found["process_start_time_seconds"] > 0
        assert "reshelve_worker_checks_total" not in found


@pytest.fixture(scope="module")
def known() -> set[str]:
    """All names that any role serves."""
    names: set[str] = {"up"}
    run = Metrics(_PLAN, "127.0.0.1", 0)
    run.progress("copy", picture(followed=True))
    watch = WatchMetrics("127.0.0.1", 0)
    watch.looked(Look("docs.1", "check", 1.0, 1.0))
    for served in (run, watch, *map(of_worker, ROLES)):
        with scraped(served) as found:
            names |= found.keys()
    return names


@pytest.mark.parametrize("file", _FILES)
def test_what_is_named_exists(known: set[str], file: str) -> None:
    named = set(re.findall(r"\breshelve_\w+", (_DEPLOY / file).read_text()))
    assert len(named) > 8 and named - known == set()


def test_every_alert_says_what_to_do() -> None:
    (group,) = yaml.safe_load((_DEPLOY / _FILES[0]).read_text())["groups"]
    for rule in group["rules"]:
        assert {"summary", "remedy"} <= rule["annotations"].keys(), rule["alert"]
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
