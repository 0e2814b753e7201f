"""What a spec leaves open is told with what to write; what is proposed is a good spec."""

from __future__ import annotations

from pathlib import Path

from reshelve.check.inputs import LARGE_DOCUMENTS, open_inputs, phases_text, propose_phases, wanted_phases
from reshelve.spec import Spec, parse

BASE = """\
reindex: cities
source: {postgres: {url: "postgresql://h/d", key: [id, lang], query: select 1}}
target: {opensearch: {url: "http://h:9200", alias: cities, index: i.json}}
kafka: {bootstrap: "h:9092"}
"""
UNVALIDATED = "validation: {counts: off, checksums: false, samples_per_partition: 0}\n"


def a_spec(text: str = "") -> Spec:
    return parse(BASE + text, name="s.yaml", folder=Path(), environ={}, definition={})


def found(text: str) -> list[tuple[str, str]]:
    return [(one.field, one.level) for one in open_inputs(a_spec(text))]


def test_what_is_not_said_does_not_block() -> None:
    assert found("") == [("owner", "warning"), ("why", "warning")]
    assert found("owner: me\nwhy: because\n") == []
    assert found(f"owner: me\nwhy: because\n{UNVALIDATED}") == [("validation", "warning")]


def test_it_blocks_where_an_approval_is_required() -> None:
    approved = "owner: me\napproval: {required: named}\n"
    assert found(approved) == [("why", "error")]
    assert found(approved + UNVALIDATED) == [("why", "error"), ("validation", "error")]


def test_any_level_is_a_validation() -> None:
    for one in ("counts: exact", "checksums: true", "samples_per_partition: 1", "full: true"):
        name, _, value = one.partition(": ")
        section = {"counts": "off", "checksums": "false", "samples_per_partition": "0"} | {name: value}
        text = ", ".join(f"{key}: {item}" for key, item in section.items())
        assert found(f"owner: me\nwhy: because\nvalidation: {{{text}}}\n") == []


def test_what_is_proposed_can_be_pasted() -> None:
    (proposed,) = list(open_inputs(a_spec(f"owner: me\nwhy: because\n{UNVALIDATED}")))
    pasted = "\n".join(line.removeprefix("        ") for line in proposed.remedy.splitlines()[1:])
    assert a_spec(pasted).validation.counts == "exact"


def test_phases_are_proposed_for_a_large_scope() -> None:
    assert [wanted_phases(n) for n in (0, LARGE_DOCUMENTS, LARGE_DOCUMENTS + 1, 10 * LARGE_DOCUMENTS)] == [1, 1, 2, 10]
    bounds = [("2026-01-01",), ("no", "it's: #1"), ("007",)]
    scope = "scope: {keys: {low: '-5', high: [zz, top]}}\n"
    spec = a_spec(scope + phases_text(("-5",), bounds, ("zz", "top")))
    assert [(phase.keys.low, phase.keys.high) for phase in spec.phases] == [
        (("-5",), bounds[0]),
        (bounds[0], bounds[1]),
        (bounds[1], bounds[2]),
        (bounds[2], ("zz", "top")),
    ]
    assert "ANALYZE" in propose_phases(10**9, None, [], None).remedy
    assert "part2" in propose_phases(10**9, None, [("5",)], None).remedy
