"""A plan as rows of tables, for a reader. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

from reshelve.headroom import size
from reshelve.model import ChangePlan
from reshelve.plan import Plan
from reshelve.spec.reason import Why
from reshelve.spec.scope import describe_range, scope_of

_SHOWN_SEGMENTS: Final = 8
Rows = list[tuple[str, ...]]


def tables(plan: Plan) -> Iterator[tuple[str, tuple[str, ...], Rows]]:
    """(title, names of the columns, rows)."""
    yield "Plan", (), _overview(plan)
    yield "Order", ("stage", "what is done"), _order(plan)
    if plan.phases:
        yield "Phases", ("phase", "keys", "after", "segments", "documents"), _phases(plan)
    yield "Segments", ("segment", "keys after", "up to"), _segments(plan)
    yield "Limits", ("limit", "value"), _limits(plan)
    yield "Validation", ("what is compared", ""), _validation(plan)
    yield "If it goes wrong", (), _ways_back(plan)
    yield "Headroom", ("place", "needed", "there is", "verdict"), _headroom(plan)
    yield "Topics", ("topic", "partitions", "settings"), _topics(plan)
    yield "Changes", ("table", "how its changes are followed"), _changes(plan)
    yield "Mapping", ("field", "change", "effect", "now", "new"), _mapping(plan)


def notes(plan: Plan) -> list[str]:
    """The plan's notes, and why there may be too little room."""
    told = [f"{one.place}: {one.why}" for one in plan.headroom if one.why]
    return [*plan.notes, *told]


def _overview(plan: Plan) -> Rows:
    forecast, scope = plan.forecast, scope_of(plan.spec)
    low, high = forecast.seconds_low, forecast.seconds_high
    rows: Rows = [
        ("run", plan.run),
        ("environment", plan.environment or "the only one"),
        ("hash", plan.hash),
        ("owner", plan.spec["owner"] or "nobody is named"),
        ("why", str(Why.model_validate(plan.spec["why"])) if plan.spec["why"] else "not said"),
        ("alias", f"{plan.alias}: {plan.previous_index or '(new)'} -> {plan.index}"),
        ("strategy", _strategy(plan)),
        ("scope", f"{'partial' if scope.partial else 'full'}: {scope}"),
        ("key", ", ".join(f"{column.name} ({column.type})" for column in plan.source.key)),
        ("tables", ", ".join(f"{table.schema}.{table.name}" for table in plan.source.tables) or "none"),
        ("changes", _mode(plan.changes)),
        ("documents", f"about {plan.estimated_documents:,}"),
        ("bytes", f"about {plan.estimated_bytes / 1e6:,.1f} MB of JSON"),
        ("approval", _approval(plan.spec["approval"])),
        ("window", _window(plan.spec["window"])),
        ("throttle", _throttle(plan.spec["throttle"])),
        ("copy", f"{low:,.0f} to {high:,.0f} s ({forecast.basis})"),
    ]
    if forecast.topic_high:
        rows.append(("topic", f"{size(forecast.topic_low)} to {size(forecast.topic_high)} for one replica"))
        rows.append(("index", f"about {size(forecast.index_bytes)} ({forecast.index_basis})"))
    return rows


def _strategy(plan: Plan) -> str:
    if plan.adopted:
        return "the index is kept after its source; nothing is built"
    new = "a new index is built beside the old one, proven, and swapped in" if plan.previous_index else _FIRST
    return new + ("; it is kept after its source until it is retired" if plan.spec.get("follow") == "always" else "")


def _approval(asked: dict[str, Any]) -> str:
    if asked["required"] == "none":
        return "not required"
    apart = ", the swap apart" if asked["cutover"] else ""
    return f"{asked['required']}{apart}; to be used within {asked['valid_hours']:g} h"


def _window(asked: dict[str, Any] | None) -> str:
    if asked is None:
        return "always open"
    openings = "; ".join(f"{' '.join(one['days'])} {one['start']} to {one['end']}" for one in asked["open"])
    closed = f"; not on {', '.join(asked['closed'])}" if asked["closed"] else ""
    return f"{openings} ({asked['zone']}){closed}"


def _throttle(asked: dict[str, Any]) -> str:
    signals = [name for name, band in asked.items() if isinstance(band, dict)]
    return f"adaptive, by {', '.join(signals)}" if asked["enabled"] and signals else "the limits alone"


_FIRST: Final = "an index is built, proven, and the alias created for it"


