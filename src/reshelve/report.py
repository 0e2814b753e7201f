"""The report of a run: what an auditor or the next person on call asks for, as Markdown and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reshelve import __version__
from reshelve.plan import Plan
from reshelve.spec.scope import scope_of
from reshelve.state import RunState


def report_facts(plan: Plan, state: RunState) -> dict[str, Any]:
    """The report as data. Everything in it comes from the journal."""
    seen = state.facts
    return {
        "version": 1,
        "reshelve": __version__,
        "run": str(state.run),
        "reindex": plan.reindex,
        "outcome": _outcome(state),
        "error": state.error,
        "environment": plan.environment or None,
        "owner": state.owner or None,
        "delegates": plan.spec.get("delegates") or [],
        "why": seen.get("planned", {}).get("why"),
        "why_kind": (plan.spec.get("why") or {}).get("kind"),
        "planned_at": state.planned_at,
        "started_at": state.started_at,
        "ended_at": state.ended_at or None,
        "duration_seconds": state.duration_s,
        "plan_hash": plan.hash,
        "scope": {
            "kind": "partial" if scope_of(plan.spec).partial else "full",
            "text": str(scope_of(plan.spec)),
            "where": plan.spec["scope"]["where"],
            "keys": plan.spec["scope"]["keys"],
            "query": plan.spec["source"]["postgres"]["query"],
        },
        "source": plan.spec["source"]["postgres"]["url"],
        "alias": plan.alias,
        "index": plan.index,
        "index_uuid": state.index_uuid or None,
        "previous_index": plan.previous_index,
        "changes": {
            "mode": plan.changes.mode,
            "slot": plan.changes.slot or None,
            "publication": plan.changes.publication or None,
            "follow": plan.spec.get("follow"),
            "ignored": list(plan.changes.ignored),
            "began": seen.get("slot"),
            "settled_keys": seen.get("settled", {}).get("keys"),
            "slot_dropped": "slot_dropped" in seen,
        },
        "notes": list(plan.notes),
        "copied": seen.get("copied"),
        "validation": seen.get("validated"),
        "queries": seen.get("queries"),
        "rejects": {
            "open": seen.get("checkpoint", {}).get("rejects", 0),
            "redriven": state.redriven,
            "waivers": state.waivers,
        },
        "gates": seen.get("gates", {}).get("gates"),
        "cutover": seen.get("cutover"),
        "rolled_back": state.rolled_back,
        "kept_until": state.kept_until.isoformat(timespec="seconds") if state.kept_until else None,
        "stages": state.stages,
        "phases": state.phase_facts(),
        "errors": state.errors,
        "journal": {"topic": "reshelve.journal", "run": str(state.run), "entries": state.events},
    }


def _outcome(state: RunState) -> str:
    if state.rolled_back:
        return "Rolled back"
    if state.state == "completed":
        return "Completed: Reindex complete"
    return {"blocked": "Blocked", "failed": "Failed", "aborted": "Aborted"}.get(state.state, state.state.capitalize())


def write_report(plan: Plan, state: RunState, folder: Path) -> tuple[Path, Path]:
    """Write report.md and report.json into `folder`; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    found = report_facts(plan, state)
    markdown, data = folder / "report.md", folder / "report.json"
    for file, text in ((markdown, render(found)), (data, json.dumps(found, ensure_ascii=False, indent=2) + "\n")):
        partial = file.with_suffix(file.suffix + ".new")
        partial.write_text(text, encoding="utf-8")
        partial.replace(file)
    return markdown, data


def save_report(plan: Plan, state: RunState, folder: Path, say: Callable[[str], None]) -> None:
    """Write the report and say where it is. A disk that is full undoes nothing of the run: then that is said."""
    try:
        markdown, _ = write_report(plan, state, folder)
    except OSError as error:
        say(f"the report can't be written to {folder}: {error.strerror}; everything in it is in the journal")
    else:
        say(f"report: {markdown}")


def render(found: dict[str, Any]) -> str:
    """The report's facts as Markdown."""
    lines = [
        f"# {found['outcome']}: {found['reindex']}",
        "",
        *_table(
            ("Run", f"`{found['run']}`"),
            ("Outcome", found["outcome"]),
            ("Environment", found["environment"] or "the only one"),
            ("Owner", found["owner"] or "not named in the spec"),
            ("Why", found["why"] or "not said in the spec"),
            ("Started", found["started_at"]),
            ("Ended", found["ended_at"] or "not yet"),
            ("Duration", _duration(found["duration_seconds"])),
            ("Source", f"`{found['source']}`"),
            ("Scope", f"{found['scope']['kind']}: `{found['scope']['text']}`"),
            ("Alias", f"`{found['alias']}`"),
            ("Index", f"`{found['index']}` (UUID `{found['index_uuid']}`)"),
            ("Previous index", f"`{found['previous_index']}`" if found["previous_index"] else "none"),
            *([("Kept for a rollback until", found["kept_until"])] if found["kept_until"] else []),
            ("Plan", f"`{found['plan_hash']}`"),
        ),
        "",
    ]
    if found["error"]:
        error = found["error"]
        lines += ["## What stopped it", "", f"{error['what']} ({error['where']}): {error['why']}", ""]
        lines += [f"To remedy: {error['remedy']}", ""]
    lines += ["## What it does not cover", "", *(f"- {note}" for note in found["notes"]), ""]
    lines += _changes(found["changes"])
    lines += _copied(found["copied"])
    lines += _validation(found["validation"])
    lines += _rejects(found["rejects"])
    lines += _queries(found["queries"])
    if found["gates"]:
        lines += ["## Gates of the cut-over", "", "| gate | value | threshold | |", "|---|---|---|---|"]
        lines += [
            f"| {g['name']} | {g['value']} | {g['threshold']} | {'open' if g['open'] else 'closed'} |"
            for g in found["gates"]
        ]
        lines.append("")
    lines += ["## Stages", "", *(f"- {at} {stage}" for stage, at in found["stages"].items()), ""]
    if found["phases"]:
        lines += ["## Phases of the copy", "", "| phase | began | ended |", "|---|---|---|"]
        lines += [f"| {p['name']} | {p['began'] or '–'} | {p['ended'] or '–'} |" for p in found["phases"]] + [""]
    if found["errors"]:
        lines += ["## Errors on the way", "", *(f"- {e['at']} {e.get('what', '')}" for e in found["errors"]), ""]
    lines += ["## Links", ""]
    lines += [
        "- these facts as data: [report.json](report.json)",
        "- the logs of this machine's workers: [logs/](logs/)",
        f"- the run log: topic `{found['journal']['topic']}`, key `{found['run']}`,"
        f" {found['journal']['entries']} entries",
        "- the query: see `scope.query` in report.json; the whole spec is in the journal's entry `planned`",
        "",
    ]
    return "\n".join(lines)


