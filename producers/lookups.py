"""Values whose documents have to be looked up: collected until a snapshot sees the transactions that brought them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import psycopg

from reshelve.errors import SourceRefused
from reshelve.model import ChangeRule, KeyColumn, join_key
from reshelve.producers.changes import Values
from reshelve.producers.lookup import lookup_parameters, lookup_statement
from reshelve.producers.visibility import SnapshotIds

MOST_VALUES: Final = 10_000
_CHUNK_ROWS: Final = 500


class Lookups:
    """What rules with a lookup have to find, each value once.

    The lookup is run in a snapshot that sees all the transactions: so a key that it finds may be read at any later
    one, and what has left the lookup's result since was changed by itself."""

    def __init__(self, rules: Sequence[ChangeRule], key: Sequence[KeyColumn]) -> None:
        self._rules = rules
        self._statements = {n: lookup_statement(rule, key) for n, rule in enumerate(rules) if rule.lookup is not None}
        self._values: dict[int, dict[Values, None]] = {number: {} for number in self._statements}
        self._xids: set[int] = set()

    def __contains__(self, rule: int) -> bool:
        """Whether the rule of that number has a lookup."""
        return rule in self._statements

    def add(self, rule: int, values: Values, xid: int) -> None:
        """`xid` in 64 bits."""
        self._values[rule][values] = None
        self._xids.add(xid)

    @property
    def pending(self) -> bool:
        return bool(self._xids)

    @property
    def full(self) -> bool:
        """Whether they are to be looked up before more come, for the memory's sake."""
        return any(len(values) >= MOST_VALUES for values in self._values.values())

    def visible(self, ids: SnapshotIds) -> bool:
        """Whether the snapshot sees every transaction that brought something."""
        return all(map(ids.sees, self._xids))

    def run(self, connection: psycopg.Connection[Any], where: str) -> Iterator[str]:
        """The keys, streamed, some of them repeatedly. `connection` is in a transaction at a snapshot of which
        `visible` is true. Forgets what was collected once all keys were taken.

        Raises SourceRefused, psycopg.OperationalError."""
        for number, values in self._values.items():
            if values:
                yield from self._look_up(connection, number, where)
        for values in self._values.values():
            values.clear()
        self._xids.clear()

    def _look_up(self, connection: psycopg.Connection[Any], number: int, where: str) -> Iterator[str]:
        rule, parameters = self._rules[number], lookup_parameters(self._rules[number], list(self._values[number]))
        try:
            with connection.cursor() as cursor:
                for parts in cursor.stream(self._statements[number], parameters, size=_CHUNK_ROWS):
                    yield join_key(parts)
        except psycopg.OperationalError:
            raise
        except psycopg.Error as error:
            raise SourceRefused(
                f"the lookup for changes of {rule.schema}.{rule.table} failed",
                where=where,
                why=" ".join(str(error).split()),
                remedy="correct `lookup` in the spec's depends_on, then start a new run with `reshelve run --new`",
            ) from None
