"""How fast a server writes WAL."""

from __future__ import annotations

from typing import Final

import psycopg

from reshelve.producers.planner import Connection

_LEAST_S: Final = 60  # a mean over less says nothing
_RATE: Final = """
select (wal_bytes / nullif(extract(epoch from now() - stats_reset), 0))::float8,
       extract(epoch from now() - stats_reset)::float8
  from pg_stat_wal
"""


def wal_rate(connection: Connection) -> float | None:
    """Bytes a second, on average since the server's statistics were reset; None where it has no such statistics
    (before PostgreSQL 14), may not tell, or has them for less than a minute."""
    try:
        with connection.transaction():
            row = connection.execute(_RATE).fetchone()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege):
        return None
    if row is None or row[0] is None or row[1] < _LEAST_S:
        return None
    return float(row[0])
