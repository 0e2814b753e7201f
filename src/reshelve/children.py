"""The workers that `reshelve run` starts on its own machine, and what becomes of one that dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from reshelve.errors import BlockedError, ReshelveError, UsageError

T = TypeVar("T")
_RESTART_S: Final = 1.0
_STOP_S: Final = 30.0
# A worker that is killed this often within the time is not unlucky; one that crashes by itself is broken sooner.
_KILLS, _CRASHES, _DEATHS_WITHIN_S = 20, 3, 300.0


@dataclass(slots=True)
class _Child:
    role: str
    number: int
    process: subprocess.Popen[bytes] | None = None
    restart_at: float = 0.0
    deaths: list[float] = field(default_factory=list)


class Children:
    """Worker processes of one run.

    A worker dies with its parent, however that ends: it reads our end of a pipe as its standard input.
    One that dies is started again under the same name, so that its open transaction is ended at once; one
    that says why it can't go on (exit code 2 or 3) ends the run with its reason.

    on_death  told of a death, in one line
    """

    def __init__(self, run: str, environ: Mapping[str, str], logs: Path, on_death: Callable[[str], None]) -> None:
        self._run, self._environ, self._logs, self._on_death = run, dict(environ), logs, on_death
        self._children: list[_Child] = []

    def start(self, role: str, number: int) -> None:
        """Start `number` workers of a role. Raises BlockedError."""
        for n in range(number):
            child = _Child(role, n)
            self._children.append(child)
            self._spawn(child)

    def tend(self) -> None:
        """Start again what died. Raises the ReshelveError that stopped a worker; to be called often."""
        now = time.monotonic()
        for child in self._children:
            if child.process is None:
                if now >= child.restart_at:
                    self._spawn(child)
                continue
            code = child.process.poll()
            if code is None:
                continue
            error = self._error_of(child, code)
            self._close(child)
            if error is not None:
                raise error
            child.deaths = [at for at in child.deaths if now - at < _DEATHS_WITHIN_S] + [now]
            name = f"{child.role} worker {child.number}"
            why = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
            self._on_death(f"{name} ended: {why}; starting it again")
            if len(child.deaths) >= (_KILLS if code < 0 else _CRASHES):
                log = self.log(child.role, child.number)
                raise BlockedError(
                    f"{name} keeps dying",
                    where=str(log),
                    why=f"{len(child.deaths)} times in {_DEATHS_WITHIN_S:.0f} s, last with {why}: {_last_line(log)}",
                    remedy="read its log; running again goes on where it stopped",
                )
            child.restart_at = now + _RESTART_S

    def stop(self, role: str | None = None) -> None:
        """End the workers of a role, or all: cleanly where they manage within 30 s."""
        ending = [c for c in self._children if role in (None, c.role)]
        for child in ending:
            if child.process is not None and child.process.poll() is None:
                child.process.terminate()
        deadline = time.monotonic() + _STOP_S
        for child in ending:
            if child.process is not None:
                try:
                    child.process.wait(max(0.1, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    child.process.kill()
                    child.process.wait()
                self._close(child)
            self._children.remove(child)

    def log(self, role: str, number: int) -> Path:
        """Where a worker's messages go."""
        return self._logs / f"{role}-{number}.log"

    def _spawn(self, child: _Child) -> None:
        command = [sys.executable, "-m", "reshelve", "worker", child.role, self._run, "--with-parent"]
        command += ["--name", f"run-{child.number}"]
        try:
            self._logs.mkdir(parents=True, exist_ok=True)
            with self.log(child.role, child.number).open("ab") as log, self._answer(child).open("wb") as answer:
                child.process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=answer,
                    stderr=log,
                    env=os.environ | self._environ,
                    start_new_session=True,  # Ctrl-C is for the parent, which ends its workers in order
                )
        except OSError as error:
            raise BlockedError(
                f"cannot start a {child.role} worker",
                where=str(self._logs),
                why=str(error),
                remedy="give the logs a disk with room and the right to write (--reports), then run again",
            ) from error

    def _answer(self, child: _Child) -> Path:
        return self._logs / f"{child.role}-{child.number}.out"

    def _error_of(self, child: _Child, code: int) -> ReshelveError | None:
        """The error that a worker left as JSON; None when it died without a word."""
        if code not in (UsageError.exit_code, BlockedError.exit_code):
            return None
        last: dict[str, Any] | None = None
        for line in self._answer(child).read_text(errors="replace").splitlines():
            try:
                last = json.loads(line).get("error", last)
            except (ValueError, AttributeError):
                continue
        if last is None:
            return BlockedError(
                f"{child.role} worker {child.number} can't go on",
                where=str(self.log(child.role, child.number)),
                remedy="read its log",
            )
        return WorkerBlocked(child.role, last)

    def _close(self, child: _Child) -> None:
        if child.process is not None and child.process.stdin is not None:
            child.process.stdin.close()
        child.process = None


def beside(work: Callable[[], T], watch: Callable[[], object], *, patience_s: float = 0.0) -> T:
    """What `work`, which blocks, returns; meanwhile `watch` is called over and over, and what it raises ends the
    waiting, once the work has had `patience_s` seconds to end by itself."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
            future.set_exception(error)

    threading.Thread(target=run, daemon=True, name="beside").start()
    try:
        while not future.done():
            watch()
    except BaseException:
        wait([future], patience_s)
        raise
    return future.result()


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1][:300] if lines else "its log is empty"


class WorkerBlocked(BlockedError):
    """What a worker said before it stopped, with the code that it gave."""

    def __init__(self, role: str, facts: Mapping[str, Any]) -> None:
        super().__init__(
            str(facts.get("what", "")),
            where=str(facts.get("where", "")),
            why=str(facts.get("why", "")),
            remedy=str(facts.get("remedy", "")),
        )
        self.role = role
        self.facts = dict(facts)

    def as_dict(self) -> dict[str, str]:
        return super().as_dict() | {"code": str(self.facts.get("code", self.code)), "role": self.role}
