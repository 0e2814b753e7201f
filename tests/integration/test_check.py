"""`reshelve check` on real servers: every bad input is named, placed and given a remedy, and nothing changes."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from confluent_kafka.admin import AdminClient
from opensearchpy import OpenSearch
from services import Services
from typer.testing import CliRunner

from reshelve.check import Refusal, check_spec, raise_for
from reshelve.cli import app
from reshelve.consumers.capacity import kept_free
from reshelve.errors import AccessRefused, Problem, SpecError
from reshelve.local.kafka import KafkaServer
from reshelve.local.postgres import PostgresServer
from reshelve.local.stack import Endpoints
from reshelve.spec import Spec, load

pytestmark = pytest.mark.services

DEFINITION = {"settings": {"number_of_shards": 1}, "mappings": {"properties": {"id": {"type": "long"}}}}
SCHEMA = """
create table items (id bigint primary key, name text, code text, a int not null, b int);
insert into items select i, 'name ' || i, i::text, i % 10, i / 10 from generate_series(1, 1000) as i;
create unique index on items (code);
create unique index on items (a, b);
create table big (id bigint, name text);
insert into big select i, 'x' from generate_series(1, 150000) as i;
create table nullable (id int unique, name text);
insert into nullable values (1, 'a'), (null, 'b'), (null, 'c');
create table twice (id int not null, name text);
create index on twice (id);
insert into twice values (1, 'a'), (2, 'b'), (2, 'c');
create table nothing (id int primary key);
create materialized view frozen as select * from items;
create schema hidden;
create table hidden.away (id int primary key);
analyze;
"""


@dataclass
class Bench:
    """Writes specs, and checks them against real servers."""

    endpoints: Endpoints
    folder: Path
    namespace: str
    url: str
    kafka_config: dict[str, str] = field(default_factory=dict)

    def write(
        self,
        query: str = "select * from public.items",
        key: str = "id",
        where: str | None = None,
        *,
        definition: Any = DEFINITION,
        target: str = "",
        kafka: str = "",
        extra: str = "",
        opensearch: str = "",
        bootstrap: str = "",
        changes: str = "none",
    ) -> Path:
        lines = [
            f"reindex: {self.namespace}",
            "source:",
            "  postgres:",
            "    url: ${URL}",
            f"    key: {key}",
            "    query: |",
            *(f"      {line}" for line in query.splitlines()),
            "target:",
            "  opensearch:",
            f"    url: {opensearch or self.endpoints.opensearch_url}",
            f"    alias: {self.namespace}",
            "    index: i.json",
            *(["    " + target] if target else []),
            "kafka:",
            f"  bootstrap: {bootstrap or self.endpoints.kafka_bootstrap}",
            f"  config: {json.dumps(self.kafka_config)}",
            *(["  " + kafka] if kafka else []),
            *(["scope:", f"  where: {json.dumps(where)}"] if where else []),
            *([extra] if extra else []),
            "owner: search team",
            "why: it is due",
            f"changes: {changes}",
        ]
        (self.folder / "i.json").write_text(json.dumps(definition, indent=1))
        file = self.folder / "s.yaml"
        file.write_text("\n".join(lines) + "\n")
        return file

    def load(self, *arguments: Any, **keywords: Any) -> Spec:
        return load(self.write(*arguments, **keywords), {"URL": self.url})

    def check(self, *arguments: Any, **keywords: Any) -> list[Problem]:
        return self.problems(self.load(*arguments, **keywords))

    @staticmethod
    def problems(spec: Spec) -> list[Problem]:
        """What is found, but for the words that changes are not followed: test_check_changes.py is about these."""
        found = check_spec(spec)
        return [problem for problem in found if "are not followed" not in problem.what]


@pytest.fixture(scope="module")
def database(endpoints: Endpoints) -> Iterator[str]:
    """One database for the whole module: checks change nothing, and a test that does puts it back."""
    name = f"t{secrets.token_hex(4)}"
    with psycopg.connect(endpoints.source_url, autocommit=True) as connection:
        connection.execute(f"create database {name}")
        yield urlunsplit(urlsplit(endpoints.source_url)._replace(path=f"/{name}"))
        connection.execute(f"drop database {name} with (force)")


@pytest.fixture(scope="module")
def source(database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(SCHEMA)
        yield connection


@pytest.fixture
def bench(endpoints: Endpoints, tmp_path: Path, namespace: str, database: str, source: psycopg.Connection) -> Bench:
    return Bench(endpoints, tmp_path, namespace, database)


@pytest.fixture
def role(database: str, source: psycopg.Connection) -> Iterator[str]:
    """A role without privileges; yields its name. Its password is `r0le-password`."""
    name = f"r{secrets.token_hex(4)}"
    source.execute(f"create role {name} login password 'r0le-password'")
    yield name
    source.execute(f"drop owned by {name}; drop role {name}")


def as_role(url: str, role: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{role}:r0le-password@{parts.hostname}:{parts.port}"))


@pytest.mark.parametrize(
    ("query", "key", "where"),
    [
        ("select * from public.items;  -- all", "id", None),
        ("select * from public.items", "code", "code is not null and name like '%9'"),
        ("select * from public.items", "[a, b]", "b is not null"),
        ("select i.*, n.id as other from public.items i left join public.nothing n on n.id = i.a", "id", None),
        ("select * from public.nothing", "id", None),
    ],
)
def test_no_problems(bench: Bench, query: str, key: str, where: str | None) -> None:
    assert bench.check(query, key, where) == []


SOURCES: list[tuple[str, str, str | None, str, str, str, str]] = [
    # query, key, where, level, place, what, remedy
    ("select *\nfrom public.itms", "id", None, "error", "s.yaml:8:12", 'relation "public.itms" does not', "name"),
    ("select * from items", "id", None, "error", "s.yaml:7:21", 'relation "items" does not', "public.items"),
    ("select *, nme from public.items", "id", None, "error", "s.yaml:7:17", '"nme" does not exist', "items.name"),
    ("select\n  from public.items wher x", "id", None, "error", "s.yaml:8", "syntax error", "psql"),
    ("select soundex(name), id from public.items", "id", None, "error", "s.yaml:7:14", "soundex", "schema"),
    ("select *, 1/0 as x from public.items", "id", None, "error", "s.yaml:7:7", "division by zero", "correct"),
    ("select *, id from public.items", "id", None, "error", "s.yaml:7:7", "several columns named 'id'", "rename"),
    ("with x as (delete from public.items returning *) select * from x", "id", None,
     "error", "s.yaml:7", "data-modifying", "psql"),
    ("select * from public.items for update", "id", None, "error", "s.yaml:7:7", "read-only", "psql"),
    ("select * from public.frozen", "id", None, "error", "s.yaml:7:7", "materialized view", "tables behind"),
    ("select * from public.items", "idd", None, "error", "s.yaml:5:10", "'idd'", "did you mean 'id'?"),
    ("select * from public.items", "ID", None, "error", "s.yaml:5:10", "'ID'", "did you mean 'id'?"),
    ("select * from public.items", "zzz", None, "error", "s.yaml:5:10", "'zzz'", "it returns id, name, code, a, b"),
    ("select * from public.items", "[id, nme]", None, "error", "s.yaml:5:10", "'nme'", "'name'"),
    ("select * from public.items", "id", "nme = 'x'", "error", "s.yaml:17:10", '"nme" does not exist', "name"),
    ("select * from public.items", "id", "name", "error", "s.yaml:17:10", "must be type boolean", "psql"),
    ("select * from public.big", "id", None, "error", "s.yaml:5:10", "each page sorts all", "create an index"),
    ("select name, id + 0 as id from public.items", "id", None, "warning", "s.yaml:5:10", "each page sorts", "index"),
    ("select * from public.nullable", "id", None, "error", "s.yaml:5:10", "at least 2 rows", "id is not null"),
    ("select * from public.nullable", "id", "id is not null", "", "", "", ""),
    ("select * from public.twice", "id", None, "error", "s.yaml:5:10", "several rows have id = 2", "to the key"),
    ("select array[id] as id from public.items", "id", None, "error", "s.yaml:5:10", "is an array", "elements"),
    ("select id, 1 as q, 2 as s from public.items", "id", None, "", "", "", ""),
    ("select i.id from public.items i, public.twice", "id", None, "error", "s.yaml:5:10", "not unique", "key"),
    ("select i.id, unnest('{1,2}'::int[]) from public.items i", "id", None,
     "error", "s.yaml:5:10", "not unique", "key"),
    ("select id from public.items union all select id from public.items", "id", None,
     "error", "s.yaml:5:10", "not unique", "key"),
    ("select id + 0 as id, pg_sleep(0.1)::text as s from public.items offset 0", "id", None,
     "warning", "s.yaml:5:10", "could not find out within 5 s", "unique index"),
]  # fmt: skip


@pytest.mark.parametrize(("query", "key", "where", "level", "place", "what", "remedy"), SOURCES)
def test_source(
    bench: Bench, query: str, key: str, where: str | None, level: str, place: str, what: str, remedy: str
) -> None:
    found = bench.check(query, key, where)
    if not level:
        assert found == []
        return
    matching = [p for p in found if what in p.what]
    assert matching, found
    assert matching[0].level == level
    assert matching[0].place.startswith(place)
    assert remedy in matching[0].remedy
    if level == "error":
        with pytest.raises(SpecError):
            raise_for(found)
    else:
        raise_for(found)


def test_missing_privileges(bench: Bench, database: str, source: psycopg.Connection, role: str) -> None:
    bench.url = as_role(database, role)
    (problem,) = bench.check()
    assert isinstance(problem, Refusal)
    assert problem.place == "s.yaml:7:7"
    assert "permission denied for table items" in problem.what
    assert problem.remedy == f"grant select on items to {role};"
    (problem,) = bench.check("select * from hidden.away")
    assert problem.remedy == f"grant usage on schema hidden to {role};"
    source.execute(f"grant select (id) on items to {role}")
    (problem,) = bench.check("select id from public.items")
    assert "table public.items can't be locked" in problem.what
    assert problem.remedy == f"grant select on public.items to {role};"
    with pytest.raises(AccessRefused):
        raise_for([problem])
    source.execute(f"grant select on items to {role}")
    assert bench.check() == []


def test_row_level_security(bench: Bench, database: str, source: psycopg.Connection, role: str) -> None:
    source.execute(f"grant select on items to {role}; alter table items enable row level security")
    source.execute("create policy p on items using (id > 5)")
    bench.url = as_role(database, role)
    (problem,) = bench.check()
    source.execute("drop policy p on items; alter table items disable row level security")
    assert "row-level security" in problem.what
    assert "BYPASSRLS" in problem.remedy


def test_a_table_locked_by_another(bench: Bench, database: str) -> None:
    with psycopg.connect(database) as other:
        other.execute("lock table nothing in share row exclusive mode")
        assert bench.check("select * from public.nothing") == []


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"netloc": "postgres:wr0ng-password@{host}"}, "password authentication failed"),
        ({"path": "/no_such_database"}, "does not exist"),
        ({"query": "sslmode=require"}, "SSL"),
    ],
)
def test_source_refuses(bench: Bench, change: dict[str, str], what: str) -> None:
    parts = urlsplit(bench.url)
    host = f"{parts.hostname}:{parts.port}"
    bench.url = urlunsplit(parts._replace(**{name: v.format(host=host) for name, v in change.items()}))
    found = bench.check()
    assert [type(problem) for problem in found] == [Refusal]
    assert found[0].place == "s.yaml:4:10"
    assert what in found[0].what
    with pytest.raises(AccessRefused) as caught:
        raise_for(found)
    assert caught.value.exit_code == 3
    for password in ("wr0ng-password", parts.password or ""):
        assert password not in str(found) + str(caught.value)


def test_a_standby(bench: Bench, tmp_path: Path) -> None:
    primary = PostgresServer(tmp_path / "primary")
    standby = PostgresServer(tmp_path / "standby", standby_of=primary)
    try:
        primary.start()
        primary.wait_healthy()
        with psycopg.connect(primary.url, autocommit=True) as connection:
            connection.execute("create table items (id int primary key)")
        standby.start()
        standby.wait_healthy()
        bench.url = standby.url
        found = bench.check()
    finally:
        standby.remove()
        primary.remove()
    assert [p.what for p in found if "standby" in p.what]
    assert found[0].place == "s.yaml:4:10"
    assert "primary" in found[0].remedy


@pytest.mark.parametrize(
    ("code", "reference", "what"),
    [
        ("", "nowhere_{}:f", "No module named"),
        ("x = 1", "hook_{}:f", "no attribute 'f'"),
        ("f = 1", "hook_{}:f", "not callable"),
        ("1 / 0", "hook_{}:f", "division by zero"),
        ("def f(document): return document", "hook_{}:f", ""),
    ],
)
def test_transform(bench: Bench, tmp_path: Path, code: str, reference: str, what: str) -> None:
    name = secrets.token_hex(4)
    (tmp_path / f"hook_{name}.py").write_text(code)
    found = bench.check(extra=f"transform: {reference.format(name)}")
    if not what:
        assert found == []
        return
    assert [p.place for p in found] == ["s.yaml:16:12"]
    assert what in found[0].what


@pytest.mark.parametrize(
    ("definition", "place", "what"),
    [
        ({"mappings": {"properties": {"a": {"type": "txt"}}}}, "i.json:5:13", "No handler for type [txt]"),
        ({"mappings": {"properties": {"a": {"type": "text", "analyzer": "no"}}}}, "i.json", "analyzer [no]"),
        ({"mappings": {"properties": {"a": {"type": "text", "foo": 1}}}}, "i.json", "unknown parameter [foo]"),
        ({"mappings": {"dynamic": "maybe"}}, "i.json", "dynamic"),
        ({"mappings": {"props": {}}}, "i.json:3:3", "unsupported parameters"),
        ({"settings": {"index.nonsense": 1}}, "i.json:3:3", "unknown setting [index.nonsense]"),
        ({"settings": {"nonsense": 1}}, "i.json:3:3", "unknown setting [index.nonsense]"),
        ({"settings": {"number_of_shards": 0}}, "i.json:3:3", "must be >= 1"),
        ({"settings": {"refresh_interval": "soon"}}, "i.json:3:3", "refresh_interval"),
        (
            {"settings": {"analysis": {"analyzer": {"mine": {"type": "custom", "tokenizer": "no"}}}}},
            "i.json",
            "failed to find tokenizer under name [no]",
        ),
    ],
)
def test_definition(bench: Bench, opensearch: OpenSearch, definition: dict[str, Any], place: str, what: str) -> None:
    found = bench.check(definition=definition)
    assert len(found) == 1, found
    assert found[0].place.startswith(place)
    assert what in found[0].what
    assert "simulate_template" not in found[0].what
    assert "i.json" in found[0].remedy
    assert not any("simulate" in t["name"] for t in opensearch.indices.get_index_template()["index_templates"])
    assert opensearch.indices.get(index=f"{bench.namespace}*") == {}


def test_a_template_that_would_apply_too(bench: Bench, opensearch: OpenSearch, namespace: str) -> None:
    body = {"index_patterns": [f"{namespace}-*"], "template": {"settings": {"number_of_replicas": 0}}}
    opensearch.indices.put_index_template(name=namespace, body=body)
    try:
        (problem,) = bench.check()
    finally:
        opensearch.indices.delete_index_template(name=namespace)
    assert (problem.level, problem.place) == ("warning", "s.yaml:12:12")
    assert f"index template '{namespace}'" in problem.what


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (("NAME",), "is an index, not an alias"),
        (("NAME-1", "NAME-2"), "points to several indexes"),
        (("NAME-1",), ""),
    ],
)
def test_alias(bench: Bench, opensearch: OpenSearch, namespace: str, make: tuple[str, ...], what: str) -> None:
    for name in make:
        index = name.replace("NAME", namespace)
        opensearch.indices.create(index=index, body={"aliases": {} if index == namespace else {namespace: {}}})
    found = bench.check()
    assert [(p.place, what in p.what) for p in found] == ([("s.yaml:11:12", True)] if what else [])


def test_a_data_stream(bench: Bench, opensearch: OpenSearch, namespace: str) -> None:
    template = {"index_patterns": [namespace], "data_stream": {}, "template": {}}
    opensearch.indices.put_index_template(name=namespace, body=template)
    opensearch.indices.create_data_stream(name=namespace)
    try:
        (problem,) = bench.check()
    finally:
        opensearch.indices.delete_data_stream(name=namespace)
        opensearch.indices.delete_index_template(name=namespace)
    assert "is a data stream" in problem.what


def test_too_little_disk(bench: Bench) -> None:
    query = "select i as id, repeat('x', 1000000) as text from generate_series(1, 10000000000) as i"
    found = bench.check(query)
    disk = [p for p in found if "too little disk" in p.what]
    assert [(p.level, p.place) for p in disk] == [("error", "s.yaml:10:10")]
    wide = [p for p in found if "partitions" in p.what]
    assert [(p.level, p.place) for p in wide] == [("warning", "s.yaml:13:1")]
    assert "set kafka.partitions to 200 or more" in wide[0].remedy


@pytest.mark.parametrize(
    ("watermark", "kept"),
    [("95%", 50), ("0.95", 50), ("100%", 0), ("100b", 100), ("1kb", 1024), (" 2GB ", 2 << 30)],
)
def test_watermarks(watermark: str, kept: int) -> None:
    assert abs(kept_free(watermark, 1000) - kept) <= 1


def test_opensearch_by_tls_where_there_is_none(bench: Bench) -> None:
    found = bench.check(opensearch=bench.endpoints.opensearch_url.replace("http:", "https:"))
    assert [(type(p), p.place) for p in found] == [(Refusal, "s.yaml:10:10")]
    assert "SSL" in found[0].what


@pytest.mark.parametrize(
    ("config", "kafka", "place", "what", "refused"),
    [
        ({}, "replication_factor: 9", "s.yaml:16:23", "replication factor 9, and", False),
        ({"no.such.setting": "1"}, "", "s.yaml:15:11", "No such configuration property", False),
        ({"security.protocol": "carrier-pigeon"}, "", "s.yaml:15:11", "security.protocol", False),
        ({"security.protocol": "ssl"}, "", "s.yaml:14:14", "SSL", True),
        ({}, "max_document_bytes: 90000000", "", "", False),
    ],
)
def test_kafka(bench: Bench, config: dict[str, str], kafka: str, place: str, what: str, refused: bool) -> None:
    bench.kafka_config = config
    found = bench.check(kafka=kafka)
    if not what:
        assert found == []
        return
    assert [(p.place, isinstance(p, Refusal)) for p in found] == [(place, refused)]
    assert what in found[0].what


def test_kafka_refuses_the_login_and_the_topics(bench: Bench, private_home: Path) -> None:
    login = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN"}
    module = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    server = KafkaServer(
        private_home,
        security_protocol="SASL_PLAINTEXT",
        settings={
            "sasl.enabled.mechanisms": "PLAIN",
            "sasl.mechanism.inter.broker.protocol": "PLAIN",
            "listener.name.sasl_plaintext.plain.sasl.jaas.config": f'{module} username="admin" password="adm1n-pass" '
            'user_admin="adm1n-pass" user_me="me-pass";',
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:admin;User:ANONYMOUS",
        },
        client_config=login | {"sasl.username": "admin", "sasl.password": "adm1n-pass"},
    )
    try:
        server.start()
        server.wait_healthy()
        for user, password, what in [
            ("me", "wr0ng-pass", "uthentication failed"),
            ("me", "me-pass", "uthorization failed"),
            ("admin", "adm1n-pass", ""),
        ]:
            bench.kafka_config = login | {"sasl.username": user, "sasl.password": "${KAFKA_PASSWORD}"}
            file = bench.write(bootstrap=server.address)
            found = bench.problems(load(file, {"URL": bench.url, "KAFKA_PASSWORD": password}))
            assert [(type(p), p.place) for p in found] == ([(Refusal, "s.yaml:14:14")] if what else [])
            assert not what or what in found[0].what
            assert password not in str(found)
        client = AdminClient(
            login | {"bootstrap.servers": server.address, "sasl.username": "admin", "sasl.password": "adm1n-pass"}
        )
        assert not [name for name in client.list_topics(timeout=10).topics if bench.namespace in name]
    finally:
        server.remove()


def test_every_server_down_at_once(bench: Bench) -> None:
    bench.url = "postgresql://127.0.0.1:1/none"
    found = bench.check(opensearch="http://127.0.0.1:1", bootstrap="127.0.0.1:1", extra="transform: no_such:f")
    assert [p.place for p in found] == ["s.yaml:4:10", "s.yaml:10:10", "s.yaml:14:14", "s.yaml:16:12"]
    assert all(p.level == "error" and p.remedy for p in found)
    with pytest.raises(SpecError) as caught:
        raise_for(found)
    assert len(caught.value.problems) == 4


def test_ranges_and_phases(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = bench.check(extra="scope: {keys: {low: 10, high: 9}}")
    assert found.place == "s.yaml:16:15" and "does not come before" in found.what
    (found,) = bench.check(extra="phases: [{name: a, keys: {high: x}}, {name: b, keys: {low: x}}]")[:1]
    assert found.place == "s.yaml:16:26" and "invalid input syntax" in found.what
    monkeypatch.setattr("reshelve.check.inputs.LARGE_DOCUMENTS", 200)
    (found,) = bench.check(extra="scope: {keys: {low: -100}}")
    assert found.level == "warning" and "part2" in found.remedy and "low: '-100'" in found.remedy
    proposed = "\n".join(line.removeprefix("        ") for line in found.remedy.splitlines()[1:])
    assert bench.check(extra=f"scope: {{keys: {{low: -100}}}}\n{proposed}") == []


def test_one_server_hides_nothing_of_the_others(bench: Bench, opensearch: OpenSearch, namespace: str) -> None:
    opensearch.indices.create(index=namespace)
    found = bench.check("select * from public.twice", kafka="replication_factor: 9")
    assert [p.place for p in found] == ["s.yaml:5:10", "s.yaml:11:12", "s.yaml:16:23"]


def test_checking_and_planning_by_command(
    bench: Bench, services: Services, opensearch: OpenSearch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("URL", bench.url)
    runner = CliRunner()
    file = str(bench.write(changes="replication"))
    result = runner.invoke(app, ["check", file])
    assert (result.exit_code, result.stdout) == (0, "no problems\n")
    result = runner.invoke(app, ["plan", file, "--json"])
    assert result.exit_code == 0, result.stderr
    plan = json.loads(result.stdout)
    assert plan["alias"] == bench.namespace
    before = tmp_path / f"{bench.namespace}.plan.json"
    saved = json.loads(before.read_text())
    assert saved == plan
    result = runner.invoke(app, ["plan", file, "--out", str(tmp_path / "p.json")])
    assert result.exit_code == 0
    assert "public.items  id: the document key" in result.stdout
    assert plan["hash"] in result.stdout
    for told in ("full: everything the query", "swap of the alias", "target disk", "max_rejects", "broker disk"):
        assert told in result.stdout
    result = runner.invoke(app, ["plan", file, "--diff", str(before)])
    assert (result.exit_code, result.stdout) == (0, f"no difference: {plan['hash']}\n")
    result = runner.invoke(app, ["plan", str(bench.write()), "--diff", str(before)])
    assert "changes.mode" in result.stdout and json.loads(before.read_text()) == plan
    result = runner.invoke(app, ["plan", str(bench.write())])
    assert "are not followed" in result.stdout

    result = runner.invoke(app, ["check", str(bench.write("select * from public.twice")), "--json"])
    assert result.exit_code == 2
    facts = json.loads(result.stdout)
    assert not facts["ok"]
    assert facts["problems"][0]["place"] == "s.yaml:5:10"
    result = runner.invoke(app, ["check", str(bench.write(extra="nonsense: 1"))])
    assert result.exit_code == 2
    assert "unknown field 'nonsense'" in result.stdout
    assert "1 error" in result.stdout
    parts = urlsplit(bench.url)
    wrong = urlunsplit(parts._replace(netloc=f"postgres:wr0ng-password@{parts.hostname}:{parts.port}"))
    monkeypatch.setenv("URL", wrong)
    result = runner.invoke(app, ["check", str(bench.write())])
    assert result.exit_code == 3
    assert "password authentication failed" in result.stdout
    assert "wr0ng-password" not in result.output

    topics = AdminClient({"bootstrap.servers": services.endpoints.kafka_bootstrap}).list_topics(timeout=10).topics
    assert not [name for name in topics if bench.namespace in name]
    assert opensearch.indices.get(index=f"{bench.namespace}*") == {}


def test_init(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    assert runner.invoke(app, ["init"]).exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cities.index.json", "reshelve.yaml"]
    (tmp_path / "reshelve.yaml").write_text("mine")
    result = runner.invoke(app, ["init"])
    assert getattr(result.exception, "exit_code", result.exit_code) == 2
    assert (tmp_path / "reshelve.yaml").read_text() == "mine"
    assert runner.invoke(app, ["init", "--force"]).exit_code == 0
    assert runner.invoke(app, ["init", "products.yaml"]).exit_code == 0
    assert "reindex: products" in (tmp_path / "products.yaml").read_text()
    assert (tmp_path / "products.index.json").exists()
    result = runner.invoke(app, ["init", "no/such/folder/x.yaml"])
    assert getattr(result.exception, "exit_code", result.exit_code) == 2
