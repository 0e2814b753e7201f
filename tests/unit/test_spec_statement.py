"""Where a statement ends, by PostgreSQL's lexical rules."""

from __future__ import annotations

import pytest

from reshelve.spec.statement import clean_predicate, clean_query


@pytest.mark.parametrize(
    ("query", "cleaned"),
    [
        ("select 1", "select 1"),
        ("select 1;", "select 1"),
        ("select 1 ; ; -- done;\n/* ; */", "select 1 "),
        ("-- first; line\nWITH a AS (select 1) table a", None),
        ("/* a /* nested; */ ; */ values (1)", None),
        ("(select 1) union (select 2)", None),
        ("select ';' || 'it''s;' || E'\\';' || \"a;\"\"b\" from t", None),
        ("select $$ ; ' $$ || $x$ ; $$ ; $x$", None),
        ("select a$b, $1, '{}'::text[], x[1] from t -- ' unclosed in a comment", None),
        ("select 1 -- '", None),
        ("select 1 / * 2", None),
    ],
)
def test_one_query(query: str, cleaned: str | None) -> None:
    assert clean_query(query) == (query if cleaned is None else cleaned)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", "empty"),
        (" -- nothing\n", "empty"),
        (";", "empty"),
        ("insert into t values (1)", "must begin with SELECT"),
        ("'select'", "must begin with SELECT"),
        ("select 1; select 2", "several statements"),
        ("select 1; delete from t;", "several statements"),
        ("select (1;)", "semicolon inside brackets"),
        ("select (1", "unclosed bracket"),
        ("select 1) q; drop table t; --", "closes a bracket"),
        ("select 'a", "unclosed quote"),
        ("select 'a''", "unclosed quote"),
        ("select E'a\\'", "unclosed quote"),
        ('select "a', "unclosed quote"),
        ("select $a$ $b$", "unclosed quote"),
        ("select 1 /* /* */", "unclosed comment"),
    ],
)
def test_not_one_query(query: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        clean_query(query)


@pytest.mark.parametrize("predicate", ["", "a = 1; b", "true) or (true", "where a = 1", "a = 'x"])
def test_not_a_predicate(predicate: str) -> None:
    with pytest.raises(ValueError, match="predicate"):
        clean_predicate(predicate)


def test_a_predicate() -> None:
    assert clean_predicate("(a > 1) -- yes") == "(a > 1) -- yes"
