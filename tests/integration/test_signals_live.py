"""The adaptive throttle's signals, from real servers; and what stops a run."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from reshelve.context import RunContext
from reshelve.local.stack import Endpoints
from reshelve.signals import SignalWatch
from reshelve.spec.throttle import BANDS, AdaptiveThrottle, Band

_ANY = Band(low=0, high=1, limit=1)


def watch(endpoints: Endpoints, database: str, folder: Path, settings: AdaptiveThrottle) -> SignalWatch:
    target = SimpleNamespace(url=endpoints.opensearch_url, username=None, password=None, ca_certs=None)
    target.verify_certs = True
    spec = SimpleNamespace(
        source=SimpleNamespace(postgres=SimpleNamespace(url=database)),
        target=SimpleNamespace(opensearch=target),
        folder=folder,
    )
    return SignalWatch(cast(RunContext, SimpleNamespace(spec=spec)), settings)


def test_every_signal_can_be_looked_at(endpoints: Endpoints, database: str, tmp_path: Path) -> None:
    looking = watch(endpoints, database, tmp_path, AdaptiveThrottle.model_validate(dict.fromkeys(BANDS, _ANY)))
    looking.look()  # rejections are those since the look before
    found = looking.look()
    assert found.troubles == ()
    assert found.values.keys() == set(BANDS) - {"bulk_seconds"}  # which the indexers tell
    assert 0 < found.values["heap"] <= 100 and 0 <= found.values["cpu"] <= 100
    assert found.values["replication_lag"] == 0
    away = watch(endpoints, "postgresql://127.0.0.1:1/none", tmp_path, AdaptiveThrottle(source_sessions=_ANY))
    assert "source_sessions" not in away.look().values and len(away.look().troubles) == 1


class _Probe(BaseHTTPRequestHandler):
    status = 204

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def probe() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Probe) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/may?token=secret"
        server.shutdown()


def test_a_file_and_a_url_stop_a_run(
    endpoints: Endpoints, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with probe() as url:
        settings = AdaptiveThrottle(enabled=False, stop_file="STOP", stop_url=url)
        looking = watch(endpoints, database, tmp_path, settings)
        assert looking.newest.stop == "" and looking.look().values == {}
        (tmp_path / "STOP").touch()
        assert looking.look().stop == "file STOP is there"
        (tmp_path / "STOP").unlink()
        monkeypatch.setattr(_Probe, "status", 503)
        assert looking.look().stop == f"{url.removesuffix('?token=secret')} answers 503"
        monkeypatch.setattr(_Probe, "status", 200)
        assert looking.look().stop == ""
    assert looking.look().stop == "", "one answer that is lost stops nothing"
    assert looking.look().stop.endswith("does not answer")
