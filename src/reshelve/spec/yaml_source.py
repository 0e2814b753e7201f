"""YAML with positions: what a spec says, and at which line and column it says it.

Positions come from PyYAML's node graph; nothing outside this module knows that. Anchors and aliases
are refused: a spec repeats nothing, and an alias has two places at once."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import yaml

from reshelve.errors import Problem

Path: TypeAlias = tuple[str | int, ...]
"""The way to a value: names of fields and numbers of list items."""

# `$${` is a literal `${`; `${NAME}` and `${NAME:-default}` are variables; any other `${` is a mistake.
_VARIABLE: Final = re.compile(
    r"(?P<escaped>\$\$\{)|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}|(?P<bad>\$\{[^}\s]*\}?)"
)


@dataclass(slots=True)
class YamlSource:
    """What the text says.

    value      plain data, variables replaced
    literals   the same string scalars with every variable blanked: what is written in the file itself
    variables  values of the variables used by a scalar
    missing    paths whose value is unknown
    unset      the variables that are not set, by the path that uses them
    problems   what is wrong with the YAML itself"""

    name: str
    value: Any = None
    literals: dict[Path, str] = field(default_factory=dict)
    variables: dict[Path, tuple[str, ...]] = field(default_factory=dict)
    missing: set[Path] = field(default_factory=set)
    unset: dict[Path, list[Problem]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    _keys: dict[Path, tuple[int, int]] = field(default_factory=dict)
    _values: dict[Path, tuple[int, int]] = field(default_factory=dict)
    _blocks: dict[Path, bool] = field(default_factory=dict)

    @property
    def all_problems(self) -> list[Problem]:
        """What is wrong with the YAML, and the variables that are not set."""
        return [*self.problems, *(problem for found in self.unset.values() for problem in found)]

    def lay_over(self, prefix: Path, *, without: Collection[str] = ()) -> None:
        """Lay the mapping at `prefix` over the top of everything, but for its fields in `without`, with its places:
        mappings are merged, anything else is replaced."""
        value = self.value
        for step in prefix:
            value = value[step]
        self._merge(self.value, {name: one for name, one in value.items() if name not in without}, prefix, ())

    def _merge(self, base: dict[str, Any], over: dict[str, Any], origin: Path, path: Path) -> None:
        for name, one in over.items():
            below, here = base.get(name), (*path, name)
            if isinstance(below, dict) and isinstance(one, dict):
                self._merge(below, one, (*origin, name), here)
                continue
            base[name] = deepcopy(one)
            for known in (self._keys, self._values, self._blocks, self.literals, self.variables, self.unset):
                _move(known, (*origin, name), here)
            self.missing = {at for at in self.missing if at[: len(here)] != here} | {
                here + at[len(origin) + 1 :] for at in self.missing if at[: len(origin) + 1] == (*origin, name)
            }

    def place(self, path: Path, *, of_key: bool = False) -> str:
        """`file:line:column` of the value at `path` (or of its key), or of the nearest thing around it."""
        while True:
            at = (self._keys.get(path) if of_key else None) or self._values.get(path)  # items of lists have no key
            if at is not None or not path:
                line, column = at or (1, 1)
                return f"{self.name}:{line}:{column}"
            path, of_key = path[:-1], True

    def place_inside(self, path: Path, offset: int) -> str:
        """Place of a character of the multi-line text at `path`: exact for a literal block (`|`), whose
        indentation is the value's column; the value's own place otherwise."""
        text = self.value
        for step in path:
            text = text[step]
        if not isinstance(text, str) or not self._blocks.get(path):
            return self.place(path)
        line, column = self._values[path]
        before = text[:offset]
        return f"{self.name}:{line + before.count(chr(10))}:{column + offset - (before.rfind(chr(10)) + 1)}"


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader without aliases."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                None, None, "anchors and aliases (`&`, `*`) are not supported in a spec", event.start_mark
            )
        return super().compose_node(parent, index)


def read_yaml(text: str, *, name: str, environ: Mapping[str, str]) -> YamlSource:
    """Parse `text`. Mistakes are collected, never raised; `value` is None after a syntax error."""
    source = YamlSource(name)
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is not None:
            source.value = _Reading(source, loader, text, environ).read(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        what = error.problem or error.context or str(error)
        place = f"{name}:{line}:{column}"
        source.problems.append(Problem(place, f"not YAML: {what}", "correct the YAML here"))
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        line, column = before.count("\n") + 1, error.position - before.rfind("\n")
        what = f"not YAML: character {error.character!r} is not allowed"
        source.problems.append(Problem(f"{name}:{line}:{column}", what, "remove the character"))
    finally:
        if loader is not None:
            loader.dispose()
    return source


class _Reading:
    """One walk over the nodes, filling the YamlSource."""

    def __init__(self, source: YamlSource, loader: _Loader, text: str, environ: Mapping[str, str]) -> None:
        self._source, self._loader, self._environ = source, loader, environ
        self._lines = text.splitlines()

    def read(self, node: yaml.Node, path: Path) -> Any:
        self._source._values[path] = (node.start_mark.line + 1, node.start_mark.column + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, (*path, number)) for number, item in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        if node.tag == "tag:yaml.org,2002:str":
            if node.style == "|":
                self._source._values[path] = self._block_start(node)
                self._source._blocks[path] = "${" not in node.value
            return self._interpolate(node.value, path)
        try:
            return self._loader.construct_object(node)
        except (ValueError, yaml.constructor.ConstructorError):
            what = f"{node.value!r} cannot be read as the type that YAML takes it for"
            self._problem(path, what, "put it in quotes")
            self._source.missing.add(path)
            return None

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            at = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            if not isinstance(key_node, yaml.ScalarNode):
                place = f"{self._source.name}:{at[0]}:{at[1]}"
                what = "a field name must be plain text"
                self._source.problems.append(Problem(place, what, "write `name: value`"))
                continue
            key = key_node.value
            if key in result:
                first = self._source._keys[(*path, key)]
                self._source.problems.append(
                    Problem(
                        f"{self._source.name}:{at[0]}:{at[1]}",
                        f"field {key!r} stands twice; the first one is on line {first[0]}",
                        "keep one of them",
                    )
                )
                continue
            self._source._keys[(*path, key)] = at
            result[key] = self.read(value_node, (*path, key))
        return result

    def _block_start(self, node: yaml.ScalarNode) -> tuple[int, int]:
        """Where the text of a literal block begins: its first line that isn't blank."""
        header = node.start_mark.line
        first = next((line for line in self._lines[header + 1 :] if line.strip()), "")
        return header + 2, len(first) - len(first.lstrip(" ")) + 1

    def _interpolate(self, text: str, path: Path) -> str:
        used: list[str] = []

        def value(match: re.Match[str]) -> str:
            if match["escaped"]:
                return "${"
            if match["bad"] is not None:
                self._problem(
                    path,
                    f"{match['bad']!r} is not a variable",
                    "write `${NAME}` or `${NAME:-default}`, or `$${` for a plain `${`",
                )
                self._source.missing.add(path)
                return ""
            name, default = match["name"], match["default"]
            found = self._environ.get(name)
            if default is not None and not found:
                return default
            if found is None:
                what = f"environment variable {name} is not set"
                remedy = f"export {name}, or give a default: `${{{name}:-…}}`"
                problem = Problem(self._source.place(path), what, remedy)
                self._source.unset.setdefault(path, []).append(problem)
                self._source.missing.add(path)
                return ""
            used.append(found)
            return found

        result = _VARIABLE.sub(value, text)
        self._source.literals[path] = _VARIABLE.sub(_literal_part, text)
        self._source.variables[path] = tuple(used)
        return result

    def _problem(self, path: Path, what: str, remedy: str) -> None:
        self._source.problems.append(Problem(self._source.place(path), what, remedy))


def _move(known: dict[Path, Any], origin: Path, path: Path) -> None:
    """Entries at `origin` and below it take the place of those at `path` and below it."""
    for at in [at for at in known if at[: len(path)] == path]:
        del known[at]
    for at in [at for at in known if at[: len(origin)] == origin]:
        known[path + at[len(origin) :]] = known[at]


def _literal_part(match: re.Match[str]) -> str:
    return "${" if match["escaped"] else match["default"] or ""
