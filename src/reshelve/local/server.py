"""What PostgreSQL, Kafka and OpenSearch have in common: a directory, a port, a process, a log, health."""

from __future__ import annotations

import json
import random
import shutil
import signal
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

from reshelve.errors import ReshelveError
from reshelve.local.process import Account, ServerProcess, server_environment

# Below the range from which Linux takes the ports of outgoing connections (32768 and up): a client
# that keeps reconnecting to a server that is down must not be given that very port as its own.
_PORTS: Final = range(15000, 32000)
_TAIL_LINES: Final = 20
_POLL: Final = 0.1
_PORT_TIMEOUT: Final = 5.0

Report = Callable[[str], None]
Cancelled = Callable[[], bool]


def silent(message: str) -> None:
    """A `report` that drops the message."""


def never() -> bool:
    """A `cancelled` that nobody cancels."""
    return False


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """A server as it is now.

    state     "running"; "unhealthy" (the process lives and does not answer); "dead" (it was started
              and has gone by itself); "stopped" (never started, or stopped on purpose)
    address   host:port, empty before the first start
    log_tail  the last lines of the log where the state is "dead" or "unhealthy"
    """

    name: str
    state: str
    pid: int | None
    address: str
    log: str
    log_tail: str


class Server(ABC):
    """One server. Port and secrets are chosen at the first start and kept in `directory`, so that
    a restarted server has the same address and the same data.

    directory  belongs to this server alone; removed by `remove`
    log        where its output goes; default: `server.log` in the directory
    report     receives progress, one line at a time, from any thread
    """

    name: ClassVar[str]
    stop_signal: ClassVar[int] = signal.SIGTERM
    stop_timeout: ClassVar[float] = 30.0
    start_timeout: ClassVar[float] = 120.0

    def __init__(self, directory: Path, *, log: Path | None = None, report: Report = silent) -> None:
        self.directory = directory.absolute()
        self.log = (log or directory / "server.log").absolute()
        self._report = report
        self._process = ServerProcess(self.directory / "process.json")

    # -- what each server knows ------------------------------------------------------------------

    @abstractmethod
    def _prepare(self, cancelled: Cancelled) -> None:
        """Make everything that the process needs: downloads, configuration, an initialised data directory."""

    @abstractmethod
    def _command(self) -> Sequence[str]:
        """The command line of the process."""

    @abstractmethod
    def _ask(self) -> str:
        """Ask the server whether it is healthy: "" for yes, else what is missing. May raise OSError."""

    def _account(self) -> Account | None:
        """Whom the process runs as; None: as ourselves."""
        return None

    # -- life ------------------------------------------------------------------------------------

    def start(self, cancelled: Cancelled = never) -> None:
        """Start the process unless it runs. Returns at once; `wait_healthy` waits.

        Raises ReshelveError when it cannot be prepared, another program has its port, or `cancelled`."""
        if self._process.alive():
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        self._prepare(cancelled)
        self._wait_for_ports()
        if cancelled():
            raise self._failure("the start was cancelled")
        try:
            self._process.spawn(self._command(), self.log, server_environment(), self._account())
        except OSError as error:
            raise self._failure(str(error)) from error

    def _wait_for_ports(self) -> None:
        """The last threads of a killed server may hold its ports for a moment."""
        deadline = time.monotonic() + _PORT_TIMEOUT
        while taken := [port for port in self.ports if not port_is_free(port)]:
            if time.monotonic() > deadline:
                raise ReshelveError(
                    f"cannot start {self.name}",
                    where=f"127.0.0.1:{taken[0]}",
                    why="another program listens on the port that was chosen at the first start",
                    remedy="end that program, or take the stack down and up again for other ports",
                )
            time.sleep(_POLL)

    def wait_healthy(self, timeout: float | None = None, cancelled: Cancelled = never) -> None:
        """Wait until the server answers, at most `timeout` seconds (default: `start_timeout`).

        Raises ReshelveError with the end of the log when it exits, does not answer in time, or `cancelled`."""
        deadline = time.monotonic() + (self.start_timeout if timeout is None else timeout)
        missing = "no answer"
        while time.monotonic() < deadline and not cancelled():
            if not self._process.alive():
                status = self._process.exit_status
                raise self._failure("it exited" + (f" with status {status}" if status is not None else ""))
            try:
                missing = self._ask()
            except OSError as error:
                missing = str(error)
            if not missing:
                return
            time.sleep(_POLL)
        raise self._failure(f"it is not healthy: {missing}")

    def stop(self) -> None:
        """End the process gracefully; after `stop_timeout` seconds by force. Data stays."""
        self._process.stop(self.stop_signal, self.stop_timeout)

    def kill(self) -> None:
        """SIGKILL, as a crash would; `start` brings it back on the same port with the same data."""
        self._process.kill()

    def remove(self) -> None:
        """Remove the directory with all data. The process must have been stopped.

        Raises ReshelveError when something cannot be removed."""
        remove_tree(self.directory)

    def alive(self) -> bool:
        """Whether the process runs, healthy or not."""
        return self._process.alive()

    def status(self) -> ServerStatus:
        """How the server is now; asks it once."""
        recorded = self._process.recorded
        state = "stopped" if recorded is None else "dead"
        if self._process.alive():
            try:
                state = "running" if not self._ask() else "unhealthy"
            except OSError:
                state = "unhealthy"
        return ServerStatus(
            name=self.name,
            state=state,
            pid=recorded.pid if recorded and state in ("running", "unhealthy") else None,
            address=self.address if self._facts_file.exists() else "",
            log=str(self.log),
            log_tail=tail(self.log) if state in ("dead", "unhealthy") else "",
        )

    # -- facts chosen at the first start -----------------------------------------------------------

    @property
    def _facts_file(self) -> Path:
        return self.directory / "server.json"

    def _fact(self, name: str, choose: Callable[[], Any]) -> Any:
        """The fact `name`, chosen the first time it is asked for and kept since."""
        facts = json.loads(self._facts_file.read_text()) if self._facts_file.exists() else {}
        if name not in facts:
            facts[name] = choose()
            self.directory.mkdir(parents=True, exist_ok=True)
            temporary = self._facts_file.with_suffix(".new")
            temporary.touch(mode=0o600)
            temporary.write_text(json.dumps(facts))
            temporary.replace(self._facts_file)
        return facts[name]

    @property
    def port(self) -> int:
        """The port for clients."""
        return int(self._fact("port", free_port))

    @property
    def ports(self) -> tuple[int, ...]:
        """All ports that the server listens on."""
        return (self.port,)

    @property
    def address(self) -> str:
        """host:port for clients."""
        return f"127.0.0.1:{self.port}"

    def _failure(self, why: str) -> ReshelveError:
        lines = tail(self.log)
        return ReshelveError(
            f"cannot start {self.name}",
            where=str(self.log),
            why=why + (f"; its log ends with:\n{lines}" if lines else ""),
            remedy="read the log, then `reshelve local up` again; `reshelve local down` first begins afresh",
        )


def tail(log: Path, lines: int = _TAIL_LINES) -> str:
    """The last lines of a log; "" where there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 16_384))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def remove_tree(path: Path) -> None:
    """Remove a directory, if it is there. Raises ReshelveError when something cannot be removed."""
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ReshelveError(
            "cannot remove data of the local stack", where=str(path), why=str(error), remedy="remove it by hand"
        ) from error


def port_is_free(port: int) -> bool:
    """Whether a server could listen on 127.0.0.1:`port`."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: TIME_WAIT is no obstacle
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port(candidates: Collection[int] = _PORTS) -> int:
    """A port that nobody listens on. Raises ReshelveError when there is none."""
    for port in random.sample(list(candidates), len(candidates)):
        if port_is_free(port):
            return port
    raise ReshelveError("cannot choose a port", why="all are taken", remedy="take down stacks that you do not need")
