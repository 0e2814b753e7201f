"""Validation: how fast each level is next to the copy, and whether memory grows with the number of documents.

The copy is one page reader and one indexer, each level has one validator, as `reshelve run` starts them. Each level
gets a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from bench import dataset
from bench.measure import MIB, Measured, Stopwatch
from bench.pipeline import BenchRun
from reshelve.progress import read_tiling
from reshelve.validator.coordinator import validate
from reshelve.validator.levels import Levels

LEVELS = ("counts", "checksums", "samples", "full")
WANTED = {"checksums": 5.0, "full": 1.5}  # times the copy
COPY = "copy"
SETTLING = "refresh"
_ROLES = {COPY: ("page reader", "indexer"), SETTLING: ()}
_READY = "validator ready"


@dataclass(frozen=True, slots=True)
class Step:
    """The copy, the refresh after it, or a level: medians of the rounds.

    cpu_us    of our processes, for a document
    peak_mib  the highest of all rounds, by role
    load      average of the machine, of the minute before the end"""

    documents: int
    name: str
    docs_per_second: float
    cpu_us: float
    peak_mib: dict[str, float]
    load: float

    @classmethod
    def of(cls, name: str, rounds: Sequence[Measured], loads: Sequence[float]) -> Step:
        roles = _ROLES.get(name, ("validator",))
        peaks = {role: max(one.peak_rss[n] for one in rounds) / MIB for n, role in enumerate(roles)}
        cpu = median(one.cpu_us or 0.0 for one in rounds)
        rate = median(one.rate for one in rounds)
        return cls(rounds[0].documents, name, rate, cpu, peaks, median(loads))


class CheckedRun(BenchRun):
    """A run that is copied, and then checked."""

    _validators = 0

    def check(self, *levels: str) -> Measured:
        """One validator at these levels, from the call to the verdict."""
        tiling = read_tiling(self.context)
        with self._workers("validator") as pids:
            stopwatch = Stopwatch(pids)
            asked = Levels.named(levels, self.context.spec.validation)
            found = validate(self.context, tiling, levels=asked, live=False)
            measured = stopwatch.stop(self.documents)
        self._validators += 1
        if not found.clean:
            raise SystemExit(found.summary())
        return measured

    def settle(self) -> Measured:
        """What the copy has left the index to do, and the first level would pay for: a refresh, and merges."""
        indices, started = self.context.opensearch.indices, time.monotonic()
        indices.refresh(index=self.index)

        def merged() -> bool:
            time.sleep(0.2)
            return bool(indices.stats(index=self.index, metric="merge")["_all"]["primaries"]["merges"]["current"] == 0)

        self._wait(merged)
        return Measured(self.documents, time.monotonic() - started, None)

    def _assigned(self, role: str) -> bool:
        if role != "validator":
            return super()._assigned(role)
        return (self._folder / "workers.log").read_text().count(_READY) > self._validators


class ValidationBench:
    """The measurements, one size after the other."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self._folder, self._say, self._warm = folder, say, False
        self.steps: list[Step] = []

    def measure(self, documents: int, rounds: int) -> None:
        """The copy of so many documents and then each level over its index, so often."""
        self._say(f"loading {documents:,} documents")
        dataset.load(os.environ["SOURCE_URL"], documents)
        if not self._warm:
            self._say("once for the servers to compile their code")
            with self._run(documents) as run:
                run.end_to_end()
                run.check(*LEVELS)
            self._warm = True
        taken: dict[str, list[tuple[Measured, float]]] = defaultdict(list)
        for _ in range(rounds):
            with self._run(documents) as run:
                taken[COPY].append(self._told(COPY, run.end_to_end()))
                taken[SETTLING].append(self._told(SETTLING, run.settle()))
                for level in LEVELS:
                    taken[level].append(self._told(level, run.check(level)))
        for name, each in taken.items():
            self.steps.append(Step.of(name, [step for step, _ in each], [load for _, load in each]))

    def _told(self, name: str, step: Measured) -> tuple[Measured, float]:
        """With the load of the machine at its end."""
        self._say(f"{name}: {step.rate:,.0f}/s in {step.seconds:.1f} s")
        return step, os.getloadavg()[0]

    @contextmanager
    def _run(self, documents: int) -> Iterator[CheckedRun]:
        (self._folder / "workers.log").unlink(missing_ok=True)
        run = CheckedRun(self._folder, documents)
        try:
            yield run
        finally:
            run.remove()

    def table(self) -> str:
        """What was measured, how it stands to what is wanted, and how memory grows."""
        lines = [
            f"{'documents':>10}  {'':12}{'docs/s':>10}{'× copy':>8}{'wanted':>11}{'CPU µs':>8}{'load':>6}  peak RSS"
        ]
        copies = {step.documents: step.docs_per_second for step in self.steps if step.name == COPY}
        for step in self.steps:
            ratio = step.docs_per_second / copies[step.documents]
            wanted = WANTED.get(step.name)
            verdict = "" if wanted is None else f"{wanted:g}" + ("" if ratio >= wanted else " SHORT")
            peaks = ", ".join(f"{role} {peak:.0f} MiB" for role, peak in step.peak_mib.items())
            lines.append(
                f"{step.documents:>10,}  {step.name:12}{step.docs_per_second:>10,.0f}{ratio:>8.1f}{verdict:>11}"
                f"{step.cpu_us:>8.1f}{step.load:>6.1f}  {peaks}"
            )
        return "\n".join([*lines, *self._growth()])

    def _growth(self) -> Iterator[str]:
        """Peak memory of the smallest and the largest number of documents, where there are several."""
        sizes = sorted({step.documents for step in self.steps})
        if len(sizes) < 2:
            return
        peaks = {(step.documents, step.name, role): p for step in self.steps for role, p in step.peak_mib.items()}
        yield ""
        for size, name, role in peaks:
            if size == sizes[0]:
                less, more = peaks[size, name, role], peaks[sizes[-1], name, role]
                yield (
                    f"{name + ', ' + role:24}{less:>5.0f} MiB at {size:,}, {more:.0f} MiB at {sizes[-1]:,}:"
                    f" {more / less:.2f} times"
                )

    def write(self, file: Path) -> None:
        """The same facts for scripts."""
        facts = {"steps": [asdict(step) for step in self.steps], "processors": os.cpu_count()}
        file.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
