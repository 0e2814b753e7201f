"""A run that begins outside its maintenance window, and comes to the window's end in its copy."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from load import wait_for
from opensearchpy import OpenSearch
from pipeline import Pipeline

from reshelve.cli.connection import cluster_environment
from reshelve.progress import Progress
from reshelve.run import Run
from reshelve.session import open_session
from reshelve.spec import load
from reshelve.supervision import Options

Docs = Callable[[int], Pipeline]


class Clock:
    """The time of day, as the test has it."""

    def __init__(self) -> None:
        self.set("09:00")

    def set(self, time: str) -> None:
        self.now = datetime.fromisoformat(f"2026-03-02T{time}").replace(tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


class Onlooker:
    """What the driver of a run shows."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.newest: Progress | None = None

    def stage(self, name: str) -> None:
        self.say(f"stage {name}")

    def progress(self, stage: str, progress: Progress) -> None:
        self.newest = progress

    def say(self, text: str) -> None:
        self.said.append(text)

    @property
    def paused(self) -> bool:
        return self.newest is not None and self.newest.pause is not None


def test_a_run_works_inside_its_window_only(docs: Docs, opensearch: OpenSearch) -> None:
    p, clock, onlooker, stop = docs(2_000), Clock(), Onlooker(), threading.Event()
    window = {"zone": "UTC", "open": [{"start": "10:00", "end": "12:00"}]}
    p.write(limits={"documents_per_second": 500}, window=window)
    session = open_session(load(p.spec, p.environ), anew=False, until=None, stop=stop, report=onlooker.say)
    environ = p.environ | cluster_environment(p.cluster)
    options = Options(None, 1, 1, 1, p.reports, environ, clock)

    def rows() -> int:
        return sum(receipt.rows for _, receipt in p.receipts())

    with ThreadPoolExecutor(1) as pool:
        driven = pool.submit(lambda: Run(session, options, onlooker, stop).drive())
        try:
            wait_for("it waits", lambda: any("closed until Mon 2026-03-02 10:00 (UTC)" in one for one in onlooker.said))
            assert not opensearch.indices.exists(index=session.context.plan.index)
            clock.set("11:59")
            wait_for("it copies", lambda: rows() > 0 or driven.done())
            clock.set("12:00")
            wait_for("it pauses", lambda: onlooker.paused or driven.done())
            p.reshelve("resume", session.context.run, "--by", "jane").expect(0)
            wait_for("that is journaled", lambda: "resume" in [one["kind"] for one in p.states()[-1].commands])
            assert onlooker.paused and not driven.done(), "a person's word alone does not open a window"
            read = rows()
            assert read < 2_000
            clock.set("10:30")
            assert driven.result(120).state == "completed"
        finally:
            stop.set()
    p.assert_equal(opensearch)
    told = [(one["kind"], one["by"]) for one in p.states()[-1].commands]
    assert told == [("hold", "window"), ("release", "window"), ("hold", "window"), ("resume", "jane"),
                    ("release", "window")]  # fmt: skip
