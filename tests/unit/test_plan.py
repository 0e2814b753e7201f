"""The plan as a record: what its hash covers, and how it reads back."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from reshelve.cli.plan_text import notes, tables
from reshelve.consumers.mapping import ROOT, compare
from reshelve.errors import UsageError
from reshelve.forecast import Forecast, forecast
from reshelve.headroom import Headroom
from reshelve.model import ChangePlan, ChangeRule, KeyColumn, PhasePlan, RunId, SourceFacts, Table
from reshelve.plan import Plan, _hash, plan_topics, run_name
from reshelve.plan_notes import change_notes
from reshelve.producers.segments import default_segments, tile
from reshelve.spec import Spec, parse
from reshelve.validator.coordinator import TIMEOUT_S
from reshelve.validator.full_check import _VALID

RUN = RunId("cities", "20260102-030405-abcd")
FACTS = SourceFacts(
    system_identifier="7",
    timeline=1,
    key=(KeyColumn("id", "bigint"), KeyColumn("lang", "text")),
    tables=(Table("public", "cities", 5, "f"),),
    estimated_documents=600_000,
    estimated_bytes=600_000_000,
)
RULES = (
    ChangeRule("public", "cities", 5, ("id", "lang"), ("bigint", "text")),
    ChangeRule("public", "langs", 6, ("code",), ("text",), "select 1, 2 where 'a' = any(%(values)s)"),
)
CHANGES = ChangePlan("replication", RUN.slot, RUN.slot, True, RULES, ("public.words",))


def a_spec(limits: str = "{}") -> Spec:
    text = f"""