def _changes(changes: dict[str, Any]) -> list[str]:
    rows = [("How", f"`changes: {changes['mode']}`")]
    if changes["mode"] == "none":
        rows.append(("Not guaranteed", "anything written to the source between the start and the end of the copy"))
    else:
        slot = f"`{changes['slot']}`"
        if changes["mode"] == "replication":
            slot += ", dropped" if changes["slot_dropped"] else ", not dropped yet"
        rows += [("Slot", slot), ("Followed", changes["follow"])]
        if changes["publication"]:
            rows.insert(2, ("Publication", f"`{changes['publication']}`"))
        if changes["settled_keys"] is not None:
            rows.append(("Keys read again after the copy", f"{changes['settled_keys']:,}"))
        if changes["ignored"]:
            rows.append(("Not guaranteed", f"changes of {', '.join(changes['ignored'])}"))
    return ["## Changes during the run", "", *_table(*rows), ""]


def _copied(copied: dict[str, Any] | None) -> list[str]:
    if copied is None:
        return []
    return [
        "## Copied",
        "",
        *_table(
            ("Rows read", f"{copied['rows']:,}"),
            ("Documents", f"{copied['documents']:,}"),
            ("Left out by the transform", f"{copied['left_out']:,}"),
            ("Rejected while reading", f"{copied['rejected']:,}"),
            ("JSON", f"{copied['bytes'] / 1e6:,.1f} MB"),
            ("Receipts", f"tile all {copied['segments']} segments, checksum `{copied['checksum']:016x}`"),
        ),
        "",
    ]


def _validation(validation: dict[str, Any] | None) -> list[str]:
    if validation is None:
        return ["## Validation", "", "Not validated.", ""]
    lines = ["## Validation", "", validation["summary"], ""]
    lines += ["| partition | topic | index | checksum | samples | drift |", "|---:|---:|---:|---|---:|---|"]
    for verdict in validation["partitions"]:
        same = {True: "equal", False: "differs", None: "not asked for"}[verdict["checksums_match"]]
        drift = ", ".join(f"{count} {name}" for name, count in verdict["drift"].items() if count) or "none"
        index = "–" if verdict["target_documents"] is None else f"{verdict['target_documents']:,}"
        topic = f"{verdict['topic_documents']:,}"
        lines.append(f"| {verdict['partition']} | {topic} | {index} | {same} | {verdict['samples']} | {drift} |")
    drifted = [pair for verdict in validation["partitions"] for pair in verdict["drifted"]]
    if drifted:
        lines += ["", "Drifted keys (the first of each partition):", ""]
        lines += [f"- `{key}`: {drift}" for key, drift in drifted]
    return [*lines, ""]


def _rejects(rejects: dict[str, Any]) -> list[str]:
    waivers = rejects["waivers"]
    if not (rejects["open"] or rejects["redriven"] or waivers):
        return []
    lines = ["## Rejects", ""]
    if rejects["open"]:
        lines.append(f"- {rejects['open']:,} open, but for those that a later change of the source has superseded")
    if rejects["redriven"]:
        lines.append(f"- {rejects['redriven']:,} read again and accepted, after their cause was corrected")
    for one in waivers:
        keys = ", ".join(f"`{key}`" for key in one["keys"])
        more = one["count"] - len(one["keys"])
        rest = f" and {more:,} more" if more else ""
        lines.append(f"- {one['count']:,} waived by {one['by']} at {one['at']}: {one['why']} ({keys}{rest})")
    return [*lines, ""]


def _queries(queries: dict[str, Any] | None) -> list[str]:
    if queries is None:
        return []
    lines = ["## Searches, before and after", "", f"Compared with `{queries['previous_index']}`: {queries['summary']}."]
    if not queries["worst"]:
        return [*lines, ""]
    lines += ["", f"| worst searches | overlap@{queries['k']} | rank-biased overlap | vanished | came |"]
    lines.append("|---|---:|---:|---|---|")
    for one in queries["worst"]:
        numbers = ("–" if one[name] is None else f"{one[name]:.3f}" for name in ("overlap", "rbo"))
        ids = (", ".join(f"`{key}`" for key in one[name]) for name in ("vanished", "came"))
        cells = (one["name"], *numbers, one["error"], "") if one["error"] else (one["name"], *numbers, *ids)
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return [*lines, ""]


def _table(*rows: tuple[str, str]) -> list[str]:
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "not started"
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)} min {rest:.0f} s" if minutes else f"{rest:.1f} s"
