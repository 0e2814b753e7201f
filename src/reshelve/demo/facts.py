"""What happened in the demo, and what should never happen."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from reshelve.demo.comparison import Comparison
from reshelve.demo.searcher import Searches
from reshelve.demo.source import Loaded
from reshelve.demo.writer import Written


@dataclass(frozen=True, slots=True)
class Built:
    """One rebuild, from the report of its run. `seconds` from the first page to the last document indexed;
    `total_seconds` with planning, validation and swap. `drift` is the number of differences found."""

    run: str
    index: str
    documents: int
    seconds: float
    total_seconds: float
    partitions_validated: int
    drift: int
    report: str

    @property
    def documents_per_second(self) -> float:
        return self.documents / self.seconds


@dataclass(frozen=True, slots=True)
class Hit:
    name: str
    country: str
    population: int


@dataclass(frozen=True, slots=True)
class Found:
    """What search.json finds: the number of hits, and the first of them."""

    total: int
    hits: tuple[Hit, ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """What happened. `home` is where servers of our own keep their data, None for servers that were given."""

    loaded: Loaded
    v1: Built
    v2: Built
    searches: Searches
    written: Written
    compared: Comparison
    before: Found
    after: Found
    seconds: float
    home: str | None

    def as_dict(self) -> dict[str, Any]:
        found = asdict(self)
        del found["loaded"]["names"]
        for name, built in (("v1", self.v1), ("v2", self.v2)):
            found[name]["documents_per_second"] = round(built.documents_per_second)
        found["written"]["writes"] = self.written.writes
        return {"version": 1, **found, "broken_promises": self.broken_promises()}

    def broken_promises(self) -> list[str]:
        """What should never be; empty when the demo went as it must."""
        broken = []
        if self.searches.failures:
            examples = "; ".join(self.searches.examples)
            broken.append(f"{self.searches.failures:,} of {self.searches.done:,} searches failed: {examples}")
        if set(self.searches.answered) != {self.v1.index, self.v2.index}:
            broken.append(f"searches were answered by {', '.join(self.searches.answered)}, not by both indexes")
        cities = self.loaded.cities
        for name, documents, expected in (
            ("v1", self.v1.documents, cities),
            ("v2", self.compared.documents, cities + self.written.growth),
        ):
            if documents != expected:
                broken.append(f"{name} has {documents:,} documents of {expected:,} cities")
        for name, built in (("v1", self.v1), ("v2", self.v2)):
            if built.drift:
                broken.append(f"{name} differs from its source in {built.drift:,} documents")
        if self.compared.differences:
            broken.append(f"v2 and the source, when all was written, differ: {'; '.join(self.compared.examples)}")
        if self.before.total or not self.after.total:
            broken.append(f"the search for v2 had {self.before.total} hits in v1 and {self.after.total} in v2")
        return broken


def read_built(report: Path) -> Built:
    """The facts of a rebuild from its report.json."""
    found = json.loads(report.read_text("utf-8"))
    verdicts = found["validation"]["partitions"]
    return Built(
        run=found["run"],
        index=found["index"],
        documents=found["copied"]["documents"],
        seconds=_between(found["stages"]["copy"], found["stages"]["validate"]),
        total_seconds=found["duration_seconds"],
        partitions_validated=len(verdicts),
        drift=sum(sum(verdict["drift"].values()) for verdict in verdicts),
        report=str(report.with_suffix(".md")),
    )


def _between(earlier: str, later: str) -> float:
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()
