"""The demo from beginning to end: load, build v1, change the mapping, rebuild as v2 while a searcher searches and a
writer writes; then, with the writer at rest, compare everything."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

from opensearchpy import OpenSearch
from opensearchpy.exceptions import TransportError

from reshelve.consumers.opensearch import connect, refusal
from reshelve.demo.commands import Commands, Running
from reshelve.demo.comparison import Comparison, compare_at_rest
from reshelve.demo.facts import Built, Facts, Found, Hit, read_built
from reshelve.demo.leftovers import known_runs, remove_runs, require_free
from reshelve.demo.searcher import Searcher, Searches
from reshelve.demo.servers import Signals, environment, given_endpoints, own_servers
from reshelve.demo.source import Loaded, drop_cities, load_cities
from reshelve.demo.writer import Writer, Written
from reshelve.errors import UsageError
from reshelve.local.lock import exclusive
from reshelve.spec import load
from reshelve.state import RunState

Report = Callable[[str], None]

_FILES: Final = (
    "cities.v1.yaml", "cities.v1.index.json", "cities.v2.yaml", "cities.v2.index.json", "search.json",
)  # fmt: skip
_SEARCH_TIMEOUT_S: Final = 5.0
_AFTER_SWAP_S: Final = 2.0  # searcher and writer go on for a while: a swap could also hurt afterwards
_LOOK_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Options:
    """folder  for specs, reports and the data of servers of our own; limit  cities to load, None: all;
    keep  leave everything up at the end"""

    folder: Path
    keep: bool
    limit: int | None


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
            rebuilt = scene.rebuild(loaded)
            after = scene.search()
        facts = Facts(
            loaded,
            v1,
            rebuilt.built,
            rebuilt.searches,
            rebuilt.written,
            rebuilt.compared,
            before,
            after,
            seconds=time.monotonic() - begun,
            home=None if home is None else str(home),
        )
        (folder / "demo.json").write_text(json.dumps(facts.as_dict(), ensure_ascii=False, indent=2) + "\n")
        return facts


@dataclass(frozen=True, slots=True)
class _Rebuilt:
    built: Built
    searches: Searches
    written: Written
    compared: Comparison


class _Scene:
    """The steps, on servers that run."""

    def __init__(self, folder: Path, endpoints: Mapping[str, str], report: Report) -> None:
        self._folder, self._reports, self._report = folder, folder / "reports", report
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
        with self._run("cities.v1.yaml"):
            pass
        return loaded, self._built(self._newest()), self.search()

    def rebuild(self, loaded: Loaded) -> _Rebuilt:
        """Version 2. Its run follows changes until it is retired, and so beyond the swap: by then, and only then, the
        writer stops, so that two things which hold still can be compared."""
        self._report("\nNow the mapping changes: places, prefixes in every language, countries as objects.")
        self._report(f"Rebuilding as version 2; meanwhile a searcher keeps searching {self._alias},")
        self._report("and a writer keeps writing: cities grow, vanish, come back, are founded; countries are renamed.")
        with ExitStack() as stack:
            client = stack.enter_context(self._client())
            searcher, writer = Searcher(client, self._alias, loaded.names), Writer(self._url)
            searcher.start()
            stack.callback(searcher.stop)
            writer.start()
            stack.callback(writer.end)
            with self._run("cities.v2.yaml") as run:
                state = self._swapped(run)
                time.sleep(_AFTER_SWAP_S)
                searches, written = searcher.stop(), writer.stop()
                self._report("\nThe writer rests. Comparing every document with the source.")
                compared = compare_at_rest(self._spec, client, state)
                command = ("retire", str(state.run), "--yes")
                self._report(f"  $ reshelve {shlex.join(command)}")
                self._command(*command)
        return _Rebuilt(self._built(state), searches, written, compared)

    @contextmanager
    def _run(self, spec: str) -> Iterator[Running]:
        arguments = ("run", str(self._folder / spec), "--reports", str(self._reports))
        self._report(f"  $ reshelve {shlex.join(arguments)}")
        with self._command.beside(*arguments) as running:
            yield running

    def _swapped(self, run: Running) -> RunState:
        """The run, as soon as it follows changes behind the alias."""
        while True:
            run.require()
            newest = self._newest()
            if newest.following:
                return newest
            time.sleep(_LOOK_S)

    def _newest(self) -> RunState:
        return list(known_runs(self._spec).values())[-1]

    def _built(self, state: RunState) -> Built:
        return read_built(self._reports / str(state.run) / "report.json")

    def search(self) -> Found:
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
