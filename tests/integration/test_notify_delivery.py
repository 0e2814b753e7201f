"""The event as a web server and a consumer of the topic get it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from reshelve.errors import ReshelveError
from reshelve.kafka import KafkaCluster, header_items
from reshelve.notify import delivery
from reshelve.notify.delivery import to_topic, to_webhook
from reshelve.notify.event import CONTENT_TYPE, CloudEvent
from reshelve.spec.notify import Webhook

EVENT = CloudEvent("1", "io.reshelve.reindex.completed", "cities", {"specversion": "1.0", "id": "1", "data": {"ö": 1}})


@dataclass
class Hook:
    """A web server that answers with these codes in turn, the last one for ever. got: (headers, body) of each POST."""

    answers: list[int]
    url: str = ""
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)


@contextmanager
def served(*answers: int) -> Iterator[Hook]:
    hook = Hook(list(answers))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            hook.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
            code = hook.answers.pop(0) if len(hook.answers) > 1 else hook.answers[0]
            self.send_response(code)
            if code == 302:
                self.send_header("Location", hook.url)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    hook.url = f"http://127.0.0.1:{server.server_port}/hook/secret"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hook
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asks again at once."""
    monkeypatch.setattr(delivery, "_RETRIES", delivery._RETRIES.new(backoff_factor=0))


def test_a_webhook_gets_the_event_and_is_asked_again_while_it_is_busy() -> None:
    with served(503, 429, 204) as hook:
        to_webhook(EVENT, Webhook(url=hook.url, headers={"Authorization": "Bearer x"}))
    assert len(hook.got) == 3
    headers, body = hook.got[-1]
    assert json.loads(body) == EVENT.facts
    assert (headers["content-type"], headers["authorization"]) == (CONTENT_TYPE, "Bearer x")


def test_a_webhook_that_refuses_or_leads_elsewhere_or_is_away_is_an_error_without_its_address() -> None:
    for code in (400, 302):
        with served(code) as hook, pytest.raises(ReshelveError) as caught:
            to_webhook(EVENT, Webhook(url=hook.url))
        assert str(code) in caught.value.why and len(hook.got) == 1
    with pytest.raises(ReshelveError) as caught:
        to_webhook(EVENT, Webhook(url=hook.url))  # it is gone
    assert "secret" not in str(caught.value) and "127.0.0.1" in caught.value.where


def test_the_topic_is_made_and_holds_the_event(kafka_bootstrap: str, namespace: str) -> None:
    cluster, topic = KafkaCluster(kafka_bootstrap), f"reshelve.{namespace}.signals"
    to_topic(EVENT, cluster, topic, None)
    to_topic(EVENT, cluster, topic, None)
    first, second = cluster.read(topic, [0])
    assert json.loads(first.value() or b"") == EVENT.facts and first.value() == second.value()
    assert first.key() == b"cities" and dict(header_items(first)) == {"content-type": CONTENT_TYPE.encode()}