def _order(plan: Plan) -> Rows:
    followed, always = plan.changes.followed, plan.spec.get("follow") == "always"
    phases = " -> ".join(phase.name for phase in plan.phases)
    stages = [
        ("create", "topics, consumer groups, the index" + (", slot and publication" if followed else "")),
        ("copy", f"{len(plan.segments)} segments" + (f", in phases: {phases}" if phases else "")),
        ("settle", "the keys that changed during the copy, once more") if followed else None,
        ("index", "until everything that was read is in the index"),
        ("validate", "as below"),
        ("catchup", "until the index is close behind its source") if followed else None,
        ("cutover", "the gates, then one atomic swap of the alias"),
        ("close", "the report" + (", slot and publication dropped" if followed and not always else "")),
        ("follow", "changes, until `reshelve retire`") if always else None,
    ]
    return [stage for stage in stages if stage is not None]


def _phases(plan: Plan) -> Rows:
    return [
        (
            phase.name,
            describe_range(phase.low, phase.high).removeprefix("keys "),
            ", ".join(phase.needs) or "at once",
            str(phase.last - phase.first + 1),
            f"about {phase.estimated_documents:,}",
        )
        for phase in plan.phases
    ]


def _segments(plan: Plan) -> Rows:
    rows: Rows = [(str(s.number), _bound(s.low, "(the first)"), _bound(s.high, "(the last)")) for s in plan.segments]
    if len(rows) > _SHOWN_SEGMENTS:
        hidden = len(rows) - _SHOWN_SEGMENTS
        rows[_SHOWN_SEGMENTS // 2 : -_SHOWN_SEGMENTS // 2] = [("...", f"({hidden} more)", "")]
    return rows


def _limits(plan: Plan) -> Rows:
    return [(name, "none" if value is None else _number(value)) for name, value in plan.spec["limits"].items()]


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _validation(plan: Plan) -> Rows:
    asked = plan.spec["validation"]
    samples = asked["samples_per_partition"]
    rows: Rows = [
        ("counts", "per partition, topic against index" if asked["counts"] == "exact" else "off"),
        ("checksums", "of keys and versions, topic against index" if asked["checksums"] else "off"),
        ("samples", f"{samples} whole documents of each partition, source against index" if samples else "off"),
        ("full", "every document, source against index" if asked["full"] else "off"),
    ]
    if asked["queries"] is not None:
        rows.append(
            ("queries", f"the first {asked['queries']['k']} hits of {asked['queries']['file']}, old against new")
        )
    return rows


def _ways_back(plan: Plan) -> Rows:
    hours = plan.spec["rollback"]["grace_hours"]
    kept = "until `reshelve clean`" if hours is None else f"for {hours:g} h at least (rollback.grace_hours)"
    rollback = f"`reshelve rollback` swaps back to {plan.previous_index}, which is kept {kept}"
    return [
        ("before the swap", "searches see nothing of the run; the same command goes on where it stopped"),
        ("rollback", rollback if plan.previous_index else "there is no index to go back to"),
        ("repair", "`reshelve repair` reads exactly the drifted keys again"),
    ]


def _headroom(plan: Plan) -> Rows:
    return [(one.place, one.needed, one.there_is, one.verdict) for one in plan.headroom] or [("none asked", "", "", "")]


def _topics(plan: Plan) -> Rows:
    return [
        (topic.name, str(topic.partitions), " ".join(f"{k}={v}" for k, v in topic.config.items()))
        for topic in plan.topics
    ]


def _mode(changes: ChangePlan) -> str:
    match changes.mode:
        case "replication":
            owner = "made by the run" if changes.owns_publication else "given"
            return f"replication: slot {changes.slot}, publication {changes.publication} ({owner})"
        case "debezium":
            return f"debezium: the connector of slot {changes.slot}"
    return "none: not followed"


def _changes(plan: Plan) -> Rows:
    if not plan.changes.followed:
        return [(f"{table.schema}.{table.name}", "not followed") for table in plan.source.tables]
    rows: Rows = []
    for rule in plan.changes.rules:
        columns = ", ".join(rule.columns)
        how = f"{columns}: the document key" if rule.lookup is None else f"{columns}: {' '.join(rule.lookup.split())}"
        rows.append((f"{rule.schema}.{rule.table}", how))
    rows += [(table, "ignored, as asked for") for table in plan.changes.ignored]
    return rows


def _mapping(plan: Plan) -> Rows:
    rows: Rows = [
        (one.field, one.change, one.effect + (f": {one.why}" if one.why else ""), _short(one.before), _short(one.after))
        for one in plan.mapping_difference
    ]
    return rows or [("no difference", "", "", "", "")]


def _bound(bound: Sequence[str] | None, open_end: str) -> str:
    return open_end if bound is None else ", ".join(bound)


def _short(definition: dict[str, Any] | None) -> str:
    return "" if definition is None else json.dumps(definition, ensure_ascii=False)
