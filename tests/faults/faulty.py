"""A reindex to which things happen: its processes, how far it is, and what it says meanwhile."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from pipeline import Pipeline, Result

PATIENCE_S = 240.0


def wait_for(what: str, condition: Callable[[], bool], timeout: float = PATIENCE_S) -> None:
    """Until the condition holds; the test fails when it never does."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout:.0f} s: {what}"
        time.sleep(0.05)


@dataclass
class Victim(Pipeline):
    """A reindex whose commands write to files, so that a test can read along and nothing blocks on a pipe."""

    _started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, *arguments: str | Path, environ: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """As Pipeline does, with the output in files."""
        process = self._popen(arguments, environ)
        self._started.append(process)
        return process

    def start_run(self, *arguments: str) -> subprocess.Popen[str]:
        """`reshelve run --json` with two page readers, key readers and indexers."""
        workers = [word for role in ("page-readers", "key-readers", "indexers") for word in (f"--{role}", "2")]
        return self.start("run", self.spec, "--json", *workers, *arguments)

    def finish(self, process: subprocess.Popen[str], timeout: float = 2 * PATIENCE_S) -> Result:
        """Wait for the end of a command."""
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"not ended within {timeout} s\n{self.said()}") from None
        number = self._started.index(process)
        return Result(process.returncode, self._output(number, "out"), self._output(number, "err"))

    def said(self) -> str:
        """Everything that the commands and the workers have said so far."""
        outputs = [self._output(n, kind) for n in range(len(self._started)) for kind in ("out", "err")]
        logs = [f"--- {log.name}\n{log.read_text(errors='replace')}" for log in self.reports.rglob("*.log")]
        return "\n".join(outputs + logs)

    def await_said(self, text: str, times: int = 1) -> None:
        """Until somebody has said that, so often."""
        self._await(f"{text!r} is said", lambda: self.said().count(text) >= times)

    def await_stage(self, stage: str) -> None:
        """Until a run is in a stage."""
        self.await_said(f'"stage": "{stage}"')

    @property
    def stage(self) -> str:
        """Of the newest run, as its journal has it; "" before the first."""
        states = self.states()
        return states[-1].stage if states else ""

    def await_more_indexed(self, records: int) -> None:
        """Until the indexers have committed so many more offsets than now, or than when the run began."""
        begun = self._committed()
        self._await(f"{records} more indexed", lambda: self._committed() >= begun + records)

    def _committed(self) -> int:
        states = self.states()
        if not states or not states[-1].index_uuid:
            return 0
        run, partitions = states[-1].run, states[-1].plan.resolve(self.environ).kafka.partitions
        found = self.cluster.committed(run.group("indexer"), run.topic("documents"), partitions)
        return sum(offset or 0 for offset in found.values())

    def _await(self, what: str, condition: Callable[[], bool]) -> None:
        def met() -> bool:
            ended = all(process.poll() is not None for process in self._started)
            if condition():
                return True
            assert not ended, f"nobody is left who could bring it about: {what}"
            return False

        try:
            wait_for(what, met)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.said()}") from None

    def workers(self, run: subprocess.Popen[str], role: str) -> list[psutil.Process]:
        """The living workers that a `run` has started."""
        return [child for child in _children(run.pid) if _role(child) == role]

    def end_all(self) -> None:
        """SIGKILL to every process that was started here and lives."""
        for process in self._started:
            for child in _children(process.pid):
                with suppress(psutil.NoSuchProcess):
                    child.kill()
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()

    def _output(self, number: int, kind: str) -> str:
        return (self.folder / f"{number}.{kind}").read_text(errors="replace")

    def _popen(self, arguments: tuple[str | Path, ...], environ: Mapping[str, str] | None) -> subprocess.Popen[str]:
        number = len(self._started)
        with (self.folder / f"{number}.out").open("w") as out, (self.folder / f"{number}.err").open("w") as err:
            return self.spawn(arguments, environ, stdout=out, stderr=err)


def lives(process: psutil.Process) -> bool:
    """Whether it runs; what has ended and was not waited for does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _role(process: psutil.Process) -> str:
    try:
        command = process.cmdline()
    except psutil.NoSuchProcess:
        return ""
    return command[command.index("worker") + 1] if "worker" in command else ""
