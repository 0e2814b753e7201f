"""The spec: every mistake is reported, all at once, at its place, and no secret gets out."""

from __future__ import annotations

from pathlib import Path

import pytest

from reshelve.errors import Problem, SpecError
from reshelve.redaction import redact
from reshelve.spec import Spec, load, parse
from reshelve.spec.published import SCHEMA_FILE, example, json_schema, schema_text

GOOD = """\
reindex: cities
source:
  postgres:
    url: ${SOURCE_URL}
    key: geonameid
    query: |
      select geonameid, name
        from public.cities;
scope:
target:
  opensearch:
    url: http://localhost:9200
    alias: cities
    index: cities.index.json
kafka:
  bootstrap: localhost:9092
"""
ENVIRON = {"SOURCE_URL": "postgresql://reader:s3cr%21t-word@db/shop", "PASSWORD": "open-sesame", "FOUR": "4"}


def parse_good(text: str = GOOD, **environ: str) -> Spec:
    return parse(text, name="s.yaml", folder=Path(), environ=ENVIRON | environ, definition={})


def problems(text: str, **environ: str) -> list[Problem]:
    with pytest.raises(SpecError) as caught:
        parse_good(text, **environ)
    return list(caught.value.problems)


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


def test_a_good_spec() -> None:
    spec = parse_good()
    assert spec.source.postgres.key == ("geonameid",)
    assert spec.source.postgres.query == "select geonameid, name\n  from public.cities"
    assert spec.source.postgres.url == ENVIRON["SOURCE_URL"]
    assert (spec.scope.where, spec.kafka.partitions, spec.limits.in_flight) == (None, 4, 2)
    assert spec.kafka.max_document_bytes == 8 * 1024 * 1024
    assert spec.text == GOOD
    assert spec.definition == {"settings": {}, "mappings": {}}
    assert spec.place("source.postgres.key") == "s.yaml:5:10"
    assert spec.place("limits.in_flight") == "s.yaml:1:1"
    assert spec.place_inside("source.postgres.query", spec.source.postgres.query.index("from")) == "s.yaml:8:9"


def test_a_bare_off_is_no_boolean() -> None:
    assert parse_good(GOOD + "validation: {counts: off}\n").validation.counts == "off"


