"""Which rules of the plan an event of Debezium's concerns, and the values that they need. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from reshelve.errors import SourceRefused
from reshelve.model import ChangeRule
from reshelve.producers.changes import Change, Values, history_broken, truncated
from reshelve.producers.debezium_format import Event, Row
from reshelve.producers.debezium_values import Inexact, text_of

RulesByName: TypeAlias = Mapping[tuple[str, str], Sequence[tuple[int, ChangeRule]]]
"""The plan's rules with their numbers, by the schema and name of every table whose rows they are for."""

_NOT_A_SNAPSHOT: Final = ("false", "incremental")


class EventReader:
    """Makes changes of events.

    since  LSN of the source when the run began: a snapshot that the connector took later follows a time of which
           nothing was recorded
    where  brokers and slot, for errors
    """

    def __init__(self, rules: RulesByName, since: int, where: str) -> None:
        self._rules, self._since, self._where = rules, since, where

    def changes(self, event: Event) -> list[Change]:
        """Raises SourceRefused."""
        rules = self._rules.get((event.schema, event.table), ())
        if rules and event.op == "t":
            raise truncated(f"{event.schema}.{event.table}", self._where)
        if event.op == "r":
            self._check_snapshot(event)
            return []  # nothing was changed
        return [self._change(event, number, rule) for number, rule in rules]

    def _change(self, event: Event, number: int, rule: ChangeRule) -> Change:
        if event.xid is None or event.op not in ("c", "u", "d"):
            raise self._refused(
                event, f"an event of kind {event.op!r} without a transaction", "it names none that is known"
            )
        new = None if event.after is None or event.op == "d" else self._values(event, event.after, rule)
        old = None if event.before is None or event.op == "c" else self._values(event, event.before, rule)
        if event.op == "d" and old is None:
            old = self._values(event, event.key or Row({}, _no_shape), rule)
        if event.op == "u" and old is None and not self._old_is_new(event, rule):
            raise SourceRefused(
                f"a row of {event.schema}.{event.table} was changed, and its old values of"
                f" {', '.join(rule.columns)} are not known",
                where=self._where,
                why="its event has no `before`: the table's replica identity does not hold them",
                remedy=f"`alter table {event.schema}.{event.table} replica identity full`, then start a new run with"
                " `reshelve run --new`",
            )
        if new is None and old is None:
            raise self._refused(event, "an event has neither the old row nor the new one", f"op is {event.op!r}")
        return Change(number, None if old == new else old, new, event.xid, event.at)

    def _old_is_new(self, event: Event, rule: ChangeRule) -> bool:
        """An update without `before` has changed nothing that the replica identity holds, and that is the record's
        key: when a column of it changes, the connector writes a delete and an insert."""
        return event.key is not None and all(column in event.key.values for column in rule.columns)

    def _values(self, event: Event, row: Row, rule: ChangeRule) -> Values:
        texts = []
        for column, type_ in zip(rule.columns, rule.types, strict=True):
            if column not in row.values:
                raise history_broken(
                    f"the events of {event.schema}.{event.table} have no column {column}",
                    where=self._where,
                    why="the column was dropped or renamed, or the connector leaves it out (column.include.list,"
                    " column.exclude.list, field.name.adjustment.mode)",
                )
            try:
                texts.append(text_of(row.values[column], row.shape(column), type_))
            except Inexact as error:
                raise SourceRefused(
                    f"the value of {event.schema}.{event.table}.{column} can't be told from the connector's event",
                    where=self._where,
                    why=error.why,
                    remedy=f"{error.remedy}; then start a new run with `reshelve run --new`",
                ) from None
        return tuple(texts)

    def _check_snapshot(self, event: Event) -> None:
        if event.snapshot not in _NOT_A_SNAPSHOT and (event.lsn is None or event.lsn > self._since):
            raise history_broken(
                "the connector has begun anew with a snapshot",
                where=self._where,
                why="what was written before that, above all deleted, may not have been recorded",
            )

    def _refused(self, event: Event, what: str, why: str) -> SourceRefused:
        return history_broken(f"{what}, of table {event.schema}.{event.table}", where=self._where, why=why)


def _no_shape(_column: str) -> None:
    return None
