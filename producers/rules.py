"""Which documents a change of a table makes dirty: the rules of a plan, found out from the query and the spec.

The table that the key comes from needs no word of the spec: the values of the key's columns are the documents. Of
every other table that the query reads, `depends_on` says how its rows lead to documents, or that its changes are
left out: a table forgotten would leave documents stale without anybody knowing."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from reshelve.errors import SourceRefused
from reshelve.model import ChangePlan, ChangeRule, KeyColumn, RunId, SourceFacts, Table
from reshelve.producers.lookup import lookup_names, lookup_parameters, lookup_source, lookup_statement, used_names
from reshelve.producers.planner import ResultColumn, estimate_query, result_columns, source_query
from reshelve.producers.relations import Relation, Relations, read_relations
from reshelve.spec import Dependency, Spec

_FIELD: Final = "source.postgres.depends_on"
_INTEGERS: Final = frozenset({"smallint", "integer", "bigint"})
_STRINGS: Final = frozenset({"text", "character varying", "character", "name"})
# Of these, equal values may have different texts.
_AMBIGUOUS: Final = frozenset({"numeric", "citext", "interval", "jsonb", "time with time zone", "real"}) | {
    "double precision"
}
_MODIFIER: Final = re.compile(r"\(.*?\)")


@dataclass(frozen=True, slots=True)
class RuleProblem:
    """Why a table's changes lead to no document. `field` is the dotted path in the spec."""

    field: str
    what: str
    why: str
    remedy: str


@dataclass(frozen=True, slots=True)
class FoundRules:
    """The rules of a query, the tables (schema.table) whose changes are left out, and what is wrong."""

    rules: tuple[ChangeRule, ...]
    ignored: tuple[str, ...]
    problems: tuple[RuleProblem, ...]


def change_plan(
    connection: psycopg.Connection[tuple[Any, ...]], spec: Spec, facts: SourceFacts, run: RunId
) -> ChangePlan:
    """How the run follows changes. Raises SourceRefused where a table's changes lead to no document."""
    mode = spec.changes.mode
    if mode == "none":
        return ChangePlan("none")
    found = find_rules(connection, spec, facts.key, facts.tables)
    if found.problems:
        first, *others = found.problems
        why = first.why + "".join(f"; {problem.what}" for problem in others)
        raise SourceRefused(first.what, where=spec.place(first.field), why=why, remedy=first.remedy)
    rules, ignored = found.rules, found.ignored
    if spec.changes.debezium is not None:
        return ChangePlan(mode, slot=spec.changes.debezium.slot, rules=rules, ignored=ignored)
    given = spec.changes.replication.publication if spec.changes.replication is not None else None
    return ChangePlan(mode, run.slot, given or run.slot, given is None, rules, ignored)


def find_rules(
    connection: psycopg.Connection[tuple[Any, ...]], spec: Spec, key: tuple[KeyColumn, ...], tables: tuple[Table, ...]
) -> FoundRules:
    """The rules of the spec's query, which has that key and reads these tables. Raises psycopg.Error."""
    repeated = estimate_query(connection, source_query(spec, key)).repeated
    columns = {column.name: column for column in result_columns(connection, spec.source.postgres.query)}
    passed = [columns[part.name] for part in key]
    wanted = [dependency.qualified for dependency in spec.source.postgres.depends_on]
    relations = read_relations(connection, tables, wanted)
    return _Finder(connection, spec, key, relations).find(passed, repeated)


def same_text(key: str, column: str) -> bool:
    """Whether equal values of the two types (`format_type`) have equal texts, so that a column's text names a
    document. Pure."""
    base, other = (_MODIFIER.sub("", type_).strip() for type_ in (key, column))
    if {base, other} <= _INTEGERS or {base, other} <= _STRINGS:
        return True
    if base != other:
        return False
    if base == "numeric":
        return key == column and "," in key
    return base.rpartition(".")[2].strip('"') not in _AMBIGUOUS


