"""The spec: one YAML file that says what is rebuilt, from where, into what."""

from __future__ import annotations

from reshelve.spec.loading import load, parse
from reshelve.spec.model import Kafka, Limits, Spec
from reshelve.spec.scope import KeyRange, Phase, Scope
from reshelve.spec.source import Dependency, Postgres, Source
from reshelve.spec.target import OpenSearch, Target
from reshelve.spec.validation import Validation

__all__ = [
    "Dependency",
    "Kafka",
    "KeyRange",
    "Limits",
    "OpenSearch",
    "Phase",
    "Postgres",
    "Scope",
    "Source",
    "Spec",
    "Target",
    "Validation",
    "load",
    "parse",
]