@pytest.mark.parametrize(
    ("old", "new", "place", "what", "remedy"),
    [
        ("reindex: cities", "reindx: cities", "s.yaml:1:1", "unknown field 'reindx'", "did you mean 'reindex'?"),
        ("reindex: cities", "reindex: Cities", "s.yaml:1:10", "does not match", "lowercase"),
        ("reindex: cities", "reindex: 2024", "s.yaml:1:10", "should be text; put it in quotes", "Name of"),
        ("reindex: cities", "reindex: cities\nreindex: b", "s.yaml:2:1", "'reindex' stands twice", "keep one"),
        ("reindex: cities\n", "", "s.yaml:1:1", "field 'reindex' is missing", "add it: Name of the reindex"),
        ("${SOURCE_URL}", "${SOURCE_ULR}", "s.yaml:4:10", "variable SOURCE_ULR is not set", "export SOURCE_ULR"),
        ("${SOURCE_URL}", "${}", "s.yaml:4:10", "'${}' is not a variable", "${NAME:-default}"),
        ("${SOURCE_URL}", "mysql://h/d", "s.yaml:4:10", "is not a PostgreSQL URL", "Connection URL"),
        ("key: geonameid", "key: []", "s.yaml:5:10", "is empty", "Column"),
        ("key: geonameid", "key: [a, a]", "s.yaml:5:10", "names a column twice", "Column"),
        ("key: geonameid", "key: [a, 2]", "s.yaml:5:14", "should be text", "Column"),
        ("key: geonameid", "key: {a: b}", "s.yaml:5:10", "should be the name of a column, or a list", "Column"),
        ("select geonameid, name", "delete", "s.yaml:7:7", "begin with SELECT", "One SELECT"),
        ("public.cities;", "public.cities; select 2", "s.yaml:7:7", "several statements", "One SELECT"),
        ("public.cities;", "public.cities where (a", "s.yaml:7:7", "unclosed bracket", "One SELECT"),
        ("scope:", "scope:\n  where: 1", "s.yaml:10:10", "should be text", "predicate"),
        ("scope:", "scope:\n  where: a = 'x", "s.yaml:10:10", "unclosed quote", "predicate"),
        ("scope:", "scope:\n  where: where a", "s.yaml:10:10", "must not begin with the word WHERE", "predicate"),
        ("scope:", "scope: []", "s.yaml:9:8", "should be a mapping", "Which documents"),
        ("http://localhost", "ftp://localhost", "s.yaml:12:10", "is not an http://", "any node"),
        ("alias: cities", "alias: Cities", "s.yaml:13:12", "must be lowercase", "Alias that"),
        ("alias: cities", "alias: a b", "s.yaml:13:12", "must not contain ' '", "Alias that"),
        ("alias: cities", "alias: _a", "s.yaml:13:12", "must not begin with", "Alias that"),
        ("alias: cities", "alias: cities\n    username: me", "s.yaml:12:5", "go together", "OpenSearch"),
        ("alias: cities", "alias: cities\n    ca_certs: no.pem", "s.yaml:14:15", "no such file: no.pem", "PEM"),
        ("alias: cities", "alias: cities\n    verify_certs: 7", "s.yaml:14:19", "boolean", "certificate"),
        ("localhost:9092", "h:1\n  partitions: 0", "s.yaml:17:15", "greater than or equal to 1", "Partitions"),
        ("localhost:9092", "h:1\n  partitions: true", "s.yaml:17:15", "should be a number", "Partitions"),
        ("localhost:9092", "h:1\n  partitions: four", "s.yaml:17:15", "whole number", "Partitions"),
        ("localhost:9092", "h:1\n  config: {a: [1]}", "s.yaml:17:15", "should be text", "librdkafka"),
        ("localhost:9092", "h:1\n  config: {1: {a: b}}", "s.yaml:17:15", "should be text", "librdkafka"),
        ("scope:", "limits: {in_flight: 17}", "s.yaml:9:21", "less than or equal to 16", "Bulk requests"),
        ("scope:", "limits: {documents_per_second: .inf}", "s.yaml:9:32", "finite", "Documents"),
        ("scope:", "validation: {counts: maybe}", "s.yaml:9:22", "'exact' or 'off'", "counted"),
        ("scope:", "transform: my.module", "s.yaml:9:12", "does not match", "package.module:function"),
        ("scope:", "why: 2026-13-45", "s.yaml:9:6", "cannot be read as the type", "quotes"),
        ("scope:", "scope: &a {}", "", "", ""),
        ("scope:", "scope: *a", "s.yaml:9:8", "aliases", "correct the YAML"),
        ("scope:", "scope: [", "s.yaml:1", "not YAML", "correct the YAML"),
        ("scope:", "\tscope:", "s.yaml:9:1", "not YAML", "correct the YAML"),
        ("scope:", "? [a]\n: b", "s.yaml:9:3", "must be plain text", "name: value"),
        ("scope:", "scope: !!python/name:os.system", "s.yaml:9:8", "cannot be read", "quotes"),
    ],
)  # fmt: skip
def test_one_mistake(old: str, new: str, place: str, what: str, remedy: str) -> None:
    if not what:  # harmless
        parse_good(changed(old, new))
        return
    found = problems(changed(old, new))
    matching = [p for p in found if what in p.what]
    assert matching, found
    assert matching[0].place.startswith(place)
    assert remedy in matching[0].remedy
    assert len(found) == 1 or "transform" in new or "[" in new


@pytest.mark.parametrize(
    ("text", "what"),
    [("", "empty"), ("# nothing\n", "empty"), ("- a\n", "must be a mapping"), ("a: b\n---\nc: d\n", "not YAML")],
)
def test_not_a_spec_at_all(text: str, what: str) -> None:
    assert what in problems(text)[0].what


def test_all_problems_at_once_in_the_order_of_the_file() -> None:
    text = changed("reindex: cities", "reindex: Cities").replace("alias: cities", "alas: cities")
    text = text.replace("key: geonameid", "key: ${A}-${B}").replace("kafka:", "kafka:\n  partitons: 3")
    found = problems(text)
    assert [p.place for p in found] == ["s.yaml:1:10", "s.yaml:5:10", "s.yaml:5:10", "s.yaml:13:5", "s.yaml:16:3"]
    assert [p.what for p in found[1:3]] == [f"environment variable {name} is not set" for name in "AB"]
    assert [p.remedy for p in found[3:]] == ["did you mean 'alias'?", "did you mean 'partitions'?"]


