"""The spec: one YAML file that says what is rebuilt, from where, into what."""

from __future__ import annotations

from reshelve.spec.loading import load, parse
from reshelve.spec.model import Kafka, Limits, OpenSearch, Scope, Spec, Target, Validation
from reshelve.spec.source import Dependency, Postgres, Source

__all__ = [
    "Dependency",
    "Kafka",
    "Limits",
    "OpenSearch",
    "Postgres",
    "Scope",
    "Source",
    "Spec",
    "Target",
    "Validation",
    "load",
    "parse",
]
