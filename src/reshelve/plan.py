"""The plan: everything a run will do, in one immutable record that an owner can read and approve.

Its hash covers what is approved: the spec's text and meaning, the index definition, the source's identity and
tables, the index that the alias leaves, the topics. It leaves out what two plans of an unchanged source may
differ in: the run's name and time, estimates, and the segments drawn from statistics."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from reshelve.consumers.mapping import Difference, compare
from reshelve.errors import UsageError
from reshelve.forecast import Forecast, Measured, forecast
from reshelve.headroom import Headroom, headrooms
from reshelve.model import ChangePlan, ChangeRule, KeyColumn, PhasePlan, RunId, Segment, SourceFacts, Table
from reshelve.plan_notes import plan_notes
from reshelve.producers.planner import describe_source
from reshelve.producers.rules import change_plan
from reshelve.producers.segments import Division, divide
from reshelve.producers.source import source_session
from reshelve.producers.wal import wal_rate
from reshelve.spec import Spec, parse

_ENVELOPE_BYTES: Final = 64 * 1024  # key, headers and the rest of a record around the largest document
_CHECKS_MS: Final = 2 * 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic of the run: its full name, its partitions, and the settings it is created with."""

    name: str
    partitions: int
    config: dict[str, str]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run does.

    run                 `<reindex>.<name>`
    index, write_alias  the generation to build, and its private alias
    previous_index      the index that the alias points to now, and its UUID; None when there is none
    spec_text           the spec as written, without secrets; `spec` is the same, resolved
    environment         of the spec, that is laid over it; empty where it defines none
    spec_folder         where the spec lay when planned, for the transform; not part of the hash
    definition          `settings` and `mappings` as asked for
    changes             how writes to the source are followed
    phases              in which the segments are copied, in this order; none: all at once
    headroom            whether there is room for the run, as far as servers tell
    epoch               of the source's history; 0 until it is failed over
    adopted             the index was there before, and is kept after the source: nothing is built or copied
    created_at          ISO 8601, UTC
    hash                SHA-256 of what is approved, in hexadecimal"""

    run: str
    reindex: str
    alias: str
    index: str
    write_alias: str
    previous_index: str | None
    previous_uuid: str | None
    spec_name: str
    spec_text: str
    spec_folder: str
    spec: dict[str, Any]
    definition: dict[str, Any]
    source: SourceFacts
    changes: ChangePlan
    epoch: int
    segments: tuple[Segment, ...]
    topics: tuple[Topic, ...]
    mapping_difference: tuple[Difference, ...]
    forecast: Forecast
    notes: tuple[str, ...]
    created_at: str
    adopted: bool = False
    environment: str = ""
    phases: tuple[PhasePlan, ...] = ()
    headroom: tuple[Headroom, ...] = ()
    hash: str = ""

    @property
    def estimated_documents(self) -> int:
        return self.source.estimated_documents

    @property
    def estimated_bytes(self) -> int:
        """Of JSON, before compression and indexing."""
        return self.source.estimated_bytes

    @property
    def id(self) -> RunId:
        return RunId.parse(self.run)

    def resolve(self, environ: Mapping[str, str] | None = None) -> Spec:
        """The planned spec with its variables from `environ` (the process's when left out), index definition as
        planned: what a worker on any machine needs. Raises SpecError, e.g. when a variable is missing."""
        return parse(
            self.spec_text,
            name=self.spec_name,
            folder=Path(self.spec_folder),
            environ=environ,
            definition=self.definition,
            environment=self.environment or None,
        )

    def as_dict(self) -> dict[str, Any]:
        """The plan as plain JSON-able data."""
        return asdict(self)

    def to_json(self) -> str:
        """The plan as text, for its file and the journal."""
        return json.dumps(self.as_dict(), ensure_ascii=False, indent=2)

    @classmethod
    def from_json(cls, text: str | bytes) -> Plan:
        """The inverse of `to_json`. Raises UsageError when it isn't a plan, or was changed after planning."""
        try:
            plan = _from_data(json.loads(text))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise UsageError(
                "this is not a plan",
                why=f"{type(error).__name__}: {error}",
                remedy="make one with `reshelve plan`",
            ) from error
        if plan.hash != _hash(plan):
            raise UsageError(
                f"the plan of {plan.run} was changed after it was made",
                why=f"its hash is {_hash(plan)[:12]}…, not {plan.hash[:12]}…",
                remedy="change the spec instead, and make a new plan with `reshelve plan`",
            )
        return plan


def make_plan(spec: Spec, measured: Measured | None = None) -> Plan:
    """Look at source and target, and say what a run would do. Changes nothing.

    measured  what a run before has taken; None: there is none

    Raises AccessRefused, Unreachable, SourceRefused or TargetRefused."""
    from reshelve.consumers.generation import flat_settings  # OpenSearch's client: workers read plans without it
    from reshelve.consumers.survey import survey_target

    now = datetime.now(UTC)
    run = RunId(spec.reindex, run_name(now))
    source = _survey_source(spec, run)
    facts, target = source.facts, survey_target(spec)
    replicas = int(flat_settings(spec.definition).get("index.number_of_replicas", 1))
    foretold = forecast(facts, spec, replicas=replicas, measured=measured, previous=target.size)
    plan = Plan(
        run=str(run),
        reindex=spec.reindex,
        alias=spec.target.opensearch.alias,
        index=run.index,
        write_alias=run.write_alias,
        previous_index=target.index,
        previous_uuid=target.uuid,
        spec_name=spec.name,
        spec_text=spec.text,
        environment=spec.environment,
        spec_folder=str(spec.folder.resolve()),
        spec=spec.public(),
        definition=spec.definition,
        source=facts,
        changes=source.changes,
        epoch=0,
        segments=source.division.segments,
        phases=source.division.phases,
        topics=plan_topics(run, spec),
        mapping_difference=compare(target.mapping, spec.definition.get("mappings") or {}),
        forecast=foretold,
        headroom=headrooms(spec, foretold, target.room, source.wal_rate),
        notes=plan_notes(spec, facts, source.changes, source.division.segments, target.index),
        created_at=now.isoformat(timespec="seconds"),
    )
    return sealed(plan)


def sealed(plan: Plan) -> Plan:
    """The plan with its hash."""
    return replace(plan, hash=_hash(plan))


def run_name(now: datetime) -> str:
    """A name that sorts by time and that two plans of one second do not share: `20260102-030405-k3xq`."""
    letters = "".join(secrets.choice("abcdefghijklmnopqrstuvwxyz234567") for _ in range(4))
    return f"{now:%Y%m%d-%H%M%S}-{letters}"


def plan_topics(run: RunId, spec: Spec) -> tuple[Topic, ...]:
    """The run's topics. Nothing that a paused run needs expires by itself; `clean` removes it."""
    kept = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
    # An index that is watched is checked for years. Older than a day, the results of a check are not gone on with
    # (`validator/full_check.py`), and a check takes six hours at most. Segments are rolled early: one expires as a
    # whole, and the one that is written to not at all as long as something comes.
    passing = kept | {"retention.ms": str(_CHECKS_MS), "segment.ms": str(_CHECKS_MS // 4)}
    large = kept | {"max.message.bytes": str(spec.kafka.max_document_bytes + _ENVELOPE_BYTES)}
    partitions = spec.kafka.partitions
    return (
        Topic(run.topic("pages"), partitions, kept),
        Topic(run.topic("changes"), partitions, kept),
        Topic(run.topic("documents"), partitions, large | {"compression.type": "producer"}),
        Topic(run.topic("rejects"), 1, large),
        Topic(run.topic("progress"), 1, kept),
        Topic(run.topic("checks"), partitions, passing),
        Topic(run.topic("drift"), partitions, kept),
        Topic(run.topic("control"), 1, kept),
    )


@dataclass(frozen=True, slots=True)
class _Source:
    """wal_rate  bytes a second that the server writes; None where it does not tell"""

    facts: SourceFacts
    division: Division
    changes: ChangePlan
    wal_rate: float | None


def _survey_source(spec: Spec, run: RunId) -> _Source:
    with source_session(spec.source.postgres.url, "reshelve plan") as connection:
        facts = describe_source(connection, spec)
        division = divide(connection, spec, facts)
        return _Source(facts, division, change_plan(connection, spec, facts, run), wal_rate(connection))


def _hash(plan: Plan) -> str:
    text = json.dumps(hashed_facts(plan), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def hashed_facts(plan: Plan) -> dict[str, Any]:
    """What the plan's hash covers; what it leaves out is empty."""
    prefix = plan.id.prefix
    return asdict(
        replace(
            plan,
            run=plan.reindex,
            index="",
            write_alias="",
            spec_folder="",
            source=replace(plan.source, estimated_documents=0, estimated_bytes=0),
            changes=replace(
                plan.changes,
                slot="" if plan.changes.mode == "replication" else plan.changes.slot,
                publication="" if plan.changes.owns_publication else plan.changes.publication,
            ),
            segments=(),
            phases=(),
            headroom=(),
            topics=tuple(replace(topic, name=topic.name.removeprefix(prefix)) for topic in plan.topics),
            forecast=Forecast(0, 0, ""),
            notes=(),
            created_at="",
            hash="",
        )
    )


def _from_data(data: dict[str, Any]) -> Plan:
    source = data["source"]
    segments = tuple(Segment(s["number"], _bound(s["low"]), _bound(s["high"])) for s in data["segments"])
    _require_tiles(segments)
    phases = tuple(
        PhasePlan(
            **phase | {"low": _bound(phase["low"]), "high": _bound(phase["high"]), "needs": tuple(phase["needs"])}
        )
        for phase in data["phases"]
    )
    _require_phases(phases, segments)
    values = {field.name: data[field.name] for field in fields(Plan)} | {
        "source": SourceFacts(
            **source
            | {
                "key": tuple(KeyColumn(**column) for column in source["key"]),
                "tables": tuple(Table(**table) for table in source["tables"]),
            }
        ),
        "changes": ChangePlan(
            **data["changes"]
            | {
                "rules": tuple(ChangeRule(**_tuples(rule, "columns", "types")) for rule in data["changes"]["rules"]),
                "ignored": tuple(data["changes"]["ignored"]),
            }
        ),
        "segments": segments,
        "phases": phases,
        "topics": tuple(Topic(**topic) for topic in data["topics"]),
        "mapping_difference": tuple(Difference(**difference) for difference in data["mapping_difference"]),
        "forecast": Forecast(**data["forecast"]),
        "headroom": tuple(Headroom(**one) for one in data["headroom"]),
        "notes": tuple(data["notes"]),
    }
    return Plan(**values)


def _tuples(data: dict[str, Any], *names: str) -> dict[str, Any]:
    return data | {name: tuple(data[name]) for name in names}


def _bound(value: list[str] | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(value)


def _require_tiles(segments: tuple[Segment, ...]) -> None:
    """The segments aren't hashed, so a plan that would leave keys out is refused here."""
    if not segments or segments[0].low is not None or segments[-1].high is not None:
        raise ValueError("the segments do not begin and end open")
    for number, (one, next_) in enumerate(pairwise(segments)):
        if one.high is None or one.high != next_.low or next_.number != number + 1:
            raise ValueError(f"segments {number} and {number + 1} do not meet")
    if segments[0].number != 0:
        raise ValueError("the segments are not numbered from 0")


def _require_phases(phases: tuple[PhasePlan, ...], segments: tuple[Segment, ...]) -> None:
    """Nor are the phases' segments, and one that no phase has would never be read."""
    numbers = sorted(number for phase in phases for number in range(phase.first, phase.last + 1))
    if phases and numbers != [segment.number for segment in segments]:
        raise ValueError("the phases do not hold each segment once")
