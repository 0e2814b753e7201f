"""`reshelve demo`: watch a real index being rebuilt from real data while it is searched."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from reshelve.cli.output import JsonOption, say, show, show_json
from reshelve.demo.commands import shown_name
from reshelve.demo.facts import Facts, Found
from reshelve.demo.story import Options, play
from reshelve.errors import ReshelveError


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave servers and indexes up, to look at them.")] = False,
    folder: Annotated[Path, typer.Option(help="Where specs, reports and the servers' data go.")] = Path(
        "reshelve-demo"
    ),
    limit_cities: Annotated[
        int | None, typer.Option("--limit-cities", min=1000, hidden=True, help="Load the largest cities only.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Rebuild a real index on real servers while it is searched and its source is written: all cities of GeoNames.

    Starts servers of its own and removes them, unless SOURCE_URL, OPENSEARCH_URL and KAFKA_BOOTSTRAP name some."""
    facts = play(Options(folder, keep, limit_cities), say)
    if as_json:
        show_json(facts.as_dict())
    else:
        show(summary(facts))
    broken = facts.broken_promises()
    if broken:
        raise ReshelveError(
            "the demo did not keep its promise",
            where=facts.v2.run,
            why="; ".join(broken),
            remedy=f"see {facts.v2.report}; please report it as a fault, with the folder {folder}",
        )
    say(_next_of_kept(facts, folder) if keep else _next(facts, folder))


def summary(facts: Facts) -> str:
    """What happened, for a reader."""
    v1, v2, searches, written, compared = facts.v1, facts.v2, facts.searches, facts.written, facts.compared
    by_v1, by_v2 = searches.answered.get(v1.index, 0), searches.answered.get(v2.index, 0)
    rows = [
        ("documents", f"{compared.documents:,} from PostgreSQL through Kafka into OpenSearch, every city"),
        ("speed", f"{v2.documents_per_second:,.0f} docs/s ({v2.seconds:.0f} s)"),
        ("", f"version 1, which indexes less: {v1.documents_per_second:,.0f} docs/s ({v1.seconds:.0f} s)"),
        ("validated", f"{v2.partitions_validated} partitions, {v2.drift:,} differences"),
        ("searches", f"{searches.done:,} during the rebuild, {searches.failures:,} failures"),
        ("", f"{by_v1:,} answered by version 1, then {by_v2:,} by version 2"),
        ("", f"median {searches.median_ms:.0f} ms, slowest {searches.slowest_ms:.0f} ms"),
        ("writes", f"{written.writes:,} during the rebuild, in {written.transactions:,} transactions"),
        ("", f"cities: {written.vanished:,} vanished, {written.returned:,} came back, {written.founded:,} founded"),
        ("", f"{written.renamed:,} countries renamed, and with them {written.renamed_cities:,} cities' documents"),
        ("", f"the last of them searchable {compared.caught_up_seconds:.1f} s later"),
        ("compared", f"{compared.documents:,} whole documents with the source, after the last write:"),
        ("", f"{compared.missing:,} missing, {compared.extra:,} resurrected, {compared.different:,} different"),
        ("report", v2.report),
    ]
    lines = ["", "What happened", *(f"  {name:<12}{text}" for name, text in rows), ""]
    lines.append('The same search before and after: names that begin with "münch", within 50 km of Munich')
    lines += [f"  version 1   {_found(facts.before)}", f"  version 2   {_found(facts.after)}"]
    lines += [f"                {hit.name}, {hit.country}: {hit.population:,} inhabitants" for hit in facts.after.hits]
    lines += ["", f"All of it took {facts.seconds:.0f} s."]
    return "\n".join(lines)


def _found(found: Found) -> str:
    return f"{found.total:,} hit{'s' if found.total != 1 else ''}"


def _next(facts: Facts, folder: Path) -> str:
    reshelve = shown_name()
    here = shlex.quote(str(folder))
    return "\n".join(
        (
            "Nothing is left running. Next:",
            f"  less {shlex.quote(facts.v2.report)}",
            f"  diff {here}/cities.v1.index.json {here}/cities.v2.index.json",
            f"  {reshelve} demo --keep        # the same again, and the servers stay up to play with",
            f"  {reshelve} init cities.yaml   # a spec of your own to start from",
        )
    )


def _next_of_kept(facts: Facts, folder: Path) -> str:
    reshelve, run = shown_name(), facts.v2.run
    here = shlex.quote(str(folder))
    lines = ["Everything is still up. Next:"]
    if facts.home is not None:
        home = shlex.quote(facts.home)
        lines.append(f'  eval "$({reshelve} local env --home {home})"   # name the servers to this shell')
    lines += [
        f"  curl -sH 'Content-Type: application/json' \"$OPENSEARCH_URL/cities/_search?pretty\" -d @{here}/search.json",
        f"  {reshelve} status {run}",
        f"  {reshelve} rollback {run}   # back to version 1, at once, as it was before the writes",
    ]
    if facts.home is not None:
        lines.append(f"  {reshelve} local down --home {home}   # stop the servers and remove their data")
    else:
        lines.append(
            f"  {reshelve} clean {run}   # remove its topics and version 1; what else is left is yours to remove"
        )
    return "\n".join(lines)
