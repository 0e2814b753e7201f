"""The report of a repair, beside that of its run, as Markdown and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from reshelve.repair import Repaired


def save_repair(found: Repaired, reports: Path, say: Callable[[str], None]) -> None:
    """Write `repair-<check>.md` and `.json` into the run's folder. A disk that is full undoes nothing: then that is
    said."""
    folder = reports / found.run
    files = {"md": render(found), "json": json.dumps(found.as_dict(), ensure_ascii=False, indent=2) + "\n"}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for ending, text in files.items():
            (folder / f"repair-{found.check}.{ending}").write_text(text, encoding="utf-8")
    except OSError as error:
        say(f"the report can't be written to {folder}: {error.strerror}; what it says is in the journal")
    else:
        say(f"report: {folder / f'repair-{found.check}.md'}")


def render(found: Repaired) -> str:
    """The repair as Markdown."""
    lines = [f"# Repair of {found.index}", "", found.summary(), "", "| | |", "|---|---|"]
    lines += [f"| Run | `{found.run}` |", f"| Check | `{found.check}` |", f"| Ended | {found.at} |"]
    lines += [f"| Seconds | {found.seconds} |", "", "| class | keys | left |", "|---|---:|---:|"]
    lines += [f"| {drift} | {count:,} | {found.left.get(drift, 0):,} |" for drift, count in found.keys.items()]
    lines += ["", "| written | keys |", "|---|---:|", *(f"| {w} | {n:,} |" for w, n in found.writes.items()), ""]
    if found.reasons:
        lines += ["## What is left", "", *(f"- `{key}` ({drift}): {why}" for key, drift, why in found.reasons), ""]
    return "\n".join(lines)
