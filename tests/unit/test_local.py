"""The local stack's care for processes, locks and downloads, without any of its servers."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
from jgo.maven import MavenContext

from reshelve.local.artifacts import _listed, _WholeFileResolver
from reshelve.local.lock import exclusive
from reshelve.local.process import ServerProcess
from reshelve.local.server import free_port, port_is_free, tail

SLEEPER = (sys.executable, "-c", "import time; print('begun', flush=True); time.sleep(60)")
PARENT = (
    sys.executable,
    "-c",
    "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])",
)


def test_a_process_is_found_again_through_its_file(tmp_path: Path) -> None:
    file, log = tmp_path / "process.json", tmp_path / "logs" / "server.log"
    first = ServerProcess(file)
    assert not first.alive()
    first.spawn(SLEEPER, log, {})
    later = ServerProcess(file)
    assert later.alive()
    assert later.recorded == first.recorded
    while not tail(log):
        time.sleep(0.02)
    assert tail(log) == "begun"
    first.stop(signal.SIGTERM, timeout=10)
    assert not later.alive()
    assert later.recorded is None


def test_a_reused_process_id_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "process.json"
    with subprocess.Popen(SLEEPER, stdout=subprocess.DEVNULL) as stranger:
        try:
            started = psutil.Process(stranger.pid).create_time()
            file.write_text(json.dumps({"pid": stranger.pid, "started": started - 60}))
            process = ServerProcess(file)
            assert not process.alive()
            process.stop(signal.SIGKILL, timeout=1)
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_kill_takes_the_children_and_leaves_a_dead_record(tmp_path: Path) -> None:
    process = ServerProcess(tmp_path / "process.json")
    process.spawn(PARENT, tmp_path / "server.log", {})
    assert process.recorded is not None
    parent = psutil.Process(process.recorded.pid)
    while not (children := parent.children()):
        time.sleep(0.02)
    process.kill()
    assert not process.alive()
    assert process.recorded is not None
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)


def test_a_lock_holds_though_its_holder_removes_the_file(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    waited, order = threading.Event(), []

    def second() -> None:
        with exclusive(file, waited.set):
            order.append("second")
            assert file.exists()

    thread = threading.Thread(target=second)
    with exclusive(file, pytest.fail):
        thread.start()
        assert waited.wait(10)
        order.append("first")
        file.unlink()
    thread.join(10)
    assert order == ["first", "second"]


def test_ports_are_free_and_not_those_of_outgoing_connections() -> None:
    port = free_port()
    assert port_is_free(port)
    assert port < 32768


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A Maven repository over HTTP: its directory and its URL."""
    served = tmp_path / "served"
    served.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """No line per request."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(served))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield served, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("fault", ["none", "checksum", "cancelled"])
def test_a_download_is_complete_or_absent(tmp_path: Path, repository: tuple[Path, str], fault: str) -> None:
    served, url = repository
    folder = served / "org" / "example" / "thing" / "1.0"
    folder.mkdir(parents=True)
    content = bytes(200_000)
    (folder / "thing-1.0.jar").write_bytes(content)
    digest = hashlib.sha1(b"other" if fault == "checksum" else content).hexdigest()
    (folder / "thing-1.0.jar.sha1").write_text(f"{digest}  thing-1.0.jar")

    def progress(files: int, size: int) -> None:
        if fault == "cancelled":
            raise InterruptedError

    cache = tmp_path / "cache"
    context = MavenContext(_WholeFileResolver(progress), repo_cache=cache, remote_repos={"test": url})
    artifact = context.project("org.example", "thing").at_version("1.0").artifact()
    if fault == "none":
        assert Path(artifact.resolve()).read_bytes() == content
    else:
        with pytest.raises(OSError, match="wrong checksum" if fault == "checksum" else None):
            artifact.resolve()
    assert [file.name for file in cache.rglob("*.*") if file.is_file()] == (
        ["thing-1.0.jar"] if fault == "none" else []
    )


def test_a_listing_counts_only_while_its_jars_are_whole(tmp_path: Path) -> None:
    jar, listing = tmp_path / "a.jar", tmp_path / "classpath.json"
    assert _listed(listing) is None
    jar.write_bytes(b"12345")
    listing.write_text(json.dumps({str(jar): 5}))
    assert _listed(listing) == (jar,)
    jar.write_bytes(b"123")
    assert _listed(listing) is None
    jar.unlink()
    assert _listed(listing) is None
