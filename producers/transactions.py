"""Transactions of the source that something waits for: who runs them, and since when. Never what they say: a
statement's text may hold secrets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import psycopg

# Every transaction that has an id holds a lock on it, which everybody may see; of other users' sessions
# pg_stat_activity tells only the process. A prepared transaction has none. `waiter` is the process for which those
# count, too, that are newer, but that it waits for.
_OLD: Final = """
with held as (
    select pid, min(transactionid::text::bigint) as xid, max(age(transactionid)) as age
      from pg_locks
     where locktype = 'transactionid' and granted and mode = 'ExclusiveLock'
     group by pid, case when pid is null then virtualtransaction end
),
awaited as (
    select transactionid::text::bigint as xid
      from pg_locks where pid = %(waiter)s::int and locktype = 'transactionid' and not granted
)
select held.pid,
       pg_prepared_xacts.gid,
       coalesce(application_name, ''),
       extract(epoch from clock_timestamp() - coalesce(xact_start, prepared))::float8,
       query_start::timestamptz(0)::text
  from held
       left join pg_stat_activity on pg_stat_activity.pid = held.pid
       left join pg_prepared_xacts on held.pid is null and transaction::text::bigint = held.xid
 where held.pid is distinct from pg_backend_pid() and coalesce(held.pid, 0) <> coalesce(%(waiter)s::int, -1)
   and (held.age >= (pg_snapshot_xmax(pg_current_snapshot())::text::bigint - %(xid)s)
        or held.xid in (select xid from awaited))
 order by coalesce(xact_start, prepared) nulls last, held.xid
"""


@dataclass(frozen=True, slots=True)
class OldTransaction:
    """A transaction that has an id and still runs, or is prepared.

    pid          of its session; None when it is prepared
    gid          of a prepared one, where it is of this cluster's list
    seconds      that it has been going on; None where this role may not see it
    query_start  of its newest statement, as text; None where this role may not see it
    """

    pid: int | None
    gid: str | None
    application: str
    seconds: float | None
    query_start: str | None

    def __str__(self) -> str:
        name = f"process {self.pid}" if self.pid is not None else f"prepared transaction {self.gid or '(unknown)'!r}"
        facts = [f"application {self.application!r}"] if self.application else []
        if self.seconds is not None:
            facts.append(f"open for {self.seconds:.0f} s")
        if self.query_start is not None:
            facts.append(f"newest statement of {self.query_start}")
        return f"{name} ({', '.join(facts)})" if facts else name


def old_transactions(
    connection: psycopg.Connection[Any], xid: int, *, waiter: int | None = None
) -> list[OldTransaction]:
    """Those that run and whose 64-bit id is at most `xid`, the oldest first; and those that the session `waiter`
    waits for. Raises psycopg.Error."""
    rows = connection.execute(_OLD, {"xid": xid, "waiter": waiter}).fetchall()
    return [OldTransaction(*row) for row in rows]


def name_transactions(found: Sequence[OldTransaction], shown: int = 5) -> str:
    """The first few of them in words."""
    more = f" and {len(found) - shown} more" if len(found) > shown else ""
    return "; ".join(map(str, found[:shown])) + more
