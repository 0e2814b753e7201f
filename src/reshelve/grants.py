"""The least privileges that each server must give for a spec. Pure texts, to be run by whoever administers the server.

`python -m reshelve.grants FOLDER` writes those of the example spec; a test sees that deploy/grants is up to date, and
another one that a run completes with exactly those of the source."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from psycopg import sql

from reshelve.model import JOURNAL_TOPIC
from reshelve.spec import Spec, parse
from reshelve.spec.published import example

_PLAIN: Final = re.compile(r"[a-z_][a-z0-9_]*")
_EXAMPLE_TABLES: Final = (("public", "cities"), ("public", "countries"))
_PUBLICATION: Final = "search_changes"


@dataclass(frozen=True, slots=True)
class Subject:
    """Who gets the privileges, and on what at the source.

    role      of PostgreSQL; principal and user of Kafka and OpenSearch are named alike
    database  None: to be given as psql's variable :database
    tables    (schema, name) of those that are read, through views too
    views     those that the query names"""

    role: str
    database: str | None
    tables: tuple[tuple[str, str], ...]
    views: tuple[tuple[str, str], ...] = ()


def all_grants(spec: Spec, subject: Subject) -> dict[str, str]:
    """The texts by the name of their file."""
    return {
        "postgres.sql": postgres(spec, subject),
        "kafka.sh": kafka(spec, subject),
        "opensearch.yml": opensearch(spec, subject),
    }


def postgres(spec: Spec, subject: Subject) -> str:
    """SQL for the source."""
    role = _name(subject.role)
    database = ':"database"' if subject.database is None else _name(subject.database)
    read = ", ".join(f"{_name(schema)}.{_name(name)}" for schema, name in (*subject.tables, *subject.views))
    schemas = ", ".join(dict.fromkeys(_name(schema) for schema, _ in (*subject.tables, *subject.views)))
    lines = [
        "-- The least that Reshelve needs of the source. Run as a superuser, or as who owns the tables and makes roles",
        f"create role {role} login;  -- and let it log in as it shall: pg_hba.conf, a password",
        f"grant connect on database {database} to {role};",
        f"grant usage on schema {schemas or 'public'} to {role};",
        "-- SELECT is also what LOCK TABLE … IN ACCESS SHARE MODE needs: no table is ever written to.",
        f"grant select on table {read} to {role};" if read else "-- (the query reads no tables)",
        "-- The server's identity, by which a restored or failed-over source is known.",
        f"grant execute on function pg_catalog.pg_control_system() to {role};",
        "-- Row-level security: a table whose policies would hide rows from the role is refused. Where one has some:",
        f"--   alter role {role} bypassrls;",
    ]
    return "\n".join([*lines, *_postgres_changes(spec, subject, role, database)]) + "\n"


def _postgres_changes(spec: Spec, subject: Subject, role: str, database: str) -> list[str]:
    if spec.changes.replication is None:
        return ["-- Nothing more is needed: the source's log is not read (`changes` in the spec)."]
    tables = ", ".join(f"{_name(schema)}.{_name(name)}" for schema, name in subject.tables)
    publication = spec.changes.replication.publication
    made = (
        f"create publication {_name(publication or _PUBLICATION)} for table {tables}\n"
        "  with (publish_via_partition_root = true);"
    )
    lines = [
        "-- For `changes: replication`. REPLICATION is a superuser's to give; on Amazon RDS it is",
        f"--   grant rds_replication to {role};",
        f"alter role {role} replication;",
    ]
    if publication is not None:
        lines += [
            "-- Only owners of tables can publish them, so their owner makes the publication that the spec names.",
            made,
        ]
    else:
        lines += [
            "-- Only owners of tables can publish them. The spec names no publication: the run makes one and drops it.",
            f"-- {role} must own the tables, or be a member of the role that does.",
            f"grant create on database {database} to {role};",
            f"-- Less is needed with `changes: {{replication: {{publication: {_PUBLICATION}}}}}`, made by the owner:",
            *(f"--   {line}" for line in made.splitlines()),
        ]
    return [
        *lines,
        "-- A table without primary key, or one of which a lookup needs other columns than those of its key, must log",
        "-- them; `reshelve check` prints the statement, for instance: alter table … replica identity full;",
    ]


def kafka(spec: Spec, subject: Subject) -> str:
    """ACLs, as the commands that add them."""
    prefix = f"reshelve.{spec.reindex}."
    rules = [
        ("the run's topics", f"--topic {prefix} --resource-pattern-type prefixed", "Create Delete Describe Read Write"),
        ("the journal, which all reindexes share", f"--topic {JOURNAL_TOPIC}", "Create Describe Read Write"),
        (
            "leases, and the groups of the roles",
            f"--group {prefix} --resource-pattern-type prefixed",
            "Describe Read Delete",
        ),
        ("reads without ever joining", "--group reshelve.reader", "Describe Read"),
        ("pages, keys and tasks", f"--transactional-id {prefix} --resource-pattern-type prefixed", "Describe Write"),
    ]
    if spec.notify.topic is not None:
        rules.append(("who waits for a run's end", f"--topic {spec.notify.topic}", "Create Describe Write"))
    debezium = spec.changes.debezium
    if debezium is not None:
        where = "" if debezium.bootstrap is None else f" (on {debezium.bootstrap})"
        rules += [
            (f"what the connector writes{where}", f"--topic {topic}", "Describe DescribeConfigs Read")
            for topic in debezium.topics
        ]
    lines = [
        "#!/bin/sh",
        "# The least that Reshelve needs of Kafka. Workers on other machines need no Create and Delete.",
        ': "${BOOTSTRAP:?host:port of a broker}"',
        f'acl() {{ kafka-acls.sh --bootstrap-server "$BOOTSTRAP" --add --allow-principal User:{subject.role} "$@"; }}',
    ]
    for what, resource, operations in rules:
        asked = " ".join(f"--operation {operation}" for operation in operations.split())
        lines += [f"# {what}", f"acl {resource} {asked}"]
    return "\n".join(lines) + "\n"


def opensearch(spec: Spec, subject: Subject) -> str:
    """A role of the Security plugin, as its roles.yml has it. What is searched now is reached through the alias, and by
    the name of the index, whatever that is."""
    name = f"reshelve_{spec.reindex}".replace("-", "_")
    lines = [
        "# The least that Reshelve needs of OpenSearch, as roles.yml of the Security plugin has it; mapped in",
        f"# roles_mapping.yml to the user {subject.role}.",
        f"{name}:",
        "  cluster_permissions:",
        "    - cluster:monitor/main",
        "    - cluster:monitor/health",
        "    - cluster:monitor/state",
        "    - cluster:monitor/settings          # watermarks",
        "    - cluster:monitor/nodes/stats       # disk and load; a run goes on without",
        "    - cluster:monitor/allocation/explain",
        "    - indices:admin/index_template/simulate   # `reshelve check` has the index definition judged",
        "    - indices:data/write/bulk",
        "    - indices:data/read/mget",
        "    - indices:data/read/point_in_time/delete",
        "  index_permissions:",
        "    - index_patterns:",
        f'        - "{spec.reindex}-*"           # generations and their private aliases',
        f'        - "{spec.target.opensearch.alias}"',
        "        # and the index behind the alias now, where no run has made it",
        "      allowed_actions:",
        "        - indices:admin/create",
        "        - indices:admin/delete          # `reshelve clean`",
        "        - indices:admin/get",
        "        - indices:admin/resolve/index",
        "        - indices:admin/aliases*",
        "        - indices:admin/mappings/get",
        "        - indices:admin/mapping/put     # a dynamic mapping",
        "        - indices:admin/settings/update",
        "        - indices:admin/refresh*",
        "        - indices:admin/flush*",
        "        - indices:monitor/*",
        "        - indices:data/write/*",
        "        - indices:data/read/*",
    ]
    return "\n".join(lines) + "\n"


def _name(identifier: str) -> str:
    """As SQL; quoted where it has to be."""
    return identifier if _PLAIN.fullmatch(identifier) else sql.Identifier(identifier).as_string(None)


def example_grants() -> dict[str, str]:
    """Those of the example spec, with a publication of its own."""
    text, _ = example()
    named = text.replace(
        "changes: replication       #", f"changes: {{replication: {{publication: {_PUBLICATION}}}}}  #"
    )
    environ = {
        "SOURCE_URL": "postgresql://localhost/shop",
        "OPENSEARCH_URL": "http://localhost:9200",
        "KAFKA_BOOTSTRAP": "localhost:9092",
    }
    spec = parse(named, name="example.yaml", folder=Path(), environ=environ, definition={})
    return all_grants(spec, Subject("reshelve", None, _EXAMPLE_TABLES))


if __name__ == "__main__":
    for file, content in example_grants().items():
        (Path(sys.argv[1]) / file).write_text(content, encoding="utf-8")
