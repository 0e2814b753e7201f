"""Values whose documents have to be looked up: collected until a snapshot sees the transactions that brought them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import psycopg

from reshelve.errors import SourceRefused
from reshelve.model import ChangeRule, KeyColumn, join_key
from reshelve.producers.changes import Values
from reshelve.producers.lookup import lookup_parameters, lookup_statement
from reshelve.producers.visibility import SnapshotIds

MOST_VALUES: Final = 10_000
_CHUNK_ROWS: Final = 500


class _Batch:
    """Values by rule, each once, and the 64-bit ids of the transactions that brought them."""

    def __init__(self, rules: Iterable[int]) -> None:
        self.values: dict[int, dict[Values, None]] = {number: {} for number in rules}
        self.xids: set[int] = set()

    def absorb(self, other: _Batch) -> None:
        for number, values in other.values.items():
            self.values[number].update(values)
        self.xids |= other.xids


class Lookups:
    """What rules with a lookup have to find.

    The lookup is run in a snapshot that sees all the transactions: so a key that it finds may be read at any later
    one, and what has left the lookup's result since was changed by itself. While more values come all the time, some
    transaction is always too new to be seen: so a batch is sealed, and what comes then goes into the next."""

    def __init__(self, rules: Sequence[ChangeRule], key: Sequence[KeyColumn]) -> None:
        self._rules = rules
        self._statements = {n: lookup_statement(rule, key) for n, rule in enumerate(rules) if rule.lookup is not None}
        self._collected, self._sealed = _Batch(self._statements), _Batch(self._statements)

    def __contains__(self, rule: int) -> bool:
        """Whether the rule of that number has a lookup."""
        return rule in self._statements

    def add(self, rule: int, values: Values, xid: int) -> None:
        """`xid` in 64 bits."""
        self._collected.values[rule][values] = None
        self._collected.xids.add(xid)

    def seal(self) -> None:
        """What was collected is to be looked up."""
        if self._collected.xids:
            self._sealed.absorb(self._collected)
            self._collected = _Batch(self._statements)

    @property
    def sealed(self) -> bool:
        """Whether there is anything to be looked up."""
        return bool(self._sealed.xids)

    @property
    def full(self) -> bool:
        """Whether they are to be looked up before more come, for the memory's sake."""
        batches = (self._collected, self._sealed)
        return any(len(values) >= MOST_VALUES for batch in batches for values in batch.values.values())

    def visible(self, ids: SnapshotIds) -> bool:
        """Whether the snapshot sees every transaction that brought something sealed."""
        return all(map(ids.sees, self._sealed.xids))

    def run(self, connection: psycopg.Connection[Any], where: str) -> Iterator[str]:
        """The keys of what is sealed, streamed, some of them repeatedly. `connection` is in a transaction at a snapshot
        of which `visible` is true. Forgets what was sealed once all keys were taken.

        Raises SourceRefused, psycopg.OperationalError."""
        for number, values in self._sealed.values.items():
            if values:
                yield from self._look_up(connection, number, list(values), where)
        self._sealed = _Batch(self._statements)

    def _look_up(
        self, connection: psycopg.Connection[Any], number: int, values: Sequence[Values], where: str
    ) -> Iterator[str]:
        rule = self._rules[number]
        parameters = lookup_parameters(rule, values)
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
