"""A server's operating-system process, found again by a later command through a file."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import psutil

# The system computes a start time from the clock, which may be adjusted in between; a reused
# process id within this many seconds is impossible in practice.
_START_TIME_TOLERANCE: Final = 5.0
_POLL: Final = 0.05


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process that cannot be confused with another one that got the same number later.

    started  seconds since 1970, as the operating system tells it
    """

    pid: int
    started: float


@dataclass(frozen=True, slots=True)
class Account:
    """The unprivileged user that a server runs as when we are root."""

    uid: int
    gid: int


class ServerProcess:
    """Starts a program in a session of its own, so that it outlives the command that started it
    and a Ctrl-C meant for that command does not reach it. `file` remembers it."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._child: subprocess.Popen[bytes] | None = None

    def spawn(
        self,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str],
        account: Account | None = None,
    ) -> None:
        """Start `command` with its output appended to `log`. Raises OSError when it cannot be executed."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
                env=dict(environment),
                start_new_session=True,
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
            )
        identity = ProcessId(self._child.pid, psutil.Process(self._child.pid).create_time())
        temporary = self._file.with_suffix(".new")
        temporary.write_text(json.dumps(asdict(identity)))
        temporary.replace(self._file)

    @property
    def recorded(self) -> ProcessId | None:
        """The process that was started last and not stopped on purpose, alive or not."""
        try:
            return ProcessId(**json.loads(self._file.read_text()))
        except FileNotFoundError:
            return None

    @property
    def exit_status(self) -> int | None:
        """The exit status (negative: a signal) where this very object started the process, else None."""
        return self._child.poll() if self._child else None

    def alive(self) -> bool:
        """Whether the recorded process runs."""
        return self._find() is not None

    def stop(self, signal_number: int, timeout: float) -> None:
        """Ask the process to end, wait `timeout` seconds, then kill it; forget it."""
        process = self._find()
        if process is not None:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal_number)
            deadline = time.monotonic() + timeout
            while self.alive() and time.monotonic() < deadline:
                time.sleep(_POLL)
            self.kill()
        self.forget()

    def kill(self) -> None:
        """SIGKILL to the process and everything it started; returns when all of them are gone.
        The file stays: this is how a crash looks to the next command."""
        process = self._find()
        if process is None:
            return
        victims = [process]
        with suppress(psutil.NoSuchProcess):
            victims += process.children(recursive=True)
        for victim in victims:
            with suppress(psutil.NoSuchProcess):
                victim.kill()
        if self._child is not None and self._child.pid == process.pid:
            self._child.wait()  # reap it; this also waits for its threads, which may hold files and ports
        while any(_runs(victim) for victim in victims):
            time.sleep(_POLL)

    def forget(self) -> None:
        """Remove the file: the process was stopped on purpose."""
        self._file.unlink(missing_ok=True)
        self._child = None

    def _find(self) -> psutil.Process | None:
        identity = self.recorded
        if identity is None:
            return None
        if self._child is not None and self._child.pid == identity.pid:
            self._child.poll()  # reap it, or it would look like a process
        try:
            process = psutil.Process(identity.pid)
            same = abs(process.create_time() - identity.started) < _START_TIME_TOLERANCE
        except psutil.NoSuchProcess:
            return None
        return process if same and _runs(process) else None


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def server_environment() -> dict[str, str]:
    """The environment for a server: ours without the variables by which a JVM or libpq would pick up
    foreign options."""
    foreign = {"JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS", "CLASSPATH"}
    return {k: v for k, v in os.environ.items() if k not in foreign and not k.startswith("PG")}
