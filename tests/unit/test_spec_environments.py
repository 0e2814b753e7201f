"""Environments: the chosen one is laid over the spec with its places; nothing of the others is asked for or let out."""

from __future__ import annotations

from pathlib import Path

import pytest

from reshelve.errors import Problem, SpecError
from reshelve.redaction import redact
from reshelve.spec import Spec, parse

BASE = """\
reindex: cities
source:
  postgres:
    url: ${SOURCE_URL}
    key: id
    query: select 1 as id
scope: {where: a}
target:
  opensearch: {url: "http://base:9200", alias: cities, index: i.json}
kafka:
  bootstrap: base:9092
  config: {security.protocol: SSL}
"""
BOTH = f"""{BASE}environments:
  staging:
    description: fed with last night's copy
    source: {{postgres: {{url: "${{STAGING_URL}}"}}}}
    kafka:
      partitions: 2
      config: {{sasl.password: "${{KAFKA_PASSWORD}}"}}
    scope: {{}}
  production:
    kafka: {{bootstrap: "${{PRODUCTION_KAFKA}}"}}
    limits: {{in_flight: 4}}
"""
STAGING = {"STAGING_URL": "postgresql://r:un-guessed@s/shop", "KAFKA_PASSWORD": "un-told"}


def a_spec(text: str = BOTH, environment: str | None = None, **environ: str) -> Spec:
    return parse(text, name="s.yaml", folder=Path(), environ=environ, definition={}, environment=environment)


def problems(text: str, environment: str | None = None, **environ: str) -> list[Problem]:
    with pytest.raises(SpecError) as caught:
        a_spec(text, environment, **environ)
    return list(caught.value.problems)


def test_the_chosen_one_is_laid_over_the_base() -> None:
    spec = a_spec(environment="staging", **STAGING)  # SOURCE_URL and PRODUCTION_KAFKA are not set, and not missed
    assert spec.environment == "staging"
    assert spec.source.postgres.url == STAGING["STAGING_URL"]
    assert spec.source.postgres.key == ("id",)
    assert (spec.kafka.partitions, spec.kafka.bootstrap, spec.limits.in_flight) == (2, "base:9092", 2)
    assert spec.kafka.config == {"security.protocol": "SSL", "sasl.password": "un-told"}
    assert spec.scope.where == "a"
    assert spec.environments["staging"].description == "fed with last night's copy"
    assert "environments" not in spec.public()
    assert "un-told" not in str(spec.public()) and redact("un-told") != "un-told"


def test_places_are_those_of_the_environment() -> None:
    spec = a_spec(environment="staging", **STAGING)
    assert spec.place("source.postgres.url") == "s.yaml:16:30"
    assert spec.place("source.postgres.key") == "s.yaml:5:10"
    assert spec.place("kafka.partitions") == "s.yaml:18:19"
    (found,) = problems(BOTH.replace("partitions: 2", "partitions: 0"), "staging", **STAGING)
    assert found.place == "s.yaml:18:19"
    (found,) = problems(BOTH.replace("partitions: 2", "partitons: 2"), "staging", **STAGING)
    assert (found.place, found.remedy) == ("s.yaml:18:7", "did you mean 'partitions'?")


def test_what_chooses() -> None:
    production = {"SOURCE_URL": "postgresql://p/shop", "PRODUCTION_KAFKA": "k:9092"}
    assert a_spec(RESHELVE_ENVIRONMENT="production", **production).limits.in_flight == 4
    assert a_spec(environment="staging", RESHELVE_ENVIRONMENT="production", **STAGING).environment == "staging"
    alone = f"{BASE}environments: {{only: {{limits: {{in_flight: 3}}}}}}\n"
    assert a_spec(alone, **production).environment == "only"
    assert a_spec(BASE, RESHELVE_ENVIRONMENT="production", **production).environment == ""


@pytest.mark.parametrize(
    ("environment", "what", "remedy"),
    [
        (None, "several environments (staging, production), and none is chosen", "--environment staging"),
        ("stagin", "no environment 'stagin'", "did you mean 'staging'?"),
        ("qa", "no environment 'qa'", "choose one of: staging, production"),
    ],
)
def test_a_choice_that_is_none(environment: str | None, what: str, remedy: str) -> None:
    (found,) = problems(BOTH, environment, SOURCE_URL="postgresql://p/shop")
    assert found.place == "s.yaml:13:1"
    assert what in found.what and remedy in found.remedy


def test_a_spec_without_environments_has_none_to_choose() -> None:
    (found,) = problems(BASE, "staging", SOURCE_URL="postgresql://p/shop")
    assert "no environment 'staging'" in found.what


@pytest.mark.parametrize(
    ("old", "new", "place", "what"),
    [
        ("limits: {in_flight: 4}", "limits: {in_fligth: 4}", "s.yaml:23:14", "unknown field 'in_fligth'"),
        ("limits: {in_flight: 4}", "limts: {in_flight: 4}", "s.yaml:23:5", "unknown field 'limts'"),
        ("limits: {in_flight: 4}", "reindex: towns", "s.yaml:23:5", "'reindex' can't differ"),
        ("limits: {in_flight: 4}", "environments: {}", "s.yaml:23:5", "'environments' can't differ"),
        ("limits: {in_flight: 4}", "description: [a]", "s.yaml:23:18", "should be text"),
        ("limits: {in_flight: 4}", "target: {opensearch: {password: hush-hush}}", "s.yaml:23:37", "a secret"),
        ('{bootstrap: "${PRODUCTION_KAFKA}"}', "{config: {sasl.password: hush-hush}}", "s.yaml:22:37", "a secret"),
        ("  production:\n", "  Production:\n", "s.yaml:21:3", "is no name of an environment"),
    ],
)
def test_mistakes_in_one_that_is_not_chosen(old: str, new: str, place: str, what: str) -> None:
    assert old in BOTH
    (found,) = problems(BOTH.replace(old, new), "staging", **STAGING)
    assert (found.place, what in found.what) == (place, True), found


@pytest.mark.parametrize("value", ["[]", "{}", "staging", "{staging: 5}"])
def test_what_are_no_environments(value: str) -> None:
    found = problems(f"{BASE}environments: {value}\n", SOURCE_URL="postgresql://p/shop")
    assert "should be a mapping" in found[0].what
