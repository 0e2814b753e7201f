"""Changes from outside: pgbench updates rows of the benchmark's table, one in each transaction.

Every row carries the wall time of its update, taken just before its commit.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.dataset import KEY, TABLE
from reshelve.errors import ReshelveError

_CLIENTS = 4
_UPDATE = f"update {TABLE} set price = price + 1, updated_at = clock_timestamp() where {KEY} = :id;\n"


@dataclass(frozen=True, slots=True)
class Done:
    """What pgbench did. seconds: without connecting."""

    changes: int
    seconds: float

    @property
    def rate(self) -> float:
        return self.changes / self.seconds


class Load:
    """pgbench with prepared statements over four connections. `folder` takes its scripts."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url, self._folder = url, folder

    def at_rate(self, rate: int, seconds: float, keys: int) -> Done:
        """So many changes a second, of keys at random below `keys`."""
        script = f"\\set id random(0, {keys - 1})\n{_UPDATE}"
        return self._wait(self._start(script, "-R", str(rate), "-T", f"{seconds:.0f}"))

    def distinct(self, changes: int) -> Done:
        """As fast as it goes, each key once, from 0 on."""
        each = changes // _CLIENTS
        script = f"\\set id :client_id * {each} + :n\n\\set n :n + 1\n{_UPDATE}"
        return self._wait(self._start(script, "-D", "n=0", "-t", str(each)))

    def hot(self, changes: int, keys: int) -> Done:
        """As fast as it goes, on so few keys."""
        script = f"\\set id random(0, {keys - 1})\n{_UPDATE}"
        return self._wait(self._start(script, "-t", str(changes // _CLIENTS)))

    @contextmanager
    def meanwhile(self, rate: int, keys: int) -> Iterator[None]:
        """So many changes a second within the block."""
        script = f"\\set id random(0, {keys - 1})\n{_UPDATE}"
        process = self._start(script, "-R", str(rate), "-T", "3600")
        try:
            yield
            if process.poll() is not None:
                raise SystemExit(f"pgbench ended: {process.communicate()}")
        finally:
            process.terminate()
            process.communicate()

    def _start(self, script: str, *arguments: str) -> subprocess.Popen[str]:
        file = self._folder / "pgbench.sql"
        file.write_text(script)
        command = [_pgbench(), "--no-vacuum", "--protocol", "prepared", "-c", str(_CLIENTS), "-j", "1"]
        return subprocess.Popen(
            [*command, *arguments, "-f", str(file), self._url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _wait(self, process: subprocess.Popen[str]) -> Done:
        try:
            out, err = process.communicate()
        except BaseException:
            process.kill()
            raise
        processed = re.search(r"actually processed: (\d+)", out)
        rate = re.search(r"tps = ([\d.]+)", out)
        if process.returncode or not processed or not rate:
            raise SystemExit(f"pgbench failed: {out}{err}")
        return Done(int(processed[1]), int(processed[1]) / float(rate[1]))


def _pgbench() -> str:
    from reshelve.local.postgres import postgres_bin

    try:
        return str(postgres_bin() / "pgbench")
    except ReshelveError:
        found = shutil.which("pgbench")
        if found is None:
            raise
        return found
