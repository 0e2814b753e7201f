"""Java programs by their Maven coordinates: downloaded once, complete or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import requests
import urllib3
from jgo.maven import MavenContext, PythonResolver
from requests.adapters import HTTPAdapter

from reshelve.errors import ReshelveError
from reshelve.local.lock import exclusive

_CONNECTIONS: Final = 8
_PARTIAL: Final = ".part"
_TIMEOUT: Final = 60  # seconds for one answer of the repository
_PROGRESS_EVERY: Final = 3.0  # seconds between two lines of progress


def cache_directory() -> Path:
    """Where downloads are kept, shared by all stacks of this user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reshelve"


def classpath(
    coordinates: Sequence[str], report: Callable[[str], None], cancelled: Callable[[], bool]
) -> tuple[Path, ...]:
    """The jars of `coordinates` (`group:artifact:version`) and all they need, the given ones first.

    From the cache without any network where they were resolved before. Raises ReshelveError when
    a download fails or `cancelled` says so; what is there already is used by the next attempt."""
    _, name, version = coordinates[0].split(":")
    place = cache_directory() / f"{name}-{version}-{_short_hash(coordinates)}"
    listing = place / "classpath.json"
    with exclusive(place / "lock", lambda: report(f"{name}: another process is downloading it")):
        if (jars := _listed(listing)) is not None:
            return jars
        try:
            jars = _Download(place / "repository", f"{name} {version}", report, cancelled).run(coordinates)
        except (requests.RequestException, OSError, RuntimeError, ValueError) as error:
            raise ReshelveError(
                f"cannot download {name} {version}",
                where="Maven Central",
                why=str(error),
                remedy="check the network (HTTPS_PROXY and REQUESTS_CA_BUNDLE are honoured) and try again; "
                "what has been downloaded is kept",
            ) from error
        temporary = listing.with_suffix(".new")
        temporary.write_text(json.dumps({str(jar): jar.stat().st_size for jar in jars}))
        temporary.replace(listing)
        return jars


def _listed(listing: Path) -> tuple[Path, ...] | None:
    """The jars of a complete download; None where there is none, or a jar has gone or changed its size."""
    if not listing.exists():
        return None
    sizes = {Path(jar): size for jar, size in json.loads(listing.read_text()).items()}
    if all(jar.exists() and jar.stat().st_size == size for jar, size in sizes.items()):
        return tuple(sizes)
    return None


def _short_hash(coordinates: Sequence[str]) -> str:
    return hashlib.sha256(" ".join(coordinates).encode()).hexdigest()[:8]


class _Download:
    """Resolves coordinates and fetches their jars, several at a time, saying how far it has come."""

    def __init__(
        self, repository: Path, label: str, report: Callable[[str], None], cancelled: Callable[[], bool]
    ) -> None:
        self._label = label
        self._report = report
        self._cancelled = cancelled
        for abandoned in repository.rglob(f"*{_PARTIAL}"):  # by a process that was killed
            abandoned.unlink()
        self._resolver = _WholeFileResolver(self._progress)
        self._context = MavenContext(resolver=self._resolver, repo_cache=repository, timeout=_TIMEOUT)
        self._total = 0
        self._next_line = time.monotonic() + _PROGRESS_EVERY

    def run(self, coordinates: Sequence[str]) -> tuple[Path, ...]:
        started = time.monotonic()
        self._report(f"{self._label}: resolving from Maven Central (once; kept in {cache_directory()})")
        wanted = [self._context.create_dependency(coordinate) for coordinate in coordinates]
        inputs, transitive = self._resolver.resolve(wanted)
        artifacts = [
            dependency.artifact
            for dependency in [*inputs, *transitive]
            if dependency.scope in (None, "compile", "runtime")
        ]
        self._total = len(artifacts)
        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            jars = tuple(Path(path) for path in pool.map(lambda artifact: artifact.resolve(), artifacts))
        size = sum(jar.stat().st_size for jar in jars) / 1e6
        self._report(f"{self._label}: {len(jars)} files, {size:.0f} MB in {time.monotonic() - started:.0f} s")
        return jars

    def _progress(self, files: int, size: int) -> None:
        if self._cancelled():
            raise InterruptedError("the download was cancelled")
        if time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + _PROGRESS_EVERY
            of = f" ({self._total} jars)" if self._total else ""
            self._report(f"{self._label}: {files} files{of}, {size / 1e6:.0f} MB downloaded")


class _WholeFileResolver(PythonResolver):
    """jgo's resolver writes straight into the repository and only warns of a wrong checksum, so that
    an interrupted download would be taken for complete. This one verifies, then renames."""

    def __init__(self, progress: Callable[[int, int], None]) -> None:
        super().__init__()
        self._progress = progress
        self._files = self._bytes = 0
        self._counting = threading.Lock()
        retry = urllib3.Retry(total=5, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504))
        self._session = requests.Session()  # one connection for many files instead of one for each
        self._session.mount("https://", HTTPAdapter(max_retries=retry, pool_maxsize=_CONNECTIONS))

    def download(self, artifact: Any) -> Path:
        """Raises requests.RequestException, or OSError when the checksum is wrong."""
        target: Path = artifact.cached_path
        target.parent.mkdir(parents=True, exist_ok=True)
        repository = next(iter(artifact.context.remote_repos.values()))
        url = f"{repository}/{artifact.component.path_prefix.as_posix()}/{artifact.filename}"
        partial = target.with_name(f"{target.name}.{os.getpid()}.{threading.get_ident()}{_PARTIAL}")
        try:
            digest = self._fetch(url, partial)
            expected = self._session.get(f"{url}.sha1", timeout=_TIMEOUT)
            expected.raise_for_status()
            if digest != expected.text.split()[0]:
                raise OSError(f"wrong checksum of {url}: {digest}, not {expected.text.split()[0]}")
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
        return target

    def _fetch(self, url: str, file: Path) -> str:
        """Write the answer to `file`; its SHA-1 as hexadecimal digits."""
        digest = hashlib.sha1(usedforsecurity=False)
        with self._session.get(url, stream=True, timeout=_TIMEOUT) as answer, file.open("wb") as output:
            answer.raise_for_status()
            for chunk in answer.iter_content(1 << 16):
                output.write(chunk)
                digest.update(chunk)
                self._count(files=0, size=len(chunk))
        self._count(files=1, size=0)
        return digest.hexdigest()

    def _count(self, files: int, size: int) -> None:
        with self._counting:
            self._files += files
            self._bytes += size
            self._progress(self._files, self._bytes)
