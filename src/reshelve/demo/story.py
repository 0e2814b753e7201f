"""The demo from beginning to end: load, build v1, change the mapping, rebuild as v2 while a searcher searches."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from opensearchpy import OpenSearch
from opensearchpy.exceptions import TransportError

from reshelve.consumers.opensearch import connect, refusal
from reshelve.demo.commands import Commands
from reshelve.demo.leftovers import known_runs, remove_runs, require_free
from reshelve.demo.searcher import Searcher, Searches
from reshelve.demo.servers import Signals, environment, given_endpoints, own_servers
from reshelve.demo.source import Loaded, drop_cities, load_cities
from reshelve.errors import UsageError
from reshelve.local.lock import exclusive
from reshelve.spec import load

Report = Callable[[str], None]

_FILES: Final = (
    "cities.v1.yaml", "cities.v1.index.json", "cities.v2.yaml", "cities.v2.index.json", "search.json",
)  # fmt: skip
_SEARCH_TIMEOUT_S: Final = 5.0
_AFTER_SWAP_S: Final = 2.0  # the searcher goes on for a while: a swap could also hurt afterwards


@dataclass(frozen=True, slots=True)
class Options:
    """folder  for specs, reports and the data of servers of our own; limit  cities to load, None: all;
    keep  leave everything up at the end"""

    folder: Path
    keep: bool
    limit: int | None


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
    before: Found
    after: Found
    seconds: float
    home: str | None

    def as_dict(self) -> dict[str, Any]:
        found = asdict(self)
        del found["loaded"]["names"]
        for name, built in (("v1", self.v1), ("v2", self.v2)):
            found[name]["documents_per_second"] = round(built.documents_per_second)
        return {"version": 1, **found, "broken_promises": self.broken_promises()}

    def broken_promises(self) -> list[str]:
        """What should never be; empty when the demo went as it must."""
        broken = []
        if self.searches.failures:
            examples = "; ".join(self.searches.examples)
            broken.append(f"{self.searches.failures:,} of {self.searches.done:,} searches failed: {examples}")
        if set(self.searches.answered) != {self.v1.index, self.v2.index}:
            broken.append(f"searches were answered by {', '.join(self.searches.answered)}, not by both indexes")
        for name, built in (("v1", self.v1), ("v2", self.v2)):
            if built.documents != self.loaded.cities:
                broken.append(f"{name} has {built.documents:,} documents of {self.loaded.cities:,} cities")
            if built.drift:
                broken.append(f"{name} differs from its source in {built.drift:,} documents")
        if self.before.total or not self.after.total:
            broken.append(f"the search for v2 had {self.before.total} hits in v1 and {self.after.total} in v2")
        return broken


def play(options: Options, report: Report) -> Facts:
    """Play the demo. Raises ReshelveError, and Interrupted on Ctrl-C; what it started is ended either way."""
    begun = time.monotonic()
    folder, signals = options.folder, Signals(report)
    with signals.caught(), exclusive(_make_folder(folder) / ".lock", lambda: _refuse_second(folder)):
        with ExitStack() as stack:
            given = given_endpoints(os.environ)
            home = None if given is not None else folder / "servers"
            if home is not None:
                report("Starting PostgreSQL, Kafka and OpenSearch, just for this demo.")
                given = stack.enter_context(own_servers(home, options.keep, signals, report))
            assert given is not None
            scene = _Scene(folder, given, report)
            if home is None:
                stack.enter_context(scene.tidied(options.keep, signals))
            loaded, v1, before = scene.build_v1(options.limit)
            v2, searches, after = scene.rebuild(loaded)
        seconds = time.monotonic() - begun
        facts = Facts(loaded, v1, v2, searches, before, after, seconds, None if home is None else str(home))
        (folder / "demo.json").write_text(json.dumps(facts.as_dict(), ensure_ascii=False, indent=2) + "\n")
        return facts


class _Scene:
    """The steps, on servers that run."""

    def __init__(self, folder: Path, endpoints: Mapping[str, str], report: Report) -> None:
        self._folder, self._report = folder, report
        self._environ = environment(endpoints)
        self._url = endpoints["SOURCE_URL"]
        self._command = Commands(self._environ)
        for name in _FILES:
            (folder / name).write_text(files("reshelve.demo").joinpath(name).read_text("utf-8"), encoding="utf-8")
        self._spec = load(folder / "cities.v2.yaml", self._environ)
        self._alias = self._spec.target.opensearch.alias

    @contextmanager
    def tidied(self, keep: bool, signals: Signals) -> Iterator[None]:
        """On servers of somebody else: refuse to touch what is theirs, and remove what is ours at the end."""
        with self._client() as client:
            require_free(self._spec, client)
            known = known_runs(self._spec)
            kept = False
            try:
                yield
                kept = keep
            finally:
                signals.hold()
                if not kept:
                    self._report("Removing the demo's schema, indexes and topics.")
                    remove_runs(self._spec, client, known, self._command)
                    drop_cities(self._url)

    def build_v1(self, limit: int | None) -> tuple[Loaded, Built, Found]:
        self._report("\nLoading the cities of the world (GeoNames) into PostgreSQL.")
        loaded = load_cities(self._url, limit, self._report)
        self._report(f"  {loaded.cities:,} cities and {loaded.countries} countries in {loaded.seconds:.0f} s")
        self._report(f"\nBuilding version 1 behind alias {self._alias}: plain text.")
        built = self._run("cities.v1.yaml")
        return loaded, built, self._search()

    def rebuild(self, loaded: Loaded) -> tuple[Built, Searches, Found]:
        self._report("\nNow the mapping changes: places, prefixes in every language, countries as objects.")
        self._report(f"Rebuilding as version 2; meanwhile a searcher keeps searching {self._alias}.")
        with self._client() as client:
            searcher = Searcher(client, self._alias, loaded.names)
            searcher.start()
            try:
                built = self._run("cities.v2.yaml")
                time.sleep(_AFTER_SWAP_S)
            finally:
                searches = searcher.stop()
        return built, searches, self._search()

    def _run(self, spec: str) -> Built:
        reports = self._folder / "reports"
        before = _reported(reports)
        arguments = ("run", str(self._folder / spec), "--reports", str(reports))
        self._report(f"  $ reshelve {shlex.join(arguments)}")
        self._command(*arguments)
        (made,) = _reported(reports) - before
        return read_built(made)

    def _search(self) -> Found:
        body = json.loads((self._folder / "search.json").read_text("utf-8"))
        with self._client() as client:
            try:
                answer = client.search(index=self._alias, body=body)
            except TransportError as error:
                raise refusal(error, "the search failed", self._alias) from error
        hits = [hit["_source"] for hit in answer["hits"]["hits"]]
        return Found(
            answer["hits"]["total"]["value"],
            tuple(Hit(hit["name"], hit["country"]["name"], hit["population"]) for hit in hits),
        )

    @contextmanager
    def _client(self) -> Iterator[OpenSearch]:
        client = connect(self._spec.target.opensearch, connections=1, timeout=_SEARCH_TIMEOUT_S)
        try:
            yield client
        finally:
            client.close()


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


def _reported(reports: Path) -> set[Path]:
    return set(reports.glob("*/report.json"))


def _between(earlier: str, later: str) -> float:
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()


def _make_folder(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            "cannot make the demo's folder", where=str(folder), why=str(error.strerror), remedy="use --folder"
        ) from error
    return folder


def _refuse_second(folder: Path) -> None:
    raise UsageError("another demo runs in this folder", where=str(folder), remedy="wait for it, or use --folder")
