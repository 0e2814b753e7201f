"""The statement that finds the documents which depend on changed values of a table: the spec's `lookup`, typed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from psycopg import sql

from reshelve.model import ChangeRule, KeyColumn

_PARAMETER: Final = re.compile(r"%\(([^()]+)\)s")


def lookup_names(rule: ChangeRule) -> dict[str, str]:
    """The parameters that the rule's lookup may use, each with the type of its column."""
    names = ("values",) if len(rule.columns) == 1 else rule.columns
    return dict(zip(names, rule.types, strict=True))


def used_names(lookup: str) -> set[str]:
    """The parameters that the text of a lookup uses."""
    return set(_PARAMETER.findall(lookup))


def lookup_source(rule: ChangeRule) -> sql.Composed:
    """The lookup as it was written, its parameters cast to arrays of their columns' types. A percent sign that is
    no parameter is one. Raises KeyError for a parameter that the rule has not."""
    assert rule.lookup is not None
    types = lookup_names(rule)
    pieces = _PARAMETER.split(rule.lookup)
    parts: list[sql.Composable] = []
    for number, piece in enumerate(pieces):
        if number % 2:
            parts.append(sql.SQL("%({})s::text[]::{}[]").format(sql.SQL(piece), sql.SQL(types[piece])))
        else:
            parts.append(sql.SQL(piece.replace("%", "%%")))
    return sql.SQL("").join(parts)


def lookup_statement(rule: ChangeRule, key: Sequence[KeyColumn]) -> sql.Composed:
    """Rows of the text of the key's columns, as the query's own key is written; a key may come several times. To be
    run with `lookup_parameters`, and streamed: a change of one value may concern every document."""
    columns = [sql.Identifier(f"c{number}") for number in range(len(key))]
    texts = (
        sql.SQL("l.{}::{}::text").format(name, sql.SQL(column.type)) for name, column in zip(columns, key, strict=True)
    )
    return sql.SQL("select {} from (\n{}\n) as l ({}) where {}").format(
        sql.SQL(", ").join(texts),
        lookup_source(rule),
        sql.SQL(", ").join(columns),
        sql.SQL(" and ").join(sql.SQL("l.{} is not null").format(name) for name in columns),
    )


def lookup_parameters(rule: ChangeRule, values: Sequence[tuple[str | None, ...]]) -> dict[str, list[str | None]]:
    """The arrays for the values given, each a tuple in the order of the rule's columns."""
    return {name: [value[number] for value in values] for number, name in enumerate(lookup_names(rule))}
