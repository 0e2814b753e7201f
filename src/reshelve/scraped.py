"""What serves figures to Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from reshelve.errors import UsageError


class ServedCollector(Collector):
    """Serves `http://host:port/metrics` until `close`, with what Prometheus knows of any process (its start, CPU,
    memory). Raises UsageError when it can't listen there."""

    def __init__(self, host: str, port: int) -> None:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        ProcessCollector(registry=registry)
        try:
            self._server, self._thread = start_http_server(port, addr=host, registry=registry)
        except OSError as error:
            raise UsageError(
                "cannot serve metrics",
                where=f"{host}:{port}",
                why=str(error),
                remedy="give a free port with --metrics-port, an address of this machine with --metrics-host",
            ) from None

    @property
    def port(self) -> int:
        """The port that it listens on; the system's choice for port 0."""
        return self._server.server_port

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def gauge(name: str, documentation: str, value: float) -> Metric:
    """One figure without labels."""
    return GaugeMetricFamily(name, documentation, value=value)
