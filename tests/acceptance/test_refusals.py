"""Servers that refuse: exit code 3, their words, and no secret anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from opensearchpy import OpenSearch
from pipeline import Pipeline, Result

from reshelve.local.kafka import KafkaServer
from reshelve.local.stack import Endpoints

Docs = Callable[[int], Pipeline]

_ADMIN, _USER = "admin-opens-sesame", "user-opens-sesame"
_WRONG = "wrong-opens-nothing"
_PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule required"


def require_refused(p: Pipeline, words: str, *secrets: str) -> None:
    """`check` and `run` end with 3 and the server's words, without the secrets."""
    for verb in ("check", "run"):
        done = p.reshelve(verb, p.spec).expect(3)
        assert words in done.stdout + done.stderr, done.output
        require_silence(done, *secrets)
    error = p.run("--json").expect(3)
    require_silence(error, *secrets)
    assert error.json["error"]["code"] == "access"
    assert words in error.json["error"]["what"] + error.json["error"]["why"]


def require_silence(done: Result, *secrets: str) -> None:
    for secret in secrets:
        assert secret not in done.output


def with_login(url: str, user: str, password: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{user}:{password}@{parts.hostname}:{parts.port}"))


def test_a_wrong_password_of_postgresql(docs: Docs) -> None:
    p = docs(3)
    p.environ["SOURCE_URL"] = with_login(p.database, "postgres", _WRONG)
    p.write()
    require_refused(p, "password authentication failed", _WRONG)
    assert p.states() == []


def test_a_user_of_postgresql_who_may_not_read(docs: Docs) -> None:
    p = docs(3)
    role = f"limited_{p.name}"
    p.execute(f"create role {role} login password '{_WRONG}'")
    try:
        p.environ["SOURCE_URL"] = with_login(p.database, role, _WRONG)
        p.write()
        require_refused(p, "permission denied", _WRONG)
    finally:
        p.execute(f"drop owned by {role}; drop role {role}")


def test_tls_that_postgresql_does_not_speak(docs: Docs) -> None:
    p = docs(3)
    p.environ["SOURCE_URL"] += "?sslmode=require"
    p.write()
    require_refused(p, "server does not support SSL, but SSL was required", urlsplit(p.database).password or "")


def test_tls_that_opensearch_does_not_speak(docs: Docs) -> None:
    p = docs(3)
    p.environ["OPENSEARCH_URL"] = p.environ["OPENSEARCH_URL"].replace("http://", f"https://me:{_WRONG}@")
    p.write()
    require_refused(p, "SSL", _WRONG)


def test_tls_that_kafka_does_not_speak(docs: Docs) -> None:
    p = docs(3)
    p.write(kafka={"config": {"security.protocol": "ssl"}})
    require_refused(p, "SSL handshake failed")


# --- Kafka with passwords and rights


@pytest.fixture(scope="module")
def guarded_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """A broker that asks who one is (SASL/PLAIN) and lets the user do only what an ACL allows."""
    users = f'user_admin="{_ADMIN}" user_worker="{_USER}"'
    listener = "listener.name.sasl_plaintext"
    server = KafkaServer(
        tmp_path_factory.mktemp("guarded"),
        heap="320m",
        security_protocol="SASL_PLAINTEXT",
        settings={
            "sasl.enabled.mechanisms": "PLAIN",
            "sasl.mechanism.inter.broker.protocol": "PLAIN",
            f"{listener}.plain.sasl.jaas.config": f'{_PLAIN} username="admin" password="{_ADMIN}" {users};',
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:admin;User:ANONYMOUS",  # the controller's listener has no login
        },
        client_config=login("admin", _ADMIN),
    )
    try:
        server.start()
        server.wait_healthy()
        yield server
    finally:
        server.stop()
        server.remove()


def login(user: str, password: str) -> dict[str, str]:
    return {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "PLAIN",
        "sasl.username": user,
        "sasl.password": password,
    }


@pytest.fixture
def guarded(docs: Docs, guarded_kafka: KafkaServer, endpoints: Endpoints) -> Pipeline:
    """A reindex whose Kafka is the guarded one; the spec takes the password from KAFKA_PASSWORD."""
    plain = docs(50)
    there = replace(endpoints, kafka_bootstrap=guarded_kafka.address)
    environ = {"KAFKA_PASSWORD": _USER}
    p = Pipeline(plain.folder, plain.name, plain.database, there, environ, login("admin", _ADMIN))
    p.write(kafka={"config": {**login("worker", "${KAFKA_PASSWORD}")}})
    return p


def allow(server: KafkaServer, kind: ResourceType, name: str, *operations: AclOperation) -> None:
    admin = AdminClient({"bootstrap.servers": server.address, **login("admin", _ADMIN)})
    for operation in operations:
        binding = AclBinding(
            kind, name, ResourcePatternType.PREFIXED, "User:worker", "*", operation, AclPermissionType.ALLOW
        )
        for created in admin.create_acls([binding]).values():
            created.result()


@pytest.mark.timeout(300)
def test_kafka_with_passwords_and_rights(
    guarded: Pipeline, guarded_kafka: KafkaServer, opensearch: OpenSearch, tmp_path: Path
) -> None:
    p = guarded
    p.environ["KAFKA_PASSWORD"] = _WRONG
    require_refused(p, "Authentication failed", _WRONG, _USER)
    p.environ["KAFKA_PASSWORD"] = _USER
    require_refused(p, "Authorization failed", _USER)  # it may do nothing yet

    for name in ("reshelve.journal", f"reshelve.{p.name}"):
        allow(guarded_kafka, ResourceType.TOPIC, name, AclOperation.ALL)
    allow(guarded_kafka, ResourceType.GROUP, "reshelve.", AclOperation.ALL)
    denied = p.run().expect(3)  # topics are made; writing in transactions is not allowed
    assert "access" in denied.stderr and "uthoriz" in denied.stderr, denied.output

    allow(guarded_kafka, ResourceType.TRANSACTIONAL_ID, "reshelve.", AclOperation.ALL)
    done = p.run().expect(0)
    p.assert_equal(opensearch)
    config = tmp_path / "kafka.properties"
    config.write_text("".join(f"{name}={value}\n" for name, value in login("worker", _USER).items()))
    status = p.reshelve("status", p.name, "--kafka-config", config, "--json").expect(0)
    assert status.json["state"] == "completed"
    for secret in (_USER, _ADMIN, _WRONG):
        assert secret not in denied.output + done.output + status.output + p.written_text()
