"""Everything that can be known to be wrong before a run, found without changing anything."""

from __future__ import annotations

from reshelve.check.approval import check_approval
from reshelve.check.debezium import check_debezium
from reshelve.check.findings import Findings, Refusal, raise_for
from reshelve.check.inputs import open_inputs
from reshelve.check.kafka import check_kafka
from reshelve.check.source import check_source, check_transform
from reshelve.check.target import check_target
from reshelve.errors import Problem
from reshelve.spec import Spec

__all__ = ["Refusal", "check_spec", "raise_for"]


def check_spec(spec: Spec) -> list[Problem]:
    """Every problem of what the spec names, in the order of the file: a server that is down hides nothing of
    the others. Reads only; takes seconds. `raise_for` makes the error of them."""
    findings = Findings(spec)
    for found in open_inputs(spec):
        findings.open_input(found)
    check_approval(findings)
    check_transform(findings)
    size = check_source(findings)
    check_target(findings, size)
    check_kafka(findings, size)
    check_debezium(findings, size)
    return sorted(findings.problems, key=_position)


def _position(problem: Problem) -> tuple[str, int, int]:
    name, line, column = problem.place.rsplit(":", 2)
    return name, int(line), int(column)
