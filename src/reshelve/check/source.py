"""Checks of the source: can it be read, at a snapshot clock, page by page, with a key that is one?"""

from __future__ import annotations

import difflib
import re
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.errors import (
    InsufficientPrivilege,
    LockNotAvailable,
    QueryCanceled,
    UndefinedFunction,
    UndefinedObject,
    UndefinedTable,
)

from reshelve.check.changes import check_changes
from reshelve.check.findings import Findings, Size
from reshelve.check.inputs import propose_phases, wanted_phases
from reshelve.errors import ReshelveError, SourceRefused
from reshelve.model import KeyColumn
from reshelve.producers.planner import (
    Connection,
    Estimate,
    ResultColumn,
    estimate_query,
    key_columns,
    lockable_tables,
    reads_in_key_order,
    result_columns,
    sample_size,
    source_query,
)
from reshelve.producers.query import SourceQuery
from reshelve.producers.segments import draw_bounds, range_faults
from reshelve.producers.source import access_refusal, open_session, server_of
from reshelve.transform import load_transform

_URL: Final = "source.postgres.url"
_QUERY: Final = "source.postgres.query"
_KEY: Final = "source.postgres.key"
_WHERE: Final = "scope.where"
_PROBE_SECONDS: Final = 5
_LARGE: Final = 100_000  # rows from which sorting everything for each page is an error, not a nuisance
_SAMPLED_NULLS: Final = 1000

_SESSION: Final = "select pg_is_in_recovery(), pg_backend_pid(), current_setting('reshelve.session', true)"
_SCHEMAS: Final = """
select quote_ident(nspname) || '.' || quote_ident(relname)
  from pg_class join pg_namespace on pg_namespace.oid = relnamespace
 where relname = %s and relkind in ('r', 'p', 'v', 'm', 'f') and nspname !~ '^pg_'
 order by 1
"""
# Whether some unique index lies on nothing but key columns, and whether none of the key columns can be null.
_PROOF: Final = """
select exists (select from pg_index
                where indrelid = %(table)s and indisunique and indisvalid and indpred is null
                  and indexprs is null
                  and (indkey::int2[])[0:indnkeyatts - 1] <@ %(numbers)s::int2[]),
       not exists (select from pg_attribute
                    where attrelid = %(table)s and attnum = any (%(numbers)s::int2[]) and not attnotnull)
"""


def check_transform(findings: Findings) -> None:
    """The transform can be imported and called."""
    reference = findings.spec.transform
    if reference is not None:
        try:
            load_transform(reference, str(findings.spec.folder))
        except ReshelveError as error:
            findings.add("transform", error)


def check_source(findings: Findings) -> Size | None:
    """Everything about the source; returns what it holds, where that could be found out."""
    url = findings.spec.source.postgres.url
    try:
        connection, token = open_session(url, "reshelve check")
        with connection:
            return _Source(findings, connection).check(token)
    except ReshelveError as error:
        findings.add(_URL, error)
    except psycopg.Error as error:
        refused = access_refusal(error, url)
        if refused is not None:
            findings.add(_URL, refused)
        else:
            what = f"PostgreSQL at {server_of(url)} does not answer: {_words(error)}"
            findings.refusal(_URL, what, "see that it runs and that the URL names it", unreachable=True)
    return None


