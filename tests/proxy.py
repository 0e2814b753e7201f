"""A proxy before OpenSearch that does to requests, by plan, what networks, gateways and busy clusters do.

It speaks real HTTP/1.1 on both sides, on loopback only. A fault is applied to a request that its rule
matches; all others pass untouched. Every fault tells whether the server has applied the request."""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit


class Fault(Enum):
    """What happens to a request.

    BUSY, UNAVAILABLE   429, 503 instead of an answer; not forwarded
    DENIED, UNKNOWN_USER 403, 401 in the words of the security plugin; not forwarded
    TOO_LARGE           413, as a proxy with a limit on bodies; not forwarded
    SOME_BUSY           every third item of a bulk is answered with 429 and not forwarded
    NEVER_ARRIVES       the connection is reset; not forwarded
    ANSWER_LOST         forwarded and applied, then the connection is reset
    ANSWER_CUT          forwarded and applied, the answer ends in the middle
    SLOW                forwarded after a while
    """

    BUSY = 429
    UNAVAILABLE = 503
    DENIED = 403
    UNKNOWN_USER = 401
    TOO_LARGE = 413
    SOME_BUSY = "some busy"
    NEVER_ARRIVES = "never arrives"
    ANSWER_LOST = "answer lost"
    ANSWER_CUT = "answer cut"
    SLOW = "slow"


AMBIGUOUS = frozenset({Fault.NEVER_ARRIVES, Fault.ANSWER_LOST, Fault.ANSWER_CUT})
_REFUSALS = {
    Fault.BUSY: ("rejected_execution_exception", "rejected execution of primary operation"),
    Fault.UNAVAILABLE: ("unavailable_shards_exception", "primary shard is not active"),
    Fault.DENIED: ("security_exception", "no permissions for [indices:data/write/bulk] and User [name=search]"),
    Fault.UNKNOWN_USER: ("security_exception", "missing or wrong credentials of [search]"),
}


@dataclass(frozen=True)
class Request:
    """A request as it came in. `number` counts the bulk requests, from 0; others have the number of the next."""

    method: str
    path: str
    body: bytes
    number: int

    @property
    def is_bulk(self) -> bool:
        return "/_bulk" in self.path


Plan = Callable[[Request], Fault | None]
Answer = tuple[int, dict[str, str], bytes]
"""Status, headers, body."""


class FaultProxy:
    """`plan` decides about every request. `applied` counts the faults, `resent` the bulk requests that came
    before, word for word."""

    def __init__(self, target: str) -> None:
        self.plan: Plan = lambda _request: None
        self.applied: Counter[Fault] = Counter()
        self.resent = 0
        self._bodies: set[bytes] = set()
        self.bulks = 0
        self.largest = 0
        self._lock = threading.Lock()
        self._target = urlsplit(target)
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def decide(self, method: str, path: str, body: bytes) -> tuple[Request, Fault | None]:
        with self._lock:
            request = Request(method, path, body, self.bulks)
            if request.is_bulk:
                self.bulks += 1
                digest = hashlib.sha256(body).digest()
                self.resent += digest in self._bodies
                self._bodies.add(digest)
                self.largest = max(self.largest, len(body))
            fault = self.plan(request)
            if fault is not None:
                self.applied[fault] += 1
            return request, fault

    def forward(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        """The server's answer. Raises OSError, HTTPException."""
        connection = http.client.HTTPConnection(self._target.hostname or "", self._target.port or 80, timeout=60)
        try:
            connection.request(method, path, body or None, headers)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    @contextmanager
    def serving(self) -> Iterator[FaultProxy]:
        thread = threading.Thread(target=self._server.serve_forever, args=[0.1], daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False


def _handler(proxy: FaultProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            request, fault = proxy.decide(self.command, self.path, body)
            if fault is None:
                self._pass_on(body)
            elif fault is Fault.SLOW:
                time.sleep(0.3)
                self._pass_on(body)
            elif fault is Fault.SOME_BUSY:
                self._some_busy(request)
            elif fault is Fault.TOO_LARGE:
                self._answer(413, {"Content-Type": "text/html"}, b"<h1>413 Request Entity Too Large</h1>")
            elif fault in _REFUSALS:
                kind, reason = _REFUSALS[fault]
                status = int(fault.value)
                error = {"error": {"type": kind, "reason": reason}, "status": status}
                self._answer(status, {"Content-Type": "application/json"}, json.dumps(error).encode())
            elif fault is Fault.NEVER_ARRIVES:
                self._reset()
            elif fault is Fault.ANSWER_LOST:
                self._forward(body)
                self._reset()
            else:
                status, headers, answer = self._forward(body)
                self._answer(status, headers, answer, cut=True)

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

        def _forward(self, body: bytes) -> Answer:
            headers = {
                name: value
                for name, value in self.headers.items()
                if name.lower() not in ("host", "connection", "content-length", "accept-encoding")
            }
            return proxy.forward(self.command, self.path, headers, body)

        def _pass_on(self, body: bytes) -> None:
            try:
                status, headers, answer = self._forward(body)
            except (OSError, http.client.HTTPException):
                self._reset()
                return
            self._answer(status, headers, answer)

        def _some_busy(self, request: Request) -> None:
            """Merge the server's answers with 429 for every third item."""
            pairs = _items(request.body)
            passed = [pair for n, pair in enumerate(pairs) if n % 3]
            answers: list[dict[str, Any]] = []
            if passed:
                status, headers, answer = self._forward(b"".join(passed))
                if status != 200:
                    self._answer(status, headers, answer)
                    return
                answers = json.loads(answer)["items"]
            busy = {"type": "rejected_execution_exception", "reason": "rejected execution of coordinating operation"}
            merged = [answers.pop(0) if n % 3 else {"index": {"status": 429, "error": busy}} for n in range(len(pairs))]
            body = json.dumps({"errors": True, "items": merged}).encode()
            self._answer(200, {"Content-Type": "application/json"}, body)

        def _answer(self, status: int, headers: dict[str, str], body: bytes, *, cut: bool = False) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body[: len(body) // 2] if cut else body)
            self.close_connection = self.close_connection or cut

        def _reset(self) -> None:
            # Lingering for 0 s makes close() send RST: the client sees a broken connection, not an end.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


def _items(body: bytes) -> list[bytes]:
    """The items of a bulk request: the action's line with the document's, where it has one."""
    lines = iter(body.splitlines(keepends=True))
    return [action + (b"" if action.startswith(b'{"delete"') else next(lines)) for action in lines]