reindex: cities
source: {{postgres: {{url: "postgresql://r:${{PASSWORD}}@h/d", key: [id, lang], query: select 1}}}}
target: {{opensearch: {{url: "http://h:9200", alias: cities, index: i.json}}}}
kafka: {{bootstrap: "h:9092"}}
limits: {limits}
"""
    environ = {"PASSWORD": "cl4ssified"}
    return parse(text, name="s.yaml", folder=Path("here"), environ=environ, definition={"mappings": {}})


def a_plan(run: RunId = RUN, **changes: Any) -> Plan:
    spec = a_spec()
    plan = Plan(
        run=str(run),
        reindex="cities",
        alias="cities",
        index=run.index,
        write_alias=run.write_alias,
        previous_index="cities-1",
        previous_uuid="u",
        spec_name=spec.name,
        spec_text=spec.text,
        environment=spec.environment,
        spec_folder="/here",
        spec=spec.public(),
        definition=spec.definition,
        source=FACTS,
        changes=replace(CHANGES, slot=run.slot, publication=run.slot),
        epoch=0,
        segments=tile([("1",), ("5",)]),
        topics=plan_topics(run, spec),
        mapping_difference=compare({}, {"properties": {"a": {"type": "text"}}}),
        forecast=Forecast(1.0, 2.0, "assumed"),
        notes=("a note",),
        created_at="2026-01-02T03:04:05+00:00",
    )
    plan = replace(plan, **changes)
    return replace(plan, hash=_hash(plan))


def test_round_trip() -> None:
    plan = a_plan()
    assert Plan.from_json(plan.to_json()) == plan
    assert "cl4ssified" not in plan.to_json()
    assert plan.resolve({"PASSWORD": "another1"}).source.postgres.url == "postgresql://r:another1@h/d"
    assert plan.resolve({"PASSWORD": "another1"}).definition == plan.definition


@pytest.mark.parametrize(
    "changes",
    [
        {"run": RunId("cities", "20270102-030405-zzzz")},
        {"source": replace(FACTS, estimated_documents=1, estimated_bytes=2)},
        {"segments": tile([("3",)])},
        {"created_at": "2027-01-01T00:00:00+00:00"},
        {"spec_folder": "/there"},
        {"forecast": Forecast(5, 6, "rehearsed")},
        {"headroom": (Headroom("target disk", "1 GB", "2 GB", "enough"),)},
        {"phases": (PhasePlan("a", None, None, (), 0, 2, 7),)},
    ],
)
def test_the_hash_is_that_of_what_is_approved(changes: dict[str, Any]) -> None:
    assert a_plan(**changes).hash == a_plan().hash


@pytest.mark.parametrize(
    "changes",
    [
        {"alias": "towns"},
        {"previous_index": None},
        {"previous_uuid": "v"},
        {"spec_text": "reindex: other"},
        {"spec": {}},
        {"environment": "production"},
        {"definition": {"mappings": {"dynamic": "strict"}}},
        {"source": replace(FACTS, timeline=2)},
        {"source": replace(FACTS, tables=(Table("public", "cities", 5, "g"),))},
        {"source": replace(FACTS, key=FACTS.key[:1])},
        {"changes": ChangePlan("none")},
        {"changes": replace(CHANGES, rules=RULES[:1])},
        {"changes": replace(CHANGES, rules=(RULES[0], replace(RULES[1], lookup="select 1, 2")))},
        {"changes": replace(CHANGES, publication="given", owns_publication=False)},
        {"changes": replace(CHANGES, ignored=())},
        {"epoch": 1},
        {"topics": ()},
        {"mapping_difference": ()},
    ],
)
def test_the_hash_changes_with_what_is_approved(changes: dict[str, Any]) -> None:
    assert a_plan(**changes).hash != a_plan().hash


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"run": 1}', "null"])
def test_not_a_plan(text: str) -> None:
    with pytest.raises(UsageError, match="not a plan"):
        Plan.from_json(text)


def test_a_plan_for_a_reader() -> None:
    phases = (PhasePlan("a", None, ("5",), (), 0, 1, 7), PhasePlan("b", ("5",), None, ("a",), 2, 2, 7_000))
    room = (Headroom("broker disk", "1 GB", "not known", "unknown", "nobody tells"),)
    plan = a_plan(phases=phases, headroom=room)
    found = {title: rows for title, _, rows in tables(plan)}
    overview = dict(found["Plan"])
    assert overview["scope"] == "full: everything the query returns"
    assert overview["alias"] == f"cities: cities-1 -> {RUN.index}" and "swapped in" in overview["strategy"]
    assert (overview["approval"], overview["window"]) == ("not required", "always open")
    assert [stage for stage, _ in found["Order"]] == [
        "create", "copy", "settle", "index", "validate", "catchup", "cutover", "close",
    ]  # fmt: skip
    assert "in phases: a -> b" in dict(found["Order"])["copy"]
    assert found["Phases"] == [("a", "up to 5", "at once", "2", "about 7"), ("b", "after 5", "a", "1", "about 7,000")]
    assert found["Headroom"] == [("broker disk", "1 GB", "not known", "unknown")]
    assert found["Mapping"][0][:3] == ("a", "added", "safe")
    assert "swaps back to cities-1" in dict(found["If it goes wrong"])["rollback"]
    assert notes(plan) == ["a note", "broker disk: nobody tells"]
    unfollowed = {title: rows for title, _, rows in tables(a_plan(changes=ChangePlan("none"), previous_index=None))}
    assert "settle" not in dict(unfollowed["Order"]) and "no index" in dict(unfollowed["If it goes wrong"])["rollback"]
    assert "Phases" not in unfollowed


def test_phases_hold_each_segment_once() -> None:
    phases = (PhasePlan("a", None, ("5",), (), 0, 1, 7), PhasePlan("b", ("5",), None, ("a",), 2, 2, 7))
    plan = a_plan(phases=phases)
    assert Plan.from_json(plan.to_json()) == plan
    with pytest.raises(UsageError, match="each segment once"):
        Plan.from_json(a_plan(phases=phases[:1]).to_json())


def test_a_plan_changed_by_hand_is_refused() -> None:
    data = json.loads(a_plan().to_json())
    data["definition"]["mappings"] = {"dynamic": "strict"}
    with pytest.raises(UsageError, match="was changed"):
        Plan.from_json(json.dumps(data))


@pytest.mark.parametrize("number", [0, 1, 2])
def test_segments_that_leave_keys_out_are_refused(number: int) -> None:
    data = json.loads(a_plan().to_json())
    del data["segments"][number]
    with pytest.raises(UsageError, match="not a plan"):
        Plan.from_json(json.dumps(data))


def test_run_names_sort_by_time() -> None:
    names = [run_name(datetime(2026, month, 1, 2, 3, 4, tzinfo=UTC)) for month in range(1, 13)]
    assert names == sorted(names)
    assert names[0].startswith("20260101-020304-")
    assert len(names[0]) == len("20260101-020304-abcd")
    assert RunId.parse(f"a.{names[0]}").index == f"a-{names[0]}".lower()


def test_notes_say_what_is_made_and_what_is_not_guaranteed() -> None:
    def notes(changes: ChangePlan, rest: str = "{}") -> str:
        return " ".join(change_notes(a_spec(rest), changes))

    assert f"slot {RUN.slot} and the publication of the same name" in notes(CHANGES)
    assert "at most 10.0 GB" in notes(CHANGES)
    assert "at most 0.5 GB" in notes(CHANGES, "{max_wal_retained: 500 MB}")
    assert "Changes of public.words are not followed" in notes(CHANGES)
    assert "publication" not in notes(replace(CHANGES, owns_publication=False))
    assert "what is deleted may be found in it" in notes(ChangePlan("none"))
    assert "Assumed of it: it" in notes(ChangePlan("debezium", "debezium"))


def test_topics() -> None:
    topics = {topic.name.removeprefix(RUN.prefix): topic for topic in plan_topics(RUN, a_spec())}
    assert {name: topic.partitions for name, topic in topics.items()} == {
        "pages": 4, "changes": 4, "documents": 4, "rejects": 1, "progress": 1, "checks": 4, "control": 1, "drift": 4,
    }  # fmt: skip
    passing = topics.pop("checks").config
    assert all(topic.config["retention.ms"] == "-1" for topic in topics.values())
    kept = timedelta(milliseconds=int(passing["retention.ms"]))
    assert kept > _VALID + timedelta(seconds=TIMEOUT_S), "the results of a check expire while it may be gone on with"
    assert 2 * int(passing["segment.ms"]) < int(passing["retention.ms"])
    assert int(topics["documents"].config["max.message.bytes"]) > 8 << 20


@pytest.mark.parametrize(
    ("limits", "low", "high"),
    [
        ("{}", 10, 30),
        ("{documents_per_second: 30000}", 20, 30),
        ("{documents_per_second: 1000}", 600, 600),
        ("{megabytes_per_second: 6}", 100, 100),  # 6000 documents of 1000 bytes
        ("{megabytes_per_second: 6, documents_per_second: 1000}", 600, 600),
        ("{documents_per_second: 1000000}", 10, 30),
    ],
)
def test_forecast_keeps_to_the_limits(limits: str, low: float, high: float) -> None:
    found = forecast(FACTS, a_spec(limits))
    assert (found.seconds_low, found.seconds_high) == (low, high)
    assert "not rehearsed" in found.basis


@pytest.mark.parametrize(
    ("documents", "partitions", "segments"),
    [
        (0, 4, 1), (1, 4, 1), (9_999, 4, 1), (10_000, 4, 4), (200_000, 4, 4), (200_001, 4, 5),
        (300_000, 1, 6), (10**9, 4, 64), (10**9, 1, 16),
    ],
)  # fmt: skip
def test_default_segments(documents: int, partitions: int, segments: int) -> None:
    assert default_segments(documents, partitions) == segments


@pytest.mark.parametrize(
    ("before", "after", "effect"),
    [
        (None, {"type": "text"}, "safe"),
        ({"type": "text"}, None, "breaks queries"),
        ({"type": "integer"}, {"type": "long"}, "needs reindex"),
        ({"type": "long"}, {"type": "double"}, "needs reindex"),
        ({"type": "keyword"}, {"type": "wildcard"}, "needs reindex"),
        ({"type": "text"}, {"type": "keyword"}, "breaks queries"),
        ({"type": "object"}, {"type": "nested"}, "breaks queries"),
        ({"type": "text"}, {"type": "text", "analyzer": "german"}, "needs reindex"),
        ({"type": "text"}, {"type": "text", "search_analyzer": "german"}, "safe"),
        ({"type": "keyword", "ignore_above": "256"}, {"type": "keyword", "ignore_above": 99}, "safe"),
        ({"type": "keyword"}, {"type": "keyword", "doc_values": "false"}, "breaks queries"),
        ({"type": "keyword", "index": False}, {"type": "keyword"}, "needs reindex"),
        ({"type": "keyword", "index": True}, {"type": "keyword"}, "safe"),
        ({"type": "date"}, {"type": "date", "format": "epoch_millis"}, "breaks queries"),
        ({"type": "text", "fields": {"raw": {"type": "keyword"}}}, {"type": "text"}, "breaks queries"),
        ({"type": "text"}, {"type": "text", "fields": {"raw": {"type": "keyword"}}}, "needs reindex"),
        (
            {"type": "text", "fields": {"raw": {"type": "keyword"}}},
            {"type": "text", "fields": {"raw": {"type": "text"}}},
            "breaks queries",
        ),
        (
            {"type": "text", "analyzer": "a", "search_analyzer": "b"},
            {"type": "text", "analyzer": "c", "search_analyzer": "d"},
            "needs reindex",
        ),
    ],
)
def test_what_a_difference_means_for_searches(before: Any, after: Any, effect: str) -> None:
    mappings = ({"properties": {} if one is None else {"f": one}} for one in (before, after))
    (found,) = compare(*mappings)
    assert found.effect == effect, found.why


def test_what_applies_to_the_whole() -> None:
    assert [d.effect for d in compare({}, {"dynamic": "strict"})] == ["safe"]
    assert [d.effect for d in compare({}, {"_source": {"enabled": False}})] == ["breaks queries"]


def test_compare_mappings() -> None:
    before = {
        "dynamic": "true",
        "properties": {
            "same": {"type": "keyword", "ignore_above": "256"},
            "gone": {"type": "text"},
            "new_type": {"type": "text"},
            "country": {"properties": {"code": {"type": "text"}}},
        },
    }
    after = {
        "dynamic": True,
        "properties": {
            "same": {"type": "keyword", "ignore_above": 256},
            "new_type": {"type": "geo_point"},
            "country": {"properties": {"code": {"type": "text"}, "name": {"type": "text"}}},
        },
    }
    assert [(d.field, d.change) for d in compare(before, after)] == [
        ("country.name", "added"),
        ("gone", "removed"),
        ("new_type", "changed"),
    ]
    assert compare(before, before) == ()
    assert [d.field for d in compare({}, {"dynamic": "strict"})] == [ROOT]
