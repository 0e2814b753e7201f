"""What the change tailer reads: which rows changed, as far as the plan's rules care, in the order of commits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import psycopg

from reshelve.errors import SourceRefused

Values: TypeAlias = tuple[str | None, ...]
"""The values of a rule's columns, in its order: the text that `column::text` gives in a reader's session
(`source.SESSION`), None for NULL."""


class Change(NamedTuple):
    """A row that was written, seen by one rule of the plan.

    rule  number of the rule in `ChangePlan.rules`
    old   its values before; None where there was no row, or the values are those of `new`
    new   its values after; None where the row is gone
    xid   the top-level transaction. Its low 32 bits count, as the log has no others: the tailer widens them
    at    when that committed, milliseconds since 1970 UTC; for people
    """

    rule: int
    old: Values | None
    new: Values | None
    xid: int
    at: int


class ChangeFeed(Protocol):
    """The log of changes, from where it was confirmed last. It may deliver again, never skip.

    Every method can raise psycopg.OperationalError or KafkaException (the server is away: the tailer closes the
    feed, waits and opens a new one) and ReshelveError (it can't go on; `history_broken` where the index can't be
    brought after the source any more)."""

    @property
    def where(self) -> str:
        """Server and slot or topics, for messages."""
        ...

    @property
    def passed(self) -> int:
        """An LSN. All changes of every transaction whose commit record ends at or before it were returned by `poll`,
        or need not be; never decreases."""
        ...

    @property
    def transactions(self) -> int:
        """How many ended since the feed was opened, those without any change for us left out or not."""
        ...

    def poll(self, timeout: float) -> Sequence[Change]:
        """The next changes, at most some thousands; none when nothing came for `timeout` seconds. Transactions that
        were rolled back are never seen; one that is very large comes in several pieces."""
        ...

    def ask(self, lsn: int) -> None:
        """Somebody waits for `passed` to reach that LSN: have the server say how far it is. May be called often."""
        ...

    def confirm(self, lsn: int) -> None:
        """All that came up to this LSN, which was `passed` at some time, is durable: the server may forget it."""
        ...

    def keep_alive(self) -> None:
        """Show the server that we are there, without taking changes: for when the tailer is long at something else."""
        ...

    def close(self) -> None:
        """End it; what was not confirmed comes again from the next one."""
        ...


class ChangeSource(Protocol):
    """Where feeds come from, and whether the source's history is still the one that they tell.

    Methods raise as those of a feed do, and psycopg.OperationalError when the source is away."""

    def open(self, connection: psycopg.Connection[Any], xmax: int, durable: Callable[[], int]) -> ChangeFeed:
        """A feed from where the one before was confirmed. `connection` is in a transaction, at a snapshot with that
        `xmax`; `durable` finds the LSN of the newest watermark, 0 for none: no feed was confirmed further than that."""
        ...

    def check(self, connection: psycopg.Connection[Any]) -> None:
        """Refuse what broke the history since `open`; `connection` is in a transaction, at a watermark's snapshot."""
        ...

    def upkeep(self, gauge: Callable[[str, int], None]) -> None:
        """To be called often, whatever else is going on: looks after what the source keeps for us, and reports it."""
        ...

    def close(self) -> None: ...


def history_broken(what: str, *, where: str, why: str) -> SourceRefused:
    """What happened to the source can't be told from its changes, so the index can't be brought after it."""
    remedy = "start a new run with `reshelve run --new`: it copies the source as it is now"
    return SourceRefused(what, where=where, why=why, remedy=remedy)


def truncated(table: str, where: str) -> SourceRefused:
    """The error for a TRUNCATE."""
    why = "TRUNCATE names no rows, and what was read before belongs to a table that is gone"
    return history_broken(f"table {table} was truncated", where=where, why=why)