def test_variables() -> None:
    text = changed("localhost:9092", "${HOST:-h}:${PORT:-9092}\n  partitions: ${FOUR}")
    spec = parse_good(text.replace("name\n", "'$${x}' as name, $1 as d\n"), HOST="", PORT="1")
    assert (spec.kafka.bootstrap, spec.kafka.partitions) == ("h:1", 4)
    assert "'${x}' as name, $1 as d" in spec.source.postgres.query


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("${SOURCE_URL}", "postgresql://reader:hunter22@db/shop"),
        ("${SOURCE_URL}", "postgresql://reader:${P:-hunter22}@db/shop"),
        ("${SOURCE_URL}", "postgresql://db/shop?password=hunter22"),
        ("${SOURCE_URL}", "host=db password='hunter22' user=x"),
        ("${SOURCE_URL}", "host=db sslpassword=hunter22"),
        ("http://localhost", "https://me:hunter22@localhost"),
        ("alias: cities", "alias: cities\n    username: me\n    password: hunter22"),
        ("localhost:9092", "h:1\n  config: {sasl.password: hunter22}"),
        ("localhost:9092", "h:1\n  config: {ssl.key.password: hunter22}"),
        ("localhost:9092", "h:1\n  config: {sasl.oauthbearer.client.secret: hunter22}"),
    ],
)
def test_a_secret_written_into_the_file_is_refused_and_not_repeated(old: str, new: str) -> None:
    found = problems(changed(old, new))
    assert len(found) == 1
    assert "has a secret written into the file" in found[0].what
    assert "environment variable" in found[0].remedy
    assert "hunter22" not in str(found)
    assert "hunter22" not in redact("the password is hunter22")


def test_a_secret_of_digits_in_the_file_is_refused() -> None:
    found = problems(changed("localhost:9092", "h:1\n  config: {sasl.password: 12345678}"))
    assert "has a secret written into the file" in found[0].what


def test_secrets_are_remembered_and_left_out_of_the_public_spec() -> None:
    text = changed("alias: cities", "alias: cities\n    username: me\n    password: ${PASSWORD}")
    text = text.replace("http://localhost", "http://u:${URL_PASSWORD}@localhost")
    text = text.replace("localhost:9092", "h:1\n  config: {sasl.password: '${SASL}', acks: all, x: 5, y: true}")
    spec = parse_good(text, SASL="sasl-s3cret", URL_PASSWORD="url-s3cret")
    assert spec.kafka.config == {"sasl.password": "sasl-s3cret", "acks": "all", "x": "5", "y": "true"}
    assert spec.target.opensearch.password == "open-sesame"
    secrets = ("open-sesame", "sasl-s3cret", "url-s3cret", "s3cr%21t-word", "s3cr!t-word")
    for text in (str(spec.public()), spec.text, redact(" ".join(secrets))):
        assert not any(secret in text for secret in secrets)
    assert spec.public()["source"]["postgres"]["url"] == "postgresql://reader:***@db/shop"
    assert spec.public()["kafka"]["config"]["acks"] == "all"


def test_a_secret_does_not_show_in_the_message_about_a_bad_url() -> None:
    found = problems(GOOD, SOURCE_URL="postgresql://reader:tr0ub4dor@db/shop?nonsense=1")
    assert "tr0ub4dor" not in str(found)
    assert "nonsense" in found[0].what


@pytest.mark.parametrize(
    ("content", "place", "what"),
    [
        (None, "s.yaml:14:12", "cannot read the index definition"),
        (b"{\n  x}", "cities.index.json:2:3", "not JSON"),
        (b"[]", "cities.index.json:1:1", "must be an object"),
        (b'{\n "mapping": {}}', "cities.index.json:2:2", "unknown field 'mapping'"),
        (b'{\n "aliases": {}}', "cities.index.json:2:2", "`aliases`"),
        (b'{"mappings": []}', "cities.index.json:1:2", "must be an object"),
        (b'{"mappings": {"a": 1,\n "a": 2}}', "cities.index.json:2:2", "stands twice"),
        (b'{"settings": {"a": NaN}}', "cities.index.json:1:1", "NaN"),
        (b'{"settings":\n "\xff"}', "cities.index.json:2:1", "not UTF-8"),
    ],
)
def test_index_definition(tmp_path: Path, content: bytes | None, place: str, what: str) -> None:
    if content is not None:
        (tmp_path / "cities.index.json").write_bytes(content)
    file = tmp_path / "s.yaml"
    file.write_text(GOOD)
    with pytest.raises(SpecError) as caught:
        load(file, ENVIRON)
    (problem,) = caught.value.problems
    assert problem.place == place
    assert what in problem.what


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="No such file"):
        load(tmp_path / "none.yaml", {})
    (tmp_path / "latin.yaml").write_bytes(b"reindex: a\nwhy: caf\xe9\n")
    with pytest.raises(SpecError) as caught:
        load(tmp_path / "latin.yaml", {})
    assert caught.value.problems[0].place == "latin.yaml:2:9"


def test_published_schema_is_up_to_date() -> None:
    import reshelve.spec

    published = Path(reshelve.spec.__file__).with_name(SCHEMA_FILE)
    assert published.read_text(encoding="utf-8") == schema_text(), "run python -m reshelve.spec.published"


