"""`make bench`: measure the pipeline next to the ceiling, print the table, write bench/latest.json."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from opensearchpy import OpenSearch

from bench import dataset
from bench.baselines import Bodies, in_process, reindex
from bench.live import LiveBench
from bench.measure import Figure, Measured
from bench.pipeline import BenchRun
from bench.report import DEBEZIUM_ROWS_PER_SECOND, TITLES, table, write_latest
from bench.validation import ValidationBench
from reshelve.consumers import generation
from reshelve.errors import ReshelveError

LATEST = Path(__file__).with_name("latest.json")
LATEST_LIVE = Path(__file__).with_name("latest_live.json")
LATEST_VALIDATION = Path(__file__).with_name("latest_validation.json")
_ALONE = ("live", "validation")
_VARIABLES = ("SOURCE_URL", "OPENSEARCH_URL", "KAFKA_BOOTSTRAP")


class Bench:
    """The steps of a round, and the ceilings between them."""

    def __init__(self, documents: int, folder: Path) -> None:
        self._documents, self._folder, self._bodies = documents, folder, folder / "bodies.ndjson"
        self._client = OpenSearch(os.environ["OPENSEARCH_URL"], timeout=120)
        self.steps: dict[str, list[Measured]] = defaultdict(list)
        self.references: dict[str, list[float]] = defaultdict(list)
        self.ceilings: list[float] = []

    def prepare(self) -> None:
        """Data, prebuilt requests, and a first pass that nobody counts: the server's code is compiled as it runs."""
        say(f"loading {self._documents:,} documents")
        dataset.load(os.environ["SOURCE_URL"], self._documents)
        Bodies.build(os.environ["SOURCE_URL"], self._bodies)
        say("warming the servers up")
        for _ in range(2):
            self._ceiling()
        self.ceilings.clear()

    def round(self, only: set[str]) -> None:
        """Each step once, a ceiling before and after it."""
        before = self._ceiling()
        if only & {"source_to_topic", "topic_to_index"}:
            with self._run() as run:
                self._take("source_to_topic", run.source_to_topic(), DEBEZIUM_ROWS_PER_SECOND)
                if "topic_to_index" in only:
                    before = self._ceiling()
                    step = run.topic_to_index()
                    self._verify(run.index)
                    before = self._next("topic_to_index", step, before)
        if "end_to_end" in only:
            with self._run() as run:
                step = run.end_to_end()
                self._verify(run.index)
            before = self._next("end_to_end", step, before)
        if "parallel_bulk" in only:
            with self._index("script") as index:
                step = in_process(
                    "parallel_bulk", os.environ["OPENSEARCH_URL"], index, os.environ["SOURCE_URL"],
                    str(self._documents),
                )  # fmt: skip
                self._verify(index)
            before = self._next("parallel_bulk", step, before)
        if "reindex" in only:
            with self._index("source") as source, self._index("reindexed") as index:
                self._fill(source)
                self._verify(source)
                before = self._ceiling()
                step = reindex(self._client, source, index, self._documents)
                self._verify(index)
            self._next("reindex", step, before)

    def figures(self) -> dict[str, Figure]:
        return {name: Figure.of(self.steps[name], self.references[name]) for name in TITLES if name in self.steps}

    def _next(self, name: str, step: Measured, before: float) -> float:
        """Take a step, with the ceilings around it; the one after it is the next one's before."""
        after = self._ceiling()
        self._take(name, step, (before + after) / 2)
        return after

    def _take(self, name: str, step: Measured, reference: float) -> None:
        self.steps[name].append(step)
        self.references[name].append(reference)
        cpu = "" if step.cpu_us is None else f", {step.cpu_us:.1f} µs CPU a document"
        rss = "".join(f", {peak / 2**20:.0f} MiB" for peak in step.peak_rss)
        say(f"{TITLES[name]}: {step.rate:,.0f}/s, {step.rate / reference:.2f}{cpu}{rss}")

    def _ceiling(self) -> float:
        with self._index("ceiling") as index:
            rate = self._fill(index).rate
            self._verify(index)
        self.ceilings.append(rate)
        say(f"ceiling: {rate:,.0f}/s")
        return rate

    def _fill(self, index: str) -> Measured:
        return in_process("ceiling", os.environ["OPENSEARCH_URL"], index, str(self._bodies), str(self._documents))

    @contextmanager
    def _run(self) -> Iterator[BenchRun]:
        run = BenchRun(self._folder, self._documents)
        try:
            yield run
        finally:
            run.remove()

    @contextmanager
    def _index(self, name: str) -> Iterator[str]:
        """An index created exactly as a run creates its generation."""
        index = f"reshelve-bench-{name}"
        self._client.indices.delete(index=index, params={"ignore_unavailable": "true"})
        generation.create(self._client, index, f"{index}.write", dataset.DEFINITION)
        try:
            yield index
        finally:
            self._client.indices.delete(index=index)

    def _verify(self, index: str) -> None:
        self._client.indices.refresh(index=index)
        count = self._client.count(index=index)["count"]
        if count != self._documents:
            raise SystemExit(f"{index} holds {count:,} documents, not {self._documents:,}")


