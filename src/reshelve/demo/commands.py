"""The commands of Reshelve, run by the demo as anybody would run them."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from reshelve.errors import ReshelveError

_STOP_S: Final = 60.0  # a run ends its workers within 30


class Commands:
    """Runs `reshelve …` in processes of their own; what they print goes to stderr.

    Ctrl-C reaches them through us, once: they are in a process group of their own."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = dict(environ)

    def __call__(self, *arguments: str) -> None:
        """Run a command to its end. Raises ReshelveError when it fails. When we are interrupted, so is it,
        and it has ended when this raises."""
        with self.beside(*arguments):
            pass

    @contextmanager
    def beside(self, *arguments: str) -> Iterator[Running]:
        """Run a command beside the block, and wait at its end for the command's. Raises ReshelveError when it fails.
        When the block raises, or we are interrupted, it is ended, and has ended when this raises."""
        command = [sys.executable, "-m", "reshelve", *arguments]
        process = subprocess.Popen(
            command, env=self._environ, stdin=subprocess.DEVNULL, stdout=sys.stderr, process_group=0
        )
        running = Running(process, shlex.join(arguments))
        try:
            yield running
            running.wait()
        except BaseException:
            _end(process)
            raise


class Running:
    """A command under way."""

    def __init__(self, process: subprocess.Popen[bytes], words: str) -> None:
        self._process, self._words = process, words

    def require(self) -> None:
        """Raises ReshelveError when it has ended already."""
        if self._process.poll() is not None:
            self.wait()
            raise ReshelveError(f"`reshelve {self._words}` has ended", remedy="its own words stand above")

    def wait(self) -> None:
        """Until its end. Raises ReshelveError when it failed."""
        code = self._process.wait()
        if code:
            raise ReshelveError(
                f"`reshelve {self._words}` failed",
                why=f"killed by signal {-code}" if code < 0 else f"exit code {code}; its own words stand above",
                remedy="follow its remedy; the logs of its workers lie beside its report",
            )


def shown_name() -> str:
    """How to call Reshelve here: by its name where the shell finds it, by its path where it doesn't."""
    beside = Path(sys.executable).parent / "reshelve"
    if shutil.which("reshelve") is not None or not beside.exists():
        return "reshelve"
    here = Path.cwd()
    return str(beside.relative_to(here)) if beside.is_relative_to(here) else str(beside)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
