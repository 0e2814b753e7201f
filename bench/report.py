"""The table for people and `latest.json` for scripts."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from bench.measure import MIB, Figure

DEBEZIUM_ROWS_PER_SECOND = 24_000  # what `share` of source_to_topic is relative to
TITLES = {
    "source_to_topic": "PostgreSQL → topic, one reader",
    "topic_to_index": "topic → index, one indexer",
    "end_to_end": "PostgreSQL → Kafka → index",
    "parallel_bulk": "psycopg → parallel_bulk (2 × 2,000)",
    "reindex": "_reindex, slices=auto",
}
PEERS = """\
Others, measured once on this kind of machine (share of the ceiling; not measured by this command):
  PostgreSQL → topic   Debezium 3.7 snapshot 24,000 rows/s steady, 108 µs CPU a row, 1.4 GB
  topic → index        Aiven sink 0.40 · Flink 0.54 · Faust take+bulk 0.26
  source → index       parallel_bulk script 0.55 · Flink JDBC 0.58 · pgsync 0.28 · _reindex 0.88 (no database, no Kafka)
  CPU a document       script 32 µs · pgsync 122 · Connect 121 · Flink 97–110
  peak memory          script 110 MiB · Flink 1.2 GB"""


@dataclass(frozen=True, slots=True)
class Target:
    """A figure to reach. `least`: more is better; otherwise less is."""

    title: str
    figure: str
    value: str
    reach: float
    wanted: float
    least: bool

    def verdict(self, measured: float) -> str:
        met = [measured >= limit if self.least else measured <= limit for limit in (self.reach, self.wanted)]
        return "wanted" if met[1] else "reached" if met[0] else "SHORT"


TARGETS = (
    Target("PostgreSQL → topic, rows/s over Debezium's 24,000", "source_to_topic", "share", 2.5, 4, True),
    Target("topic → index, share of the ceiling", "topic_to_index", "share", 0.88, 0.95, True),
    Target("end to end, share of the ceiling", "end_to_end", "share", 0.72, 0.85, True),
    Target("CPU µs a document, all our processes", "end_to_end", "cpu_us_per_document", 16, 12, False),
    Target("peak RSS of a process, MiB", "end_to_end", "peak_rss_mib", 150, 100, False),
)


def table(figures: Mapping[str, Figure], ceilings: Sequence[float]) -> str:
    """What was measured, and how it stands to the targets."""
    lines = [f"{'':38}{'docs/s':>9}{'share':>8}{'CPU µs/doc':>12}{'peak RSS':>10}"]
    low, middle, high = min(ceilings), sorted(ceilings)[len(ceilings) // 2], max(ceilings)
    lines.append(f"{'raw _bulk ceiling (2 × 2,000)':38}{middle:>9,.0f}{1:>8.2f}   {low:,.0f} to {high:,.0f}")
    for name, figure in figures.items():
        cpu = "server" if figure.cpu_us_per_document is None else f"{figure.cpu_us_per_document:.1f}"
        rss = "" if figure.peak_rss_mib is None else f"{figure.peak_rss_mib:.0f} MiB"
        share = f"{figure.share:.2f}" + ("×" if name == "source_to_topic" else " ")
        lines.append(f"{TITLES[name]:38}{figure.docs_per_second:>9,.0f}{share:>9}{cpu:>11}{rss:>10}")
    lines += [
        "share: of the mean of the ceilings just before and after; × : times the 24,000 rows/s of Debezium's snapshot.",
        "Timed from the first work that a started worker is given to the last commit; every index's count verified.",
        "",
        f"{'':54}{'measured':>10}{'to reach':>10}{'wanted':>8}",
    ]
    for target in TARGETS:
        if target.figure in figures:
            measured = getattr(figures[target.figure], target.value)
            lines.append(
                f"{target.title:54}{measured:>10.4g}{target.reach:>10g}{target.wanted:>8g}  {target.verdict(measured)}"
            )
    return "\n".join([*lines, "", PEERS])


def write_latest(
    file: Path, figures: Mapping[str, Figure], ceilings: Sequence[float], documents: int, rounds: int
) -> None:
    """The same facts for scripts."""
    facts = {name: asdict(figure) for name, figure in figures.items()} | {
        "ceilings_docs_per_second": [round(rate) for rate in ceilings],
        "documents": documents,
        "rounds": rounds,
        "machine": {
            "system": platform.platform(),
            "python": platform.python_version(),
            "processors": os.cpu_count(),
            "memory_mib": psutil.virtual_memory().total // MIB,
            "load_average": [round(load, 2) for load in os.getloadavg()],
        },
    }
    file.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
