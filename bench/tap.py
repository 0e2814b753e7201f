"""What an indexer is told by OpenSearch, and when: a proxy between the two, in a process of its own.

`python -m bench.tap URL FILE` prints its own URL, passes every request on, and writes to FILE each bulk request with
its answer and the moment at which the answer was there, so that whoever measures needs nothing of the indexer.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from struct import Struct
from typing import IO

import orjson
import urllib3

_RECORD = Struct(">dII")  # time.time() of the answer; sizes of request and answer
_KEPT = ("authorization", "content-type", "accept")


@dataclass(frozen=True, slots=True)
class Indexed:
    """A document that OpenSearch has acknowledged. at: seconds since 1970 UTC."""

    at: float
    document: bytes


class Tap:
    """The proxy as the process that started it sees it."""

    def __init__(self, url: str, file: Path) -> None:
        self.url, self._file = url, file

    @classmethod
    @contextmanager
    def running(cls, upstream: str, file: Path) -> Iterator[Tap]:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.tap", upstream, str(file)], stdout=subprocess.PIPE, text=True,
            cwd=Path(__file__).parents[1],
        )  # fmt: skip
        try:
            assert process.stdout is not None
            yield cls(process.stdout.readline().strip(), file)
        finally:
            process.terminate()
            process.wait(30)

    def place(self) -> int:
        """What comes from now on is behind it."""
        return self._file.stat().st_size

    def since(self, place: int) -> Iterator[Indexed]:
        """Every document acknowledged behind a place. One that was superseded is none."""
        with self._file.open("rb") as file:
            file.seek(place)
            while len(head := file.read(_RECORD.size)) == _RECORD.size:
                at, body, answer = _RECORD.unpack(head)
                yield from _acknowledged(at, file.read(body), orjson.loads(file.read(answer)))


def _acknowledged(at: float, body: bytes, answer: dict[str, object]) -> Iterator[Indexed]:
    lines = body.split(b"\n")[1::2]
    items = answer["items"] if answer["errors"] else None
    for number, document in enumerate(lines):
        if items is None or items[number]["index"]["status"] < 300:  # type: ignore[index]
            yield Indexed(at, document)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    upstream: urllib3.HTTPConnectionPool
    file: IO[bytes]
    lock = threading.Lock()

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        headers = {name: self.headers[name] for name in _KEPT if name in self.headers}
        answer = self.upstream.urlopen(
            self.command, self.path, body=body or None, headers=headers, retries=False, redirect=False
        )
        at = time.time()
        self.send_response(answer.status)
        self.send_header("content-type", answer.headers.get("content-type", "application/json"))
        self.send_header("content-length", str(len(answer.data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.data)
        if answer.status == 200 and "/_bulk" in self.path:
            with self.lock:
                self.file.write(_RECORD.pack(at, len(body), len(answer.data)) + body + answer.data)
                self.file.flush()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _pass

    def log_message(self, *_: object) -> None:
        """Nothing."""


def main() -> None:
    upstream, file = sys.argv[1:]
    url = urllib3.util.parse_url(upstream)
    _Handler.upstream = urllib3.connection_from_url(upstream, maxsize=8)
    user = f"{url.auth}@" if url.auth else ""
    with Path(file).open("ab") as _Handler.file, ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.daemon_threads = True
        print(f"http://{user}127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