@contextmanager
def servers(heap: str, folder: Path) -> Iterator[None]:
    """Those that the environment names, or a local stack of our own for as long as it takes."""
    if all(os.environ.get(name) for name in _VARIABLES):
        yield
        return
    from reshelve.local.stack import LocalStack

    stack = LocalStack(folder / "stack", heap, report=say)
    try:
        os.environ.update(stack.up().environ())
        yield
    finally:
        stack.down()


def say(text: str) -> None:
    print(time.strftime("%H:%M:%S ") + text, file=sys.stderr, flush=True)


def main() -> None:
    options = argparse.ArgumentParser(prog="make bench", description=__doc__)
    options.add_argument(
        "--documents", type=_sizes, default=(300_000,), help="of about 600 bytes (300000); validation: several sizes"
    )
    options.add_argument("--rounds", type=int, default=1, help="repeat all steps and take the medians (1)")
    options.add_argument(
        "--only", default=",".join(TITLES), help="steps, with commas between: %(default)s; or live; or validation"
    )
    options.add_argument("--seconds", type=float, default=20, help="live: of changes at each rate (20)")
    options.add_argument("--burst", type=int, default=100_000, help="live: changes as fast as they are made (100,000)")
    options.add_argument("--heap", default="2g", help="OpenSearch's heap, where the local stack is started (2g)")
    given = options.parse_args()
    only = set(given.only.split(","))
    if only & {*_ALONE} and len(only) > 1:
        options.error(f"{' and '.join(_ALONE)} are taken by themselves: they have no ceiling")
    if unknown := only - {*TITLES, *_ALONE}:
        options.error(f"no such step: {', '.join(sorted(unknown))}; there are {', '.join((*TITLES, *_ALONE))}")
    if len(given.documents) > 1 and only != {"validation"}:
        options.error("several sizes are for the step validation")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # through the clean-up, as Ctrl-C
    with tempfile.TemporaryDirectory(prefix="reshelve-bench-") as folder, servers(given.heap, Path(folder)):
        try:
            if only == {"live"}:
                _measure_live(given, Path(folder))
            elif only == {"validation"}:
                _measure_validation(given, Path(folder))
            else:
                _measure(given, only, Path(folder))
        finally:
            dataset.drop(os.environ["SOURCE_URL"])


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.split(","))


def _measure(given: argparse.Namespace, only: set[str], folder: Path) -> None:
    bench = Bench(given.documents[0], folder)
    bench.prepare()
    for _ in range(given.rounds):
        bench.round(only)
    figures = bench.figures()
    print(table(figures, bench.ceilings))
    write_latest(LATEST, figures, bench.ceilings, given.documents[0], given.rounds)
    say(f"also in {LATEST}")


def _measure_live(given: argparse.Namespace, folder: Path) -> None:
    documents = given.documents[0]
    say(f"loading {documents:,} documents")
    dataset.load(os.environ["SOURCE_URL"], documents)
    live = LiveBench(documents, folder, say)
    live.follow(given.seconds, given.burst)
    for _ in range(given.rounds):
        live.copy()
    print(live.table())
    live.write(LATEST_LIVE)
    say(f"also in {LATEST_LIVE}")


def _measure_validation(given: argparse.Namespace, folder: Path) -> None:
    bench = ValidationBench(folder, say)
    for documents in given.documents:
        bench.measure(documents, given.rounds)
    print(bench.table())
    bench.write(LATEST_VALIDATION)
    say(f"also in {LATEST_VALIDATION}")


if __name__ == "__main__":
    try:
        main()
    except ReshelveError as error:
        raise SystemExit(str(error)) from None
