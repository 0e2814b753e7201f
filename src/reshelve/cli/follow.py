"""`reshelve follow`: go on with following the changes of a run that has completed."""

from __future__ import annotations

import threading

from reshelve.cli.connection import BootstrapOption, ConfigOption, RunArgument, cluster_environment, cluster_of
from reshelve.cli.display import make_display
from reshelve.cli.options import (
    REPORTS,
    IndexersOption,
    KeyReadersOption,
    MetricsHostOption,
    MetricsPortOption,
    ReportsOption,
)
from reshelve.cli.output import JsonOption, say, show
from reshelve.cli.signals import stop_on_signals
from reshelve.run import Run
from reshelve.session import attach_follower
from reshelve.supervision import Options


def follow(
    run: RunArgument,
    key_readers: KeyReadersOption = 1,
    indexers: IndexersOption = 1,
    reports: ReportsOption = REPORTS,
    metrics_port: MetricsPortOption = None,
    metrics_host: MetricsHostOption = "127.0.0.1",
    as_json: JsonOption = False,
    bootstrap: BootstrapOption = None,
    config: ConfigOption = None,
) -> None:
    """Keep the index of a completed run after its source (`follow: always`), until it is retired."""
    cluster = cluster_of(bootstrap, config)
    stop = threading.Event()
    stop_on_signals(stop)
    session = attach_follower(cluster, run, stop, say)
    options = Options(None, 0, key_readers, indexers, reports, cluster_environment(cluster))
    try:
        display = make_display(session.context.plan, as_json, metrics_port=metrics_port, metrics_host=metrics_host)
        try:
            Run(session, options, display, stop).drive()
        finally:
            display.close()
    finally:
        session.lease.release()
    show(f"Run {session.context.run} is retired; its index gets no more changes.")
