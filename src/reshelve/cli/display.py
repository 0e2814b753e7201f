"""How a run looks while it goes on: a panel on a terminal, a line now and then elsewhere, NDJSON for programs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from reshelve.cli.output import say, show_json, stderr
from reshelve.plan import Plan
from reshelve.progress import Progress

if TYPE_CHECKING:
    from reshelve.metrics import Metrics

STREAM_VERSION: Final = 1
_LINE_EVERY_S: Final = 10.0
_JSON_EVERY_S: Final = 1.0


def count(number: int) -> str:
    return f"{number:,}"


def rate(per_second: float | None) -> str:
    return "–" if per_second is None else f"{per_second:,.0f}/s"


def span(seconds: float) -> str:
    """Seconds for people: 45 s, 12 min, 3.4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def eta(progress: Progress, expected: int) -> str:
    """Time left as a range, or why it is not known."""
    if progress.waiting:
        return "unknown: waiting"
    left = progress.eta_s(max(expected, progress.tiling.documents))
    if left is None:
        return "unknown: too early to tell"
    low, high = (span(seconds) for seconds in left)
    return low if low == high else f"{low} to {high}"


def behind(progress: Progress) -> str:
    """How the live changes are."""
    seconds = progress.seconds_behind
    text = "behind: not known yet" if seconds is None else f"{seconds:.1f} s behind"
    text += f", lag of changes {count(progress.change_lag or 0)}"
    held = progress.tailer.get("wal_retained")
    return text if held is None else f"{text}, WAL held {megabytes(held)}"


def megabytes(size: int) -> str:
    """Bytes for people, in units of 10**6."""
    return f"{size / 1e6:,.1f} MB"


def summary(stage: str, progress: Progress, expected: int) -> str:
    """The state of a run in one line."""
    tiling = progress.tiling
    text = (
        f"{stage}: read {count(tiling.documents)} of about {count(expected)} ({rate(progress.read_rate.minute)}),"
        f" segments {tiling.segments_done}/{tiling.segments},"
        f" indexed {count(progress.indexed)} ({rate(progress.index_rate.minute)}), lag {count(progress.lag)}"
    )
    if progress.followed:
        text += f", {behind(progress)}"
    if progress.bounds is not None and progress.bounds.any:
        text += f", limit {progress.bounds.text}"
    if progress.rejects:
        text += f", rejects {count(progress.rejects)}"
    if stage in ("copy", "index"):
        text += f", time left {eta(progress, expected)}"
    return text + "".join(f"; {why}" for why in progress.waiting)


class LineDisplay:
    """A line when the stage changes, when something waits, and every ten seconds."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self._at = plan, 0.0
        self._waiting: tuple[str, ...] = ()

    def stage(self, name: str) -> None:
        say(f"stage: {name}")
        self._at = time.monotonic()

    def progress(self, stage: str, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._at >= _LINE_EVERY_S or progress.waiting != self._waiting:
            self._at, self._waiting = now, progress.waiting
            say(summary(stage, progress, self._plan.estimated_documents))

    def say(self, text: str) -> None:
        say(text)

    def close(self) -> None:
        pass


class JsonDisplay:
    """One JSON object a line on stdout: {"v": 1, "event": …}."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self._at = plan, 0.0

    def stage(self, name: str) -> None:
        self._emit("stage", {"stage": name})

    def progress(self, stage: str, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._at >= _JSON_EVERY_S:
            self._at = now
            self._emit("progress", {"stage": stage, **progress.as_dict()})

    def say(self, text: str) -> None:
        self._emit("message", {"text": text})

    def close(self) -> None:
        pass

    def _emit(self, event: str, facts: dict[str, Any]) -> None:
        show_json({"v": STREAM_VERSION, "event": event, "run": self._plan.run, **facts})


class LiveDisplay:
    """A panel that is drawn again in place; messages scroll above it."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._live = Live(console=stderr, refresh_per_second=4, transient=True)
        self._live.start()
        self._stage = ""
        self._since = time.monotonic()

    def stage(self, name: str) -> None:
        if self._stage:
            say(f"{self._stage}: done in {span(time.monotonic() - self._since)}")
        self._stage, self._since = name, time.monotonic()

    def progress(self, stage: str, progress: Progress) -> None:
        tiling = progress.tiling
        expected = max(self._plan.estimated_documents, tiling.rows, 1)
        rows = Table.grid(padding=(0, 2))
        rows.add_row("read", self._bar(tiling.rows, expected), f"{count(tiling.rows)} of about {count(expected)}",
                     rate(progress.read_rate.minute), f"segments {tiling.segments_done}/{tiling.segments}")  # fmt: skip
        rows.add_row("indexed", self._bar(progress.indexed, expected), count(progress.indexed),
                     rate(progress.index_rate.minute), f"lag {count(progress.lag)}")  # fmt: skip
        head = Text(f"{self._plan.run}  {stage}", style="bold")
        head.append(f"  since {span(time.monotonic() - self._since)}", style="dim")
        tail = [Text(f"time left {eta(progress, expected)} · safe to stop: yes (Ctrl-C; the same command resumes)")]
        if progress.bounds is not None and progress.bounds.any:
            tail.insert(0, Text(f"limit {progress.bounds.text}"))
        if progress.followed:
            tail.insert(0, Text(f"changes {behind(progress)}"))
        if progress.rejects:
            tail.append(
                Text(f"rejects {count(progress.rejects)}: reshelve rejects list {self._plan.run}", style="yellow")
            )
        tail += [Text(why, style="yellow") for why in progress.waiting]
        self._live.update(Group(head, rows, *tail))

    def say(self, text: str) -> None:
        say(text)

    def close(self) -> None:
        self._live.stop()

    def _bar(self, done: int, of: int) -> ProgressBar:
        return ProgressBar(total=of, completed=done, width=30)


class MeteredDisplay:
    """A display whose figures are served to Prometheus too."""

    def __init__(self, display: Display, metrics: Metrics) -> None:
        self._display, self._metrics = display, metrics

    def stage(self, name: str) -> None:
        self._metrics.stage(name)
        self._display.stage(name)

    def progress(self, stage: str, progress: Progress) -> None:
        self._metrics.progress(stage, progress)
        self._display.progress(stage, progress)

    def say(self, text: str) -> None:
        self._display.say(text)

    def close(self) -> None:
        self._metrics.close()
        self._display.close()


Display: TypeAlias = LineDisplay | JsonDisplay | LiveDisplay


def make_display(
    plan: Plan, as_json: bool, *, metrics_port: int | None = None, metrics_host: str = "127.0.0.1"
) -> Display | MeteredDisplay:
    """What suits where the output goes; with a port, metrics are served there. Raises UsageError."""
    metrics = None
    if metrics_port is not None:
        from reshelve.metrics import Metrics  # its library costs memory, and most runs are not scraped

        metrics = Metrics(plan, metrics_host, metrics_port)
        say(f"metrics: http://{metrics_host}:{metrics.port}/metrics")
    display: Display = JsonDisplay(plan) if as_json else LiveDisplay(plan) if stderr.is_terminal else LineDisplay(plan)
    return display if metrics is None else MeteredDisplay(display, metrics)
