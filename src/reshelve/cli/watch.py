"""`reshelve watch`: look at an index again and again, and repair it if told to."""

from __future__ import annotations

import re
import threading
from typing import Annotated, Final

import typer

from reshelve.cli.connection import BootstrapOption, ConfigOption, cluster_environment, spec_or_cluster
from reshelve.cli.display import STREAM_VERSION, span
from reshelve.cli.options import (
    REPORTS,
    EnvironmentOption,
    LevelOption,
    MetricsHostOption,
    MetricsPortOption,
    OwnIndexersOption,
    OwnKeyReadersOption,
    ReportsOption,
)
from reshelve.cli.output import JsonOption, say, show, show_error, show_json
from reshelve.cli.signals import stop_on_signals
from reshelve.crew import CrewOptions
from reshelve.errors import BlockedError, ReshelveError
from reshelve.watch import Look, Watch, WatchMetrics

_DRIFT: Final = 3
_FAILED: Final = 1
_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def seconds_of(text: str) -> float:
    """`90s`, `10m`, `6h`, `1d`, or seconds, as seconds. Raises typer.BadParameter."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if found is None or float(found[1]) <= 0:
        raise typer.BadParameter(f"{text!r} is no time such as 90s, 10m, 6h or 1d")
    return float(found[1]) * _UNITS[found[2] or "s"]


def watch(
    name: Annotated[str, typer.Argument(metavar="SPEC|RUN", help="A spec's file, a reindex, or one run of it.")],
    environment: EnvironmentOption = None,
    every: Annotated[
        str, typer.Option(metavar="TIME", help="From the beginning of a look to that of the next: 90s, 10m, 6h, 1d.")
    ] = "10m",
    level: LevelOption = None,
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Documents a second that level full compares; else the run's limit.")
    ] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Repair what has drifted.")] = False,
    once: Annotated[bool, typer.Option("--once", help="Look once, for cron: exit code 0, 3 with drift, 1.")] = False,
    key_readers: OwnKeyReadersOption = 1,
    indexers: OwnIndexersOption = 1,
    reports: ReportsOption = REPORTS,
    metrics_port: MetricsPortOption = None,
    metrics_host: MetricsHostOption = "127.0.0.1",
    as_json: JsonOption = False,
    bootstrap: BootstrapOption = None,
    config: ConfigOption = None,
) -> None:
    """Compare an index with its source for ever; Ctrl-C ends it. Of a reindex, each look takes the newest run.

    With --once: exit code 0 when the index is in sync at the end, 3 when drift is left, 1 when it could not be told."""
    seconds = seconds_of(every)
    spec, cluster = spec_or_cluster(name, environment, bootstrap, config)
    stop = threading.Event()
    stop_on_signals(stop)
    options = CrewOptions(key_readers, indexers, reports, cluster_environment(cluster))
    looking = Watch(cluster, spec.reindex if spec else name, level or (), rate, repair, options, stop, say)
    metrics = None if metrics_port is None else WatchMetrics(metrics_host, metrics_port)
    observer = _Observer(metrics, as_json)
    try:
        if once:
            raise typer.Exit(_once(looking, observer))
        if metrics is not None:
            say(f"metrics: http://{metrics_host}:{metrics.port}/metrics")
        looking.go_on(seconds, observer)
    finally:
        if metrics is not None:
            metrics.close()


class _Observer:
    """Shows each look, and passes it on to the metrics."""

    def __init__(self, metrics: WatchMetrics | None, as_json: bool) -> None:
        self._metrics, self._as_json = metrics, as_json

    def looked(self, look: Look) -> None:
        if self._metrics is not None:
            self._metrics.looked(look)
        if self._as_json:
            show_json({"v": STREAM_VERSION, "event": "look", **look.as_dict()})
            return
        text = f"check {look.check} of {look.run}, {span(look.seconds)}: "
        found = ", ".join(f"{count:,} {drift}" for drift, count in look.found.items())
        left = ", ".join(f"{count:,} {drift}" for drift, count in look.left.items())
        if not look.found:
            show(f"{text}in sync")
        else:
            show(f"{text}{found}; " + (f"left: {left}" if left else "all repaired"))

    def failed(self, error: ReshelveError) -> None:
        if self._metrics is not None:
            self._metrics.failed(error)
        show_error(error, self._as_json)


def _once(looking: Watch, observer: _Observer) -> int:
    """The exit code: what stands in the way of looking is no drift, so it does not end with that code."""
    try:
        look = looking.look()
    except BlockedError as error:
        observer.failed(error)
        return _FAILED
    observer.looked(look)
    return 0 if look.clean else _DRIFT
