"""The parts of a report that tell what came out: what was copied, validated, rejected, and swapped. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from reshelve.report.parts import Cell, Code, Lines, Part, Table, Text, megabytes, pairs

Facts: TypeAlias = Mapping[str, Any]


def changes(found: Facts) -> list[Part]:
    rows: list[tuple[str, Cell | None]] = [("How", Code(f"changes: {found['mode']}"))]
    if found["mode"] == "none":
        rows.append(("Not guaranteed", "anything written to the source between the start and the end of the copy"))
        return [pairs("How changes were followed", *rows)]
    dropped = {True: ", dropped", False: ", not dropped yet"}[found["slot_dropped"]]
    settled = found["settled_keys"]
    rows += [
        ("Slot", f"{found['slot']}{dropped if found['mode'] == 'replication' else ''}"),
        ("Publication", Code(found["publication"]) if found["publication"] else None),
        ("Followed", found["follow"]),
        ("Keys read again after the copy", None if settled is None else f"{settled:,}"),
        ("Not guaranteed", f"changes of {', '.join(found['ignored'])}" if found["ignored"] else None),
    ]
    return [pairs("How changes were followed", *rows)]


def copied(found: Facts | None) -> list[Part]:
    if found is None:
        return []
    return [
        pairs(
            "What was copied",
            ("Rows read", f"{found['rows']:,}"),
            ("Documents", f"{found['documents']:,}"),
            ("Left out by the transform", f"{found['left_out']:,}"),
            ("Rejected while reading", f"{found['rejected']:,}"),
            ("JSON", megabytes(found["bytes"])),
            ("Receipts", f"tile all {found['segments']} segments, checksum {found['checksum']:016x}"),
        )
    ]


def validation(found: Facts | None) -> list[Part]:
    if found is None:
        return [Text("Not validated.")]
    drifted = [f"{key}: {drift}" for verdict in found["partitions"] for key, drift in verdict["drifted"]]
    headers = ("partition", "topic", "index", "checksum", "samples", "drift")
    table = Table("By partition", headers, tuple(map(_verdict, found["partitions"])))
    parts: list[Part] = [Text(found["summary"]), table]
    if drifted:
        parts += [Text("Drifted keys (the first of each partition):"), Lines(tuple(drifted))]
    return parts


def _verdict(verdict: Facts) -> tuple[str, ...]:
    same = {True: "equal", False: "differs", None: "not asked for"}[verdict["checksums_match"]]
    drift = ", ".join(f"{count} {name}" for name, count in verdict["drift"].items() if count) or "none"
    index = "–" if verdict["target_documents"] is None else f"{verdict['target_documents']:,}"
    topic = f"{verdict['topic_documents']:,}"
    return str(verdict["partition"]), topic, index, same, f"{verdict['samples']:,}", drift


def rejects(found: Facts) -> list[Part]:
    lines = []
    if found["open"]:
        lines.append(f"{found['open']:,} open, but for those that a later change of the source has superseded")
    if found["redriven"]:
        lines.append(f"{found['redriven']:,} read again and accepted, after their cause was corrected")
    parts: list[Part] = [Lines(tuple(lines))] if lines else []
    if found["waivers"]:
        headers = ("waived", "by", "at", "why", "keys")
        parts.append(Table("Rejects without which the run completes", headers, tuple(map(_waiver, found["waivers"]))))
    return parts


def _waiver(one: Facts) -> tuple[str, ...]:
    more = one["count"] - len(one["keys"])
    keys = ", ".join(one["keys"]) + (f" and {more:,} more" if more else "")
    return f"{one['count']:,}", one["by"], one["at"], one["why"], keys


def queries(found: Facts | None) -> list[Part]:
    if found is None:
        return []
    parts: list[Part] = [Text(f"Compared with {found['previous_index']}: {found['summary']}.")]
    if not found["worst"]:
        return parts
    headers = ("worst searches", f"overlap@{found['k']}", "rank-biased overlap", "vanished", "came")
    return [*parts, Table("The searches that differ most", headers, tuple(map(_search, found["worst"])))]


def _search(one: Facts) -> tuple[str, ...]:
    overlap, rbo = ("–" if one[name] is None else f"{one[name]:.3f}" for name in ("overlap", "rbo"))
    vanished, came = (", ".join(one[name]) for name in ("vanished", "came"))
    return (one["name"], overlap, rbo, *((one["error"], "") if one["error"] else (vanished, came)))


def gates(found: Sequence[Facts] | None) -> list[Part]:
    if not found:
        return []
    rows = tuple((g["name"], g["value"], g["threshold"], "open" if g["open"] else "closed") for g in found)
    return [Table("Gates, as they were judged last", ("gate", "value", "threshold", "state"), rows)]


def cutover(found: Facts) -> list[Part]:
    swap = found["cutover"]
    if not swap:
        return []
    copies = swap.get("copies") or {}
    return [
        pairs(
            "The swap",
            ("Alias", Code(swap["alias"])),
            ("From", Code(swap["from"]) if swap["from"] else "nothing"),
            ("To", Code(swap["to"])),
            (
                "Copies",
                ", ".join(f"{name} {value}" for name, value in copies.items() if value not in ("", None)) or None,
            ),
            ("Rolled back", "yes" if found["rolled_back"] else "no"),
        )
    ]
