"""Decoding of pgoutput messages, written here byte by byte as the protocol's documentation has them."""

from __future__ import annotations

import struct
from typing import Literal

import pytest

from reshelve.errors import SourceRefused
from reshelve.model import ChangeRule
from reshelve.producers.changes import Change
from reshelve.producers.pgoutput import Decoder, canonical_text

OID = 4711
COMMITTED = 1_700_000_000_123  # ms since 1970
Field = str | None | Literal[False]
"""False: a TOASTed value, unchanged and so not sent."""


def rule(*columns: str, types: tuple[str, ...] = (), lookup: str | None = None) -> ChangeRule:
    return ChangeRule("public", "docs", OID, columns, types or ("text",) * len(columns), lookup)


def decoder(*rules: ChangeRule) -> Decoder:
    return Decoder({OID: list(enumerate(rules))}, "host/db, slot s")


def relation(*columns: str, identity: tuple[str, ...] = (), oid: int = OID) -> bytes:
    described = b"".join(
        struct.pack(">B", name in identity) + name.encode() + b"\0" + struct.pack(">Ii", 25, -1) for name in columns
    )
    return b"R" + struct.pack(">I", oid) + b"public\0docs\0d" + struct.pack(">h", len(columns)) + described


def row(*fields: Field) -> bytes:
    parts = [struct.pack(">h", len(fields))]
    for field in fields:
        if isinstance(field, str):
            parts.append(b"t" + struct.pack(">i", len(field.encode())) + field.encode())
        else:
            parts.append(b"n" if field is None else b"u")
    return b"".join(parts)


def insert(*fields: Field, oid: int = OID) -> bytes:
    return b"I" + struct.pack(">I", oid) + b"N" + row(*fields)


def update(new: tuple[Field, ...], old: tuple[Field, ...] | None = None, kind: bytes = b"O") -> bytes:
    before = b"" if old is None else kind + row(*old)
    return b"U" + struct.pack(">I", OID) + before + b"N" + row(*new)


def delete(*fields: Field, kind: bytes = b"K") -> bytes:
    return b"D" + struct.pack(">I", OID) + kind + row(*fields)


def begin(xid: int) -> bytes:
    return b"B" + struct.pack(">QqI", 90, (COMMITTED - 946_684_800_000) * 1000 + 456, xid)


def commit(end: int) -> bytes:
    return b"C" + struct.pack(">BQQq", 0, end - 8, end, 0)


def truncate(*oids: int) -> bytes:
    return b"T" + struct.pack(">IB", len(oids), 0) + b"".join(struct.pack(">I", oid) for oid in oids)


def taken(decoder: Decoder, *messages: bytes) -> list[Change]:
    out: list[Change] = []
    for message in messages:
        decoder.take(b"header" + message, 6, out)
    return out


def pairs(changes: list[Change]) -> list[tuple[object, object]]:
    return [(change.old, change.new) for change in changes]


def test_a_transaction() -> None:
    pg = decoder(rule("id"))
    changes = taken(
        pg,
        begin(4_000_000_000),
        relation("name", "id", identity=("id",)),
        insert("one", "1"),
        update(("uno", "1")),
        update(("uno", "2"), (None, "1"), b"K"),
        delete(None, "2"),
        commit(100),
    )
    assert changes == [
        Change(0, None, ("1",), 4_000_000_000, COMMITTED),
        Change(0, None, ("1",), 4_000_000_000, COMMITTED),
        Change(0, ("1",), ("2",), 4_000_000_000, COMMITTED),
        Change(0, ("2",), None, 4_000_000_000, COMMITTED),
    ]
    assert (pg.passed, pg.transactions) == (100, 1)


def test_columns_in_the_order_of_the_rule_and_null() -> None:
    pg = decoder(rule("b", "a"))
    changes = taken(pg, relation("a", "x", "b", "y", identity=("a", "b")), insert("1", "-", None, "-"))
    assert pairs(changes) == [(None, (None, "1"))]


