"""The least privileges: those in deploy/ are what the code says, and follow the spec."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from reshelve.grants import Subject, all_grants, example_grants, postgres
from reshelve.spec import Spec, parse

GRANTS = Path(__file__).parents[2] / "deploy" / "grants"


def a_spec(changes: str) -> Spec:
    text = f"""
reindex: places
source: {{postgres: {{url: "postgresql://h/d", key: id, query: select 1}}}}
target: {{opensearch: {{url: "http://h:9200", alias: searched, index: i.json}}}}
kafka: {{bootstrap: "h:9092"}}
changes: {changes}
"""
    return parse(text, name="s.yaml", folder=Path(), environ={}, definition={})


def test_the_files_are_up_to_date() -> None:
    """`python -m reshelve.grants deploy/grants` writes them anew."""
    assert {file.name: file.read_text(encoding="utf-8") for file in GRANTS.iterdir()} == example_grants()


@pytest.mark.parametrize(
    ("changes", "there", "not_there"),
    [
        ("none", "select on table public.docs", "replication;"),
        ("replication", "grant create on database d", "\ncreate publication"),
        ("{replication: {publication: Theirs}}", '\ncreate publication "Theirs" for table public.docs', "grant create"),
        ("{debezium: {topics: [a.b]}}", "is not read", "publication"),
    ],
)
def test_the_source_by_how_changes_are_followed(changes: str, there: str, not_there: str) -> None:
    found = postgres(a_spec(changes), Subject("r", "d", (("public", "docs"),)))
    assert there in found and not_there not in found


def test_names_are_quoted_where_they_have_to_be() -> None:
    found = postgres(a_spec("none"), Subject("my-role", "d", (("public", "Docs"),), (("seen", "v"),)))
    assert 'grant select on table public."Docs", seen.v to "my-role";' in found
    assert "grant usage on schema public, seen" in found


def test_kafka_and_opensearch_name_the_reindex_alone() -> None:
    found = all_grants(a_spec("{debezium: {topics: [shop.docs]}}"), Subject("r", "d", (("public", "docs"),)))
    assert "--topic reshelve.places. --resource-pattern-type prefixed" in found["kafka.sh"]
    assert "--topic shop.docs --operation Describe --operation DescribeConfigs --operation Read" in found["kafka.sh"]
    role = yaml.safe_load(found["opensearch.yml"])["reshelve_places"]
    assert role["index_permissions"][0]["index_patterns"] == ["places-*", "searched"]