class _Source:
    """The checks of one connection. Methods that return None have reported why the next can't be made."""

    def __init__(self, findings: Findings, connection: Connection) -> None:
        self._findings, self._connection = findings, connection
        self._spec = findings.spec

    def check(self, token: str) -> Size | None:
        self._check_session(token)
        columns = self._columns()
        if columns is None:
            return None
        self._check_repeated(columns)
        predicate_holds = self._check_predicate()
        if not self._check_key(columns) or not predicate_holds:
            return None
        try:
            key = key_columns(columns, self._spec)
        except SourceRefused as error:
            self._findings.error(_KEY, f"{error.what}: {error.why}", error.remedy)
            return None
        if not self._check_ranges(key):
            return None
        query = source_query(self._spec, key)
        try:
            estimate = estimate_query(self._connection, query)
        except psycopg.OperationalError:
            raise
        except psycopg.Error as error:
            self._report(error, 0, 0)
            return None
        self._check_tables(estimate)
        self._check_order(query, estimate)
        self._check_unique(query, estimate, columns)
        check_changes(self._findings, self._connection, key, estimate)
        size = self._size(query, estimate)
        if size is not None and not self._spec.phases:
            self._propose_phases(key, size)
        return size

    def _check_session(self, token: str) -> None:
        in_recovery, pid, found = self._row(_SESSION)
        if in_recovery:
            self._findings.error(
                _URL,
                "the source is a standby (in recovery): it can't tell which transactions run",
                "name the primary; add `?target_session_attrs=primary` when the URL has several hosts",
            )
        if found != token or self._row(_SESSION)[1] != pid:
            self._findings.error(
                _URL,
                "a transaction pooler stands between: the session's settings were lost",
                "connect to the server itself, or to a pool in session mode",
            )
        elif self._connection.info.backend_pid != pid:
            self._findings.warning(
                _URL,
                "a pooler stands between (the server's process is not the one that answered)",
                "connect to the server itself, or make sure that the pool is in session mode",
            )
        try:
            self._row("select system_identifier from pg_control_system()")
        except InsufficientPrivilege as error:
            role = self._connection.info.user
            remedy = f"grant execute on function pg_control_system() to {role}"
            self._findings.refusal(_URL, _words(error), remedy)

    def _columns(self) -> tuple[ResultColumn, ...] | None:
        try:
            return result_columns(self._connection, self._spec.source.postgres.query)
        except psycopg.OperationalError:
            raise
        except psycopg.Error as error:
            self._report(error, len("select * from (\n"), -1)
            return None

    def _check_predicate(self) -> bool:
        where = self._spec.scope.where
        if where is None:
            return True
        head = f"select * from (\n{self._spec.source.postgres.query}\n) q where (\n"
        try:
            self._connection.execute(f"{head}{where}\n) limit 0")
        except psycopg.OperationalError:
            raise
        except psycopg.Error as error:
            self._report(error, len("select * from (\n"), len(head))
            return False
        return True

    def _check_ranges(self, key: tuple[KeyColumn, ...]) -> bool:
        faults = list(range_faults(self._connection, self._spec, key))
        for field, why in faults:
            self._findings.error(field, why, "give its bounds in the order of the key, as PostgreSQL reads them")
        return not faults

    def _propose_phases(self, key: tuple[KeyColumn, ...], size: Size) -> None:
        wanted, keys = wanted_phases(size.documents), self._spec.scope.keys
        if wanted > 1:
            bounds = draw_bounds(self._connection, self._spec, key, wanted, keys.low, keys.high)
            self._findings.open_input(propose_phases(size.documents, keys.low, bounds, keys.high))

    def _check_repeated(self, columns: tuple[ResultColumn, ...]) -> None:
        names = [column.name for column in columns]
        for name in sorted({name for name in names if names.count(name) > 1}):
            self._findings.error(
                _QUERY, f"the query returns several columns named {name!r}", "rename all but one with `as`"
            )

    def _check_key(self, columns: tuple[ResultColumn, ...]) -> bool:
        names = [column.name for column in columns]
        missing = [name for name in self._spec.source.postgres.key if name not in names]
        for name in missing:
            near = [n for n in names if n.lower() == name.lower()] or difflib.get_close_matches(name, names, 1)
            remedy = f"did you mean {near[0]!r}?" if near else f"it returns {', '.join(names)}"
            self._findings.error(_KEY, f"the query does not return the key column {name!r}", remedy)
        return not missing

    def _check_tables(self, estimate: Estimate) -> None:
        try:
            oids = lockable_tables(self._connection, estimate)
        except SourceRefused as error:
            self._findings.error(_QUERY, f"{error.what}: {error.why}", error.remedy)
            return
        rows = self._connection.execute("select oid::regclass::text from unnest(%s::oid[]) oid", [oids])
        for (table,) in rows.fetchall():
            try:
                with self._connection.transaction(force_rollback=True):
                    self._connection.execute(f"lock table {table} in access share mode")
            except InsufficientPrivilege as error:
                remedy = f"grant select on {table} to {self._connection.info.user};"
                self._findings.refusal(_QUERY, f"table {table} can't be locked: {_words(error)}", remedy)
            except LockNotAvailable:
                self._findings.warning(
                    _QUERY,
                    f"table {table} is locked exclusively by another session",
                    "wait until it is free: reading waits for at most 5 s",
                )

    def _check_order(self, query: SourceQuery, estimate: Estimate) -> None:
        if reads_in_key_order(self._connection, query):
            return
        key = ", ".join(column.name for column in query.key)
        what = f"the rows can't be read in the order of the key ({key}) from an index: each page sorts all"
        remedy = f"create an index on ({key}), in this order, and let the query pass these columns unchanged"
        report = self._findings.error if estimate.rows > _LARGE else self._findings.warning
        report(_KEY, f"{what} {estimate.rows:,} rows", remedy)

    def _check_unique(self, query: SourceQuery, estimate: Estimate, columns: tuple[ResultColumn, ...]) -> None:
        unique, never_null = self._proof(query, estimate, columns)
        source, key = query.everything(), sql.SQL(", ").join(sql.Identifier(k.name) for k in query.key)
        if not never_null:
            condition = sql.SQL(" or ").join(sql.SQL("{} is null").format(sql.Identifier(k.name)) for k in query.key)
            nulls = sql.SQL("select count(*) from (select from ({}) n where {} limit {}) c")
            found = self._probe(nulls.format(source, condition, sql.Literal(_SAMPLED_NULLS)), "is never null")
            if found and found[0]:
                names = " or ".join(f"{k.name} is null" for k in query.key)
                self._findings.error(
                    _KEY,
                    f"at least {found[0]:,} rows have a NULL in the key ({names})",
                    "leave them out with scope.where, e.g. " + " and ".join(f"{k.name} is not null" for k in query.key),
                )
        if not unique:
            repeated = sql.SQL("select {0} from ({1}) d group by {0} having count(*) > 1 limit 1")
            found = self._probe(repeated.format(key, source), "is unique")
            if found and None not in found:
                text = ", ".join(f"{k.name} = {value}" for k, value in zip(query.key, found, strict=True))
                self._findings.error(
                    _KEY,
                    f"the key is not unique: several rows have {text}",
                    "add the columns that tell the rows apart to the key, or make one row of them in the query",
                )

    def _proof(self, query: SourceQuery, estimate: Estimate, columns: tuple[ResultColumn, ...]) -> tuple[bool, bool]:
        """Whether the catalog proves that the key is unique, and that it is never null."""
        base = [column for key in query.key for column in columns if column.name == key.name]
        tables = {column.table for column in base}
        if not estimate.single or len(tables) != 1 or 0 in tables:
            return False, False
        parameters = {"table": tables.pop(), "numbers": [column.number for column in base]}
        unique, never_null = self._row(_PROOF, parameters)
        return bool(unique), bool(never_null)

    def _probe(self, statement: sql.Composed, expected: str) -> tuple[Any, ...] | None:
        """The statement's first row, within a few seconds; a warning when that was too short."""
        try:
            with self._connection.transaction():
                self._connection.execute(f"set local statement_timeout = '{_PROBE_SECONDS}s'")
                return self._connection.execute(statement, {}).fetchone()
        except QueryCanceled:
            self._findings.warning(
                _KEY,
                f"could not find out within {_PROBE_SECONDS} s whether the key {expected}",
                "nothing, or a unique index that proves it: a run notices otherwise, but late",
            )
        except psycopg.OperationalError:
            raise
        except psycopg.Error as error:
            self._report(error, 0, 0)
        return None

    def _size(self, query: SourceQuery, estimate: Estimate) -> Size | None:
        try:
            rows, size = sample_size(self._connection, query, estimate, _PROBE_SECONDS)
        except psycopg.OperationalError:
            raise
        except psycopg.Error as error:
            self._report(error, 0, 0)
            return None
        return Size(rows, rows * size)

    def _report(self, error: psycopg.Error, query_start: int, where_start: int) -> None:
        """A refusal of the query, at the place the server names. The starts are those of the query and of the
        predicate in the statement that was sent, where known."""
        field, place = _QUERY, None
        position = int(error.diag.statement_position or 0) - 1
        if where_start > 0 and position >= where_start:
            field, place = _WHERE, self._spec.place_inside(_WHERE, position - where_start)
        elif query_start > 0 and position >= query_start:
            place = self._spec.place_inside(_QUERY, position - query_start)
        words = _words(error)
        if isinstance(error, InsufficientPrivilege) and "row-level security" not in words:
            self._findings.refusal(field, f"PostgreSQL refused the query: {words}", self._grant(words))
            return
        self._findings.error(field, f"PostgreSQL refused the query: {words}", self._remedy(error), place=place)

    def _grant(self, words: str) -> str:
        role = self._connection.info.user
        named = re.search(r"(table|view|schema|function) (\S+)$", words)
        if named is None:
            return f"grant the privilege to {role}"
        kind, name = named.groups()
        privilege = {"schema": "usage on schema", "function": "execute on function"}.get(kind, "select on")
        return f"grant {privilege} {name} to {role};"

    def _remedy(self, error: psycopg.Error) -> str:
        words = _words(error)
        named = re.search(r'"([^"]+)"', words)
        if isinstance(error, UndefinedTable) and named and "." not in named[1]:
            known = [name for (name,) in self._connection.execute(_SCHEMAS, [named[1]]).fetchall()]
            written = " or ".join(known[:3]) or f"schema.{named[1]}"
            return f"qualify it with its schema ({written}): Reshelve reads with an empty search_path"
        if isinstance(error, UndefinedTable):
            return "correct the name, or create the table"
        if isinstance(error, UndefinedFunction | UndefinedObject):
            return (
                "correct it, or qualify it with its schema (functions and types of extensions, and operators as "
                "`operator(schema.=)`): Reshelve reads with an empty search_path"
            )
        if "row-level security" in words:
            return "read with the table's owner or a role that has BYPASSRLS: a filtered copy would look complete"
        return error.diag.message_hint or "correct the query; it must run in psql with `set search_path = ''`"

    def _row(self, statement: str, parameters: dict[str, Any] | None = None) -> tuple[Any, ...]:
        row = self._connection.execute(statement, parameters).fetchone()
        assert row is not None
        return row


def _words(error: psycopg.Error) -> str:
    return " ".join((error.diag.message_primary or str(error)).split())
