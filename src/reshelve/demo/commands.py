"""The commands of Reshelve, run by the demo as anybody would run them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
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
        command = [sys.executable, "-m", "reshelve", *arguments]
        process = subprocess.Popen(
            command, env=self._environ, stdin=subprocess.DEVNULL, stdout=sys.stderr, process_group=0
        )
        try:
            code = process.wait()
        except BaseException:
            _end(process)
            raise
        if code:
            raise ReshelveError(
                f"`reshelve {' '.join(arguments)}` failed",
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
