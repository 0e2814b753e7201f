"""A report as a document, whatever it is rendered as: sections of tables, lists and texts. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from reshelve.report.outcome import changes, copied, cutover, gates, queries, rejects, validation
from reshelve.report.parts import Code, Lines, Part, Plot, Section, Table, Text, megabytes, pairs, span
from reshelve.report.progress import plots

Facts: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Document:
    """title, and sections in their order; the first one has no heading."""

    title: str
    sections: tuple[Section, ...]


def document(found: Facts) -> Document:
    """The facts of a report, put in order."""
    wanted = (
        Section("", _overview(found)),
        Section("What stopped it", _stopped(found)),
        Section("Why it was ended", _aborted(found["aborted"])),
        Section("What it does not cover", [Lines(tuple(found["notes"]))] if found["notes"] else []),
        Section("Approvals", _approvals(found)),
        Section("Rehearsal", _entry(found["rehearsed"])),
        Section("Backup", _entry(found["backed_up"])),
        Section("Forecast and what came of it", [_forecast(found["forecast"])]),
        Section("Over time", list(_plots(found))),
        Section("Changes during the run", changes(found["changes"])),
        Section("Phases of the copy", _phases(found["phases"])),
        Section("Copied", copied(found["copied"])),
        Section("Validation", validation(found["validation"])),
        Section("Rejects", rejects(found["rejects"])),
        Section("Searches, before and after", queries(found["queries"])),
        Section("Gates of the cut-over", gates(found["gates"])),
        Section("Cut-over", cutover(found)),
        Section("Who was told of the end", _told(found)),
        Section("Commands", _commands(found["commands"])),
        Section("Stages", _stages(found["stages"])),
        Section("Errors on the way", _errors(found["errors"])),
        Section("Last checkpoint", _checkpoint(found["checkpoint"])),
        Section("Run log", _log(found["log"])),
        Section("Spec", [Code(json.dumps(found["spec"], ensure_ascii=False, indent=2), block=True)]),
        Section("Links", [_links(found)]),
    )
    sections = tuple(section for section in wanted if section.parts)
    return Document(f"{found['outcome']}: {found['reindex']}", sections)


def _overview(found: Facts) -> list[Part]:
    scope = found["scope"]
    why = found["why"] or "not said in the spec"
    return [
        pairs(
            "The run",
            ("Run", Code(found["run"])),
            ("Outcome", found["outcome"]),
            ("Environment", found["environment"] or "the only one"),
            ("Owner", found["owner"] or "not named in the spec"),
            ("Delegates", ", ".join(found["delegates"]) or None),
            ("Why", why),
            ("Started", found["started_at"]),
            ("Ended", found["ended_at"] or "not yet"),
            ("Duration", span(found["duration_seconds"])),
            ("Source", Code(found["source"])),
            ("Scope", f"{scope['kind']}: {scope['text']}"),
            ("Alias", Code(found["alias"])),
            ("Index", Code(f"{found['index']} (UUID {found['index_uuid'] or 'none: it was not made'})")),
            ("Previous index", Code(found["previous_index"]) if found["previous_index"] else "none"),
            ("Kept for a rollback until", found["kept_until"]),
            ("Plan", Code(found["plan_hash"])),
        ),
        Text("What is read:"),
        Code(scope["query"].strip(), block=True),
    ]


def _stopped(found: Facts) -> list[Part]:
    error = found["error"]
    if not error:
        return []
    where = f" ({error['where']})" if error["where"] else ""
    said: list[Part] = [Text(f"{error['what']}{where}: {error['why']}")]
    return [*said, Text(f"To remedy: {error['remedy']}")] if error["remedy"] else said


def _aborted(entry: Facts | None) -> list[Part]:
    if entry is None:
        return []
    by = f" by {entry['by']}" if entry.get("by") else ""
    said: list[Part] = [Text(f"Aborted{by}: {entry.get('why') or 'no reason given'}.")]
    left = entry.get("left") or ()
    return [*said, Text("What it left:"), Lines(tuple(left))] if left else said


def _told(found: Facts) -> list[Part]:
    lines = [*found["told"], *(f"not told: {one}" for one in found["not_told"])]
    return [Lines(tuple(lines))] if lines else []


def _approvals(found: Facts) -> list[Part]:
    if found["approval"] == "none":
        return [Text("The spec asks for no approval.")]
    if not found["approvals"]:
        return [Text(f"Required ({found['approval']}), and not given.")]
    rows = [
        (one["action"], one["by"], one["approved_at"], one["expires"], Code(one["key"]) if one["key"] else "not signed")
        for one in found["approvals"]
    ]
    return [Table("Approvals that the run goes by", ("what", "by", "given", "good until", "key"), tuple(rows))]


def _entry(entry: Facts | None) -> list[Part]:
    """An entry of the journal as it is."""
    return [] if not entry else [pairs("", *((name.replace("_", " "), _value(value)) for name, value in entry.items()))]


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _forecast(found: Facts) -> Part:
    low, high, seconds = found["seconds_low"], found["seconds_high"], found["seconds"]
    documents, size = found["documents"], found["bytes"]
    rows = (
        (
            "to copy and index",
            f"{span(low)} to {span(high)} ({found['basis']})",
            "–" if seconds is None else span(seconds),
        ),
        ("documents", f"about {found['estimated_documents']:,}", "–" if documents is None else f"{documents:,}"),
        ("JSON", f"about {megabytes(found['estimated_bytes'])}", "–" if size is None else megabytes(size)),
    )
    return Table("Forecast against actual", ("", "forecast", "actual"), rows)


def _plots(found: Facts) -> Iterator[Plot]:
    yield from plots(found["samples"], found["stages"])


def _phases(phases: Sequence[Facts]) -> list[Part]:
    rows = tuple((one["name"], one["began"] or "–", one["ended"] or "–") for one in phases)
    return [Table("Phases of the copy", ("phase", "began", "ended"), rows)] if rows else []


def _commands(commands: Sequence[Facts]) -> list[Part]:
    rows = tuple(
        (one["at"], str(one.get("kind", "")), str(one.get("by", "")), str(one.get("why") or "")) for one in commands
    )
    return [Table("What the run was told", ("at", "command", "by", "why"), rows)] if rows else []


def _stages(stages: Mapping[str, str]) -> list[Part]:
    rows = tuple((at, stage) for stage, at in stages.items())
    return [Table("When each stage was entered first", ("at", "stage"), rows)] if rows else []


def _errors(errors: Sequence[Facts]) -> list[Part]:
    return [Lines(tuple(f"{one['at']} {one.get('what', '')}" for one in errors))] if errors else []


def _checkpoint(checkpoint: Facts | None) -> list[Part]:
    if not checkpoint:
        return []
    shown = ("segments_done", "segments", "documents", "indexed", "lag", "rejects", "seconds_behind", "wal_retained")
    return [pairs("", *((name.replace("_", " "), _number(checkpoint.get(name))) for name in shown))]


def _number(value: object) -> str | None:
    return None if value is None else f"{value:,}" if isinstance(value, int | float) else str(value)


def _log(log: Sequence[Facts]) -> list[Part]:
    rows = tuple((one["at"], one["kind"], one["text"]) for one in log)
    return [Table("Entries of the journal, without checkpoints", ("at", "entry", ""), rows)] if rows else []


def _links(found: Facts) -> Part:
    journal = found["journal"]
    return Lines(
        (
            "these facts as data: report.json, as a page: report.html, as text: report.md",
            "the logs of this machine's workers: logs/",
            f"the journal: topic {journal['topic']}, key {journal['run']}, {journal['entries']} entries; "
            f"`reshelve journal verify` proves that none was changed",
        )
    )
