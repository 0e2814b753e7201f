"""Whether a document key of the index can be one of the source at all: a key reader would fail on one that can't."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
from psycopg import sql

from reshelve.model import KeyColumn, split_key
from reshelve.producers.slot import Connection


def impossible_keys(connection: Connection, columns: Sequence[KeyColumn], keys: Sequence[str]) -> list[str]:
    """Those that don't have as many columns, or a text that PostgreSQL does not take for a column's type.

    Asked all at once, then by halves: most often there is none. Raises psycopg.OperationalError."""
    if not keys or _possible(connection, columns, keys):
        return []
    if len(keys) == 1:
        return list(keys)
    middle = len(keys) // 2
    return [
        *impossible_keys(connection, columns, keys[:middle]),
        *impossible_keys(connection, columns, keys[middle:]),
    ]


def _possible(connection: Connection, columns: Sequence[KeyColumn], keys: Sequence[str]) -> bool:
    try:
        parts = [split_key(key, len(columns)) for key in keys]
        casts = sql.SQL(", ").join(sql.SQL("%s::text[]::{}[]").format(sql.SQL(column.type)) for column in columns)
        texts = [[part[place] for part in parts] for place in range(len(columns))]
        connection.execute(sql.SQL("select {}").format(casts), texts)
    except (ValueError, psycopg.DataError, psycopg.IntegrityError):  # no text of the type, or not of the domain
        return False
    return True