class _Finder:
    """Collects rules, and problems."""

    def __init__(
        self,
        connection: psycopg.Connection[tuple[Any, ...]],
        spec: Spec,
        key: tuple[KeyColumn, ...],
        relations: Relations,
    ) -> None:
        self._connection, self._spec, self._key, self._relations = connection, spec, key, relations
        self._rules: list[ChangeRule] = []
        self._ignored: list[str] = []
        self._covered: set[int] = set()  # oids of tables that a rule or an `ignore` is for
        self._problems: list[RuleProblem] = []

    def find(self, passed: Sequence[ResultColumn], repeated: Iterable[tuple[str, str]]) -> FoundRules:
        root, names = self._root(passed)
        if root is not None:
            self._add(root, names, None, "source.postgres.key")
            self._covered.add(root.oid)
        keyed = set(self._covered)
        again = {oid for oid in map(self._relations.topmost_named, repeated) if oid is not None}
        self._covered -= again  # of a table that is read twice, a change alters documents of other keys, too
        for number, dependency in enumerate(self._spec.source.postgres.depends_on):
            self._depend(dependency, f"{_FIELD}.{number}")
        for oid in sorted(self._relations.tables - self._covered):
            self._uncovered(self._relations[oid], root if oid not in keyed else None, names)
        return FoundRules(tuple(dict.fromkeys(self._rules)), tuple(self._ignored), tuple(self._problems))

    def _root(self, passed: Sequence[ResultColumn]) -> tuple[Relation | None, tuple[str, ...]]:
        """The table that all of the key comes from unchanged, and the columns; None when there is none."""
        tables = {column.table for column in passed}
        if len(tables) != 1:
            return None, ()
        oid = tables.pop()
        topmost = self._relations.topmost(oid)
        if topmost is None:
            return None, ()
        numbers = {column.number: column.name for column in self._relations[oid].columns}
        return self._relations[topmost], tuple(numbers[column.number] for column in passed)

    def _depend(self, dependency: Dependency, field: str) -> None:
        relation = self._named(dependency, field)
        if relation is None:
            return
        self._covered.add(relation.oid)
        if dependency.ignore:
            self._ignored.append(relation.label)
        elif dependency.key is not None:
            self._check_key(relation, dependency.key, f"{field}.key")
        elif dependency.lookup is not None:
            self._add(relation, dependency.columns or (), dependency.lookup, field)

    def _named(self, dependency: Dependency, field: str) -> Relation | None:
        """The topmost table of the one that a dependency names, if the query reads it."""
        named = ".".join(dependency.qualified)
        oid = self._relations.named(dependency.qualified)
        topmost = None if oid is None else self._relations.topmost(oid)
        if topmost is not None:
            return self._relations[topmost]
        read = sorted(self._relations[table].label for table in self._relations.tables)
        if oid is None:
            near = difflib.get_close_matches(named, read, 1, cutoff=0.5)
            remedy = f"did you mean {near[0]!r}?" if near else f"the query reads {', '.join(read)}"
            self._problem(f"{field}.table", f"there is no table {named}", "", remedy)
        else:
            kind = "view" if self._relations.is_view(oid) else "table"
            remedy = f"name a table that it reads: {', '.join(read)}"
            self._problem(f"{field}.table", f"the query does not read the {kind} {named} itself", "", remedy)
        return None

    def _check_key(self, relation: Relation, columns: tuple[str, ...], field: str) -> None:
        if len(columns) != len(self._key):
            what = f"the document key has {len(self._key)} columns, and {relation.label} is to give {len(columns)}"
            self._problem(field, what, "", "name as many columns as source.postgres.key, in its order")
            return
        types = {column.name: column.type for column in relation.columns}
        for part, name in zip(self._key, columns, strict=True):
            if name in types and not same_text(part.type, types[name]):
                what = f"column {name} of {relation.label} does not name documents by its text"
                why = f"it is {types[name]}, and the key's column {part.name} is {part.type}"
                self._problem(field, what, why, "use lookup: it compares values, not texts")
                return
        self._add(relation, columns, None, field)

    def _add(self, relation: Relation, columns: tuple[str, ...], lookup: str | None, field: str) -> None:
        """Rules for the relation and, where rows are logged under them, its inheriting tables."""
        if not self._columns_fit(relation, columns, lookup, field):
            return
        rules = []
        for member in self._relations.logged(relation):
            types = {column.name: column.type for column in member.columns}
            if set(columns) <= set(types):
                found = tuple(types[name] for name in columns)
                rules.append(ChangeRule(member.schema, member.name, member.oid, columns, found, lookup))
        if lookup is None or self._lookup_fits(rules[0], f"{field}.lookup"):
            self._rules += rules
            self._covered.add(relation.oid)

    def _columns_fit(self, relation: Relation, columns: tuple[str, ...], lookup: str | None, field: str) -> bool:
        known = {column.name: column for column in relation.columns}
        field = f"{field}.columns" if lookup is not None else field
        problems = len(self._problems)
        for name in columns:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                remedy = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}"
                self._problem(field, f"table {relation.label} has no column {name!r}", "", remedy)
            elif known[name].generated:
                what = f"column {name} of {relation.label} is generated, so it is not in the log"
                self._problem(field, what, "", "use the columns that it is computed from, with a lookup")
            elif known[name].type.endswith("[]"):
                what = f"column {name} of {relation.label} is an array"
                self._problem(field, what, "lists of values are arrays of the column's type", "use another column")
        return len(self._problems) == problems

    def _lookup_fits(self, rule: ChangeRule, field: str) -> bool:
        """Whether PostgreSQL takes the lookup, and it returns something like the key."""
        names, used = set(lookup_names(rule)), used_names(rule.lookup or "")
        wanted = " and ".join(f"%({name})s" for name in lookup_names(rule))
        if used - names or not used:
            wrong = ", ".join(f"%({name})s" for name in sorted(used - names))
            what = f"the lookup has the unknown parameter {wrong}" if wrong else "the lookup uses no value"
            self._problem(field, what, "", f"compare with {wanted}, e.g. `code = any({wanted.split(' ')[0]})`")
            return False
        try:
            found = self._lookup_types(rule)
            if len(found) != len(self._key):
                what = f"the lookup returns {len(found)} columns, and the document key has {len(self._key)}"
                remedy = f"return {', '.join(part.name for part in self._key)} and nothing else"
                self._problem(field, what, "", remedy)
                return False
            statement = lookup_statement(rule, self._key).as_string(None) + " limit 0"
            self._connection.execute(statement, lookup_parameters(rule, []))
        except psycopg.OperationalError:
            raise
        except psycopg.Error as error:
            why = " ".join((error.diag.message_primary or str(error)).split())
            remedy = "correct it; names carry their schema, and its result must be castable to the key's types"
            self._problem(field, "PostgreSQL refused the lookup", why, error.diag.message_hint or remedy)
            return False
        return True

    def _lookup_types(self, rule: ChangeRule) -> list[str]:
        text = lookup_source(rule).as_string(None)
        cursor = self._connection.execute(f"select * from (\n{text}\n) l limit 0", lookup_parameters(rule, []))
        return [column.name for column in cursor.description or ()]

    def _uncovered(self, relation: Relation, root: Relation | None, key: tuple[str, ...]) -> None:
        label = relation.label
        suggestion = self._relations.suggestion(relation, root, key) if root is not None else None
        entry = suggestion or f"{{table: {label}, lookup: …, columns: […]}}"
        if any(rule.oid == relation.oid for rule in self._rules):
            what = f"the query reads {label} more than once: a row's change alters documents of other keys, too"
        else:
            what = f"the query reads {label}, and depends_on does not say which documents its changes alter"
        why = "the key does not come unchanged from one table" if root is None and not self._rules else ""
        remedy = f"add `{entry}` to {_FIELD}, or `{{table: {label}, ignore: true}}` to leave its changes out"
        self._problem(_FIELD, what, why, remedy)

    def _problem(self, field: str, what: str, why: str, remedy: str) -> None:
        self._problems.append(RuleProblem(field, what, why, remedy))
