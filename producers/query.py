"""The one query that says what a document is, by key range and by key list. All SQL of reading is here.

First copy, samples, and later live changes, repair and full validation build documents with the same
text, so that they can't disagree about what a document is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from reshelve.model import Bound, KeyColumn


@dataclass(frozen=True, slots=True)
class SourceQuery:
    """The spec's query with its scope (a predicate, and keys after `low` up to and including `high`), addressed by key.

    Every statement yields rows of (key, document, bytes): the document key (`join_key` of the key
    columns' text), the row as JSON text, and its length in bytes. The document is NULL where it is
    longer than the limit given: such a document never leaves the database, so it can't fill memory.
    """

    query: str
    where: str | None
    key: tuple[KeyColumn, ...]
    low: Bound = None
    high: Bound = None

    def page(self, low: Bound, high: Bound, limit: int, max_bytes: int) -> tuple[sql.Composed, dict[str, Any]]:
        """The first `limit` rows after `low` up to and including `high`, in key order (keyset paging:
        https://use-the-index-luke.com/no-offset)."""
        parameters: dict[str, Any] = {"limit": limit, "max_bytes": max_bytes}
        conditions: list[sql.Composable] = [sql.SQL("true")]
        for name, bound, operator in (("low", low, ">"), ("high", high, "<=")):
            if bound is not None:
                conditions.append(self._compare(name, bound, operator))
                parameters |= {f"{name}{i}": part for i, part in enumerate(bound)}
        order = sql.SQL(", ").join(self._column(k) for k in self.key)
        return self._rows(
            sql.SQL(" and ").join(conditions), sql.SQL(" order by {} limit %(limit)s").format(order)
        ), parameters

    def keys(self, keys: Sequence[tuple[str, ...]], max_bytes: int) -> tuple[sql.Composed, dict[str, Any]]:
        """The rows of the keys given, in no order; a key that has no row yields none."""
        condition, parameters = self._among(keys)
        return self._rows(condition, sql.SQL("")), parameters | {"max_bytes": max_bytes}

    def present(self, keys: Sequence[tuple[str, ...]]) -> tuple[sql.Composed, dict[str, Any]]:
        """Only the document keys (one column) of those that have a row: nothing is built."""
        condition, parameters = self._among(keys)
        statement = sql.SQL("select {} from {} where {} and {}").format(
            self._key_text(), self._from(), self._scope(), condition
        )
        return statement, parameters

    def null_key(self) -> sql.Composed:
        """Whether a row in scope has a key column that is NULL: no comparison finds such a row. Where the column is
        NOT NULL, PostgreSQL 17 and later know the answer without looking."""
        nulls = sql.SQL(" or ").join(sql.SQL("{} is null").format(self._column(k)) for k in self.key)
        return sql.SQL("select exists (select from {} where {} and ({}))").format(self._from(), self._scope(), nulls)

    def everything(self) -> sql.Composed:
        """`select *` of the documents in scope, for counting and explaining."""
        return sql.SQL("select * from {} where {}").format(self._from(), self._scope())

    def order_of(self, low: tuple[str, ...], high: tuple[str, ...]) -> tuple[sql.Composed, dict[str, Any]]:
        """Whether `low` is less than `high`, and whether they are equal, over the columns that both have: in the types
        and collations of the key. Reads no rows; fails where a text is none of its column's type."""
        columns = self.key[: max(len(low), len(high))]
        names = sql.SQL(", ").join(sql.Identifier(column.name) for column in columns)
        rows: list[sql.Composable] = [
            sql.SQL("select 0 as bound, {} from {} where false").format(names, self._from())  # types, collations
        ]
        parameters: dict[str, Any] = {}
        for number, bound in enumerate((low, high), 1):
            values = sql.SQL(", ").join(
                sql.SQL("%({})s::text::{}").format(sql.SQL(f"b{number}{i}"), sql.SQL(column.type))
                for i, column in enumerate(columns)
            )
            parameters |= {f"b{number}{i}": bound[i] if i < len(bound) else None for i in range(len(columns))}
            rows.append(sql.SQL("select {}, {}").format(sql.Literal(number), values))
        common = columns[: min(len(low), len(high))]
        one, other = (
            sql.SQL(", ").join(sql.SQL("{}.{}").format(sql.SQL(side), sql.Identifier(c.name)) for c in common)
            for side in ("l", "h")
        )
        statement = sql.SQL(
            "with bounds as ({}) select ({one}) < ({other}), ({one}) = ({other}), l.*, h.*"
            " from bounds l, bounds h where l.bound = 1 and h.bound = 2"
        ).format(sql.SQL(" union all ").join(rows), one=one, other=other)
        return statement, parameters

    def _rows(self, condition: sql.Composable, tail: sql.Composable) -> sql.Composed:
        # The inner query has a LIMIT or OFFSET so that the planner can't pull it up and build the JSON twice.
        return sql.SQL(
            "select key, case when octet_length(document) <= %(max_bytes)s then document end, octet_length(document)"
            " from (select {key} as key, row_to_json(q.*)::text as document from {source}"
            " where {scope} and {condition}{tail}{fence}) page"
        ).format(
            key=self._key_text(),
            source=self._from(),
            scope=self._scope(),
            condition=condition,
            tail=tail,
            fence=sql.SQL("" if tail.as_string(None) else " offset 0"),
        )

    def _from(self) -> sql.Composed:
        # Line breaks, so that a comment at the query's end swallows nothing of ours; doubled percent
        # signs, because the statement passes through psycopg's parameters.
        return sql.SQL("(\n{}\n) q").format(sql.SQL(self.query.replace("%", "%%")))

    def _scope(self) -> sql.Composable:
        conditions: list[sql.Composable] = []
        if self.where is not None:
            conditions.append(sql.SQL("(\n{}\n)").format(sql.SQL(self.where.replace("%", "%%"))))
        for bound, operator in ((self.low, ">"), (self.high, "<=")):
            if bound is not None:
                values = [sql.SQL(sql.Literal(text).as_string(None).replace("%", "%%")) for text in bound]
                conditions.append(self._row_comparison(values, operator))
        return sql.SQL(" and ").join(conditions) if conditions else sql.SQL("true")

    def _among(self, keys: Sequence[tuple[str, ...]]) -> tuple[sql.Composed, dict[str, Any]]:
        """That a row's key is one of these."""
        arrays = sql.SQL(", ").join(
            sql.SQL("%({})s::text[]::{}[]").format(sql.SQL(f"keys{i}"), sql.SQL(column.type))
            for i, column in enumerate(self.key)
        )
        columns = sql.SQL(", ").join(self._column(k) for k in self.key)
        parameters: dict[str, Any] = {f"keys{i}": [key[i] for key in keys] for i in range(len(self.key))}
        return sql.SQL("({}) in (select * from unnest({}))").format(columns, arrays), parameters

    def _column(self, column: KeyColumn) -> sql.Composed:
        return sql.SQL("q.{}").format(sql.Identifier(column.name))

    def _key_text(self) -> sql.Composable:
        """`join_key` in SQL."""
        texts = [sql.SQL("{}::text").format(self._column(column)) for column in self.key]
        if len(texts) == 1:
            return texts[0]
        escaped = (sql.SQL(r"replace(replace({}, '\', '\\'), '|', '\|')").format(text) for text in texts)
        return sql.SQL(" || '|' || ").join(escaped)

    def _compare(self, name: str, bound: tuple[str, ...], operator: str) -> sql.Composed:
        return self._row_comparison([sql.SQL(f"%({name}{i})s") for i in range(len(bound))], operator)

    def _row_comparison(self, values: Sequence[sql.Composable], operator: str) -> sql.Composed:
        """A row comparison over the bound's columns: the form that PostgreSQL answers from an index."""
        columns = self.key[: len(values)]
        left = sql.SQL(", ").join(self._column(column) for column in columns)
        right = sql.SQL(", ").join(
            sql.SQL("{}::{}").format(value, sql.SQL(column.type)) for value, column in zip(values, columns, strict=True)
        )
        return sql.SQL("({}) {} ({})").format(left, sql.SQL(operator), right)