def test_each_rule_of_a_table_sees_a_row() -> None:
    pg = decoder(rule("id"), rule("parent", lookup="select …"))
    changes = taken(
        pg, relation("id", "parent", identity=("id", "parent")), update(("1", "20"), ("1", "10")), insert("2", "30")
    )
    assert [(c.rule, c.old, c.new) for c in changes] == [
        (0, None, ("1",)),
        (1, ("10",), ("20",)),
        (0, None, ("2",)),
        (1, None, ("30",)),
    ]


def test_other_tables_and_messages_are_passed_over() -> None:
    pg = decoder(rule("id"))
    others = (b"O" + b"\0" * 8 + b"origin\0", b"Y" + b"\0" * 4 + b"public\0kind\0", b"M" + b"\0" * 20)
    assert not taken(pg, relation("id", oid=1), insert("1", oid=1), truncate(1), *others)


def test_an_unchanged_large_value_is_taken_from_the_old_row() -> None:
    pg = decoder(rule("id"))
    changes = taken(pg, relation("id", "n", identity=("id", "n")), update((False, "2"), ("long", "1")))
    assert pairs(changes) == [(None, ("long",))]


def test_an_unchanged_large_value_that_nobody_knows_is_refused() -> None:
    pg = decoder(rule("id"))
    with pytest.raises(SourceRefused, match=r"old values of id are not known.*large value") as refused:
        taken(pg, relation("id", "n", identity=("id",)), update((False, "2")))
    assert "replica identity full" in refused.value.remedy


def test_an_unchanged_large_value_of_another_column_does_not_matter() -> None:
    pg = decoder(rule("id"))
    assert pairs(taken(pg, relation("n", "id", identity=("id",)), update((False, "2")))) == [(None, ("2",))]


@pytest.mark.parametrize("message", [update(("1", "20")), delete("1", None)])
def test_old_values_that_the_replica_identity_does_not_hold(message: bytes) -> None:
    pg = decoder(rule("parent", lookup="select …"))
    described = relation("id", "parent", identity=("id",))
    assert pairs(taken(pg, described, insert("1", "10"))) == [(None, ("10",))]
    with pytest.raises(SourceRefused, match=r"old values of parent are not known.*replica identity"):
        taken(pg, message)


def test_a_column_that_is_gone() -> None:
    pg = decoder(rule("id", "part"))
    taken(pg, relation("id", "part", identity=("id", "part")))
    with pytest.raises(SourceRefused, match="have no column part any more"):
        taken(pg, relation("id", "region", identity=("id",)))


def test_a_column_that_has_moved() -> None:
    pg = decoder(rule("id"))
    taken(pg, relation("id", "n", identity=("id",)))
    assert pairs(taken(pg, relation("x", "id", identity=("id",)), insert("-", "7"))) == [(None, ("7",))]


def test_truncate() -> None:
    with pytest.raises(SourceRefused, match=r"table public\.docs was truncated"):
        taken(decoder(rule("id")), truncate(1, OID))


@pytest.mark.parametrize(
    ("type_", "logged", "text"),
    [
        ("boolean", "t", "true"),
        ("boolean", "f", "false"),
        ("character(5)", "ab   ", "ab"),
        ("bpchar", "ab ", "ab"),
        ("inet", "10.0.0.1", "10.0.0.1/32"),
        ("inet", "10.0.0.0/8", "10.0.0.0/8"),
        ("inet", "::1", "::1/128"),
    ],
)
def test_text_that_the_log_writes_otherwise(type_: str, logged: str, text: str) -> None:
    canonical = canonical_text(type_)
    assert canonical is not None
    assert canonical(logged) == text
    pg = decoder(rule("id", types=(type_,)))
    assert pairs(taken(pg, relation("id", identity=("id",)), insert(logged))) == [(None, (text,))]


@pytest.mark.parametrize("type_", ["text", "character varying(5)", '"char"', "bigint", "cidr", "uuid", "bytea"])
def test_text_that_the_log_writes_the_same(type_: str) -> None:
    assert canonical_text(type_) is None