def test_every_field_is_described() -> None:
    for name, section in {**json_schema()["$defs"], "Spec": json_schema()}.items():
        assert section.get("description"), name
        for field, schema in section["properties"].items():
            assert schema.get("description") or "$ref" in schema, f"{name}.{field}"


@pytest.mark.parametrize("name", ["cities", "products"])
def test_the_example_is_a_good_spec(tmp_path: Path, name: str) -> None:
    spec, definition = example(name)
    (tmp_path / "s.yaml").write_text(spec)
    (tmp_path / f"{name}.index.json").write_text(definition)
    names = ("SOURCE_URL", "OPENSEARCH_URL", "KAFKA_BOOTSTRAP")
    values = ("postgresql://db/shop", "http://localhost:9200", "localhost:9092")
    loaded = load(tmp_path / "s.yaml", dict(zip(names, values, strict=True)))
    assert (loaded.reindex, loaded.target.opensearch.alias) == (name, name)
    assert loaded.definition["mappings"]["dynamic"] == "strict"


def test_live_changes_by_default() -> None:
    spec = parse_good()
    assert (spec.changes.mode, spec.follow, spec.source.postgres.depends_on) == ("replication", "until_cutover", ())
    assert (spec.limits.max_wal_retained, spec.limits.max_seconds_behind) == (10 * 10**9, 10.0)


@pytest.mark.parametrize(
    ("changes", "mode"),
    [
        ("none", "none"),
        ("replication", "replication"),
        ("{replication: }", "replication"),
        ("{replication: {publication: theirs}}", "replication"),
        ("{debezium: {topics: [a.b]}}", "debezium"),
        ("{debezium: {topics: [a.b], format: avro, registry: 'http://r:8081'}}", "debezium"),
    ],
)
def test_modes_of_changes(changes: str, mode: str) -> None:
    assert parse_good(f"{GOOD}changes: {changes}\n").changes.mode == mode


@pytest.mark.parametrize(
    ("text", "place", "what", "remedy"),
    [
        ("changes: all", "s.yaml:17:10", "should be replication, none", ""),
        ("changes: {}", "s.yaml:17:10", "should be replication, none", ""),
        ("changes: {replicaton: {}}", "s.yaml:17:11", "unknown field 'replicaton'", "did you mean 'replication'?"),
        (
            "changes: {replication: {publicaton: x}}",
            "s.yaml:17:25",
            "unknown field 'publicaton'",
            "did you mean 'publication'?",
        ),
        ("changes: {debezium: {}}", "s.yaml:17:11", "'changes.debezium.topics' is missing", "Topics of the tables"),
        ("changes: {debezium: {topics: [a], format: avro}}", "s.yaml:17:21", "needs a registry", ""),
        ("changes: {debezium: {topics: [a]}, replication: {}}", "s.yaml:17:10", "one of replication and debezium", ""),
        ("changes: none\nfollow: always", "s.yaml:1:1", "needs changes to follow", ""),
        ("limits: {max_wal_retained: 10 gigs}", "s.yaml:17:28", "such as 500 MB or 10 GB", "WAL that the source"),
        ("limits: {max_wal_retained: 10 kB}", "s.yaml:17:28", "greater than or equal to 1000000", ""),
        ("limits: {max_seconds_behind: 0}", "s.yaml:17:30", "greater than 0", ""),
    ],
)
def test_what_is_wrong_with_changes(text: str, place: str, what: str, remedy: str) -> None:
    (found,) = problems(f"{GOOD}{text}\n")
    assert found.place == place
    assert what in found.what
    assert remedy in found.remedy


@pytest.mark.parametrize(
    ("entry", "what", "remedy"),
    [
        ("{tabel: a, key: b}", "unknown field 'tabel'", "did you mean 'table'?"),
        ("{table: a}", "needs one of key, lookup and ignore", ""),
        ("{table: a, key: b, ignore: true}", "needs one of key, lookup and ignore", ""),
        ("{table: a, lookup: select 1}", "lookup and columns go together", ""),
        ("{table: a, lookup: delete from b, columns: c}", "must begin with SELECT", "SELECT that returns the keys"),
    ],
)
def test_what_is_wrong_with_a_dependency(entry: str, what: str, remedy: str) -> None:
    (found,) = problems(changed("    key: geonameid\n", f"    key: geonameid\n    depends_on: [{entry}]\n"))
    assert found.place.startswith("s.yaml:6:")
    assert what in found.what
    assert remedy in found.remedy


def test_sizes() -> None:
    for text, size in (("500 MB", 500 * 10**6), ("1.5GB", 1_500_000_000), ("2000000", 2_000_000)):
        assert parse_good(f"{GOOD}limits: {{max_wal_retained: {text}}}\n").limits.max_wal_retained == size
