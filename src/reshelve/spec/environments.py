"""Environments of a spec (staging, production, …): sections that are laid over its base.

Values are replaced field by field; mappings are merged, lists and texts are replaced whole."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from reshelve.errors import Problem
from reshelve.spec.yaml_source import Path, YamlSource

FIELD: Final = "environments"
VARIABLE: Final = "RESHELVE_ENVIRONMENT"
_ROOT: Final[Path] = (FIELD,)
_DESCRIPTION: Final = "description"
APART: Final = ("reindex", FIELD)
"""What no environment may say otherwise: the journal knows a spec by its name."""
_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,59}")

UnknownFields = Callable[[Path, Path, object], Iterator[Problem]]
"""From where a value stands, the way of the field that it is for, and the value."""


def lay_environment(
    source: YamlSource,
    asked: str | None,
    environ: Mapping[str, str],
    fields: list[str],
    unknown: UnknownFields,
) -> tuple[str, list[Problem]]:
    """Lay the chosen environment over the spec; its name, empty when the spec defines none, and what is wrong.

    asked    the one that was asked for; None: that of the variable RESHELVE_ENVIRONMENT, or the only one
    fields   of a spec
    unknown  finds the fields that no section has"""
    value = source.value.get(FIELD)
    if value is None:
        return "", [] if asked is None else [_unknown_name(source, asked, [])]
    if not isinstance(value, dict) or not value:
        what = f"{FIELD} should be a mapping of names to sections"
        return "", [Problem(source.place(_ROOT), what, f"write `{FIELD}: {{staging: {{…}}, production: {{…}}}}`")]
    problems = [problem for name, one in value.items() for problem in _judge(source, name, one, fields)]
    usable = {name: one for name, one in value.items() if isinstance(one, dict)}
    chosen, wrong = _choose(source, asked, environ, list(value))
    for name, one in usable.items():
        if name != chosen:  # of the chosen one they are found with everything else
            for field in one.keys() & set(fields) - {*APART, _DESCRIPTION}:
                problems += unknown((FIELD, name, field), (field,), one[field])
    if chosen in usable:
        apart = {field for field in usable[chosen] if field not in fields or field in (*APART, _DESCRIPTION)}
        source.lay_over((FIELD, chosen), without=apart)
    described = {name: one.get(_DESCRIPTION) for name, one in usable.items()}
    source.value[FIELD] = {
        name: {_DESCRIPTION: text} if isinstance(text, str) and text else {} for name, text in described.items()
    }
    source.unset = {path: found for path, found in source.unset.items() if path[:1] != _ROOT}
    return chosen, problems + wrong


def _choose(
    source: YamlSource, asked: str | None, environ: Mapping[str, str], names: list[str]
) -> tuple[str, list[Problem]]:
    wanted = asked or environ.get(VARIABLE) or (names[0] if len(names) == 1 else None)
    if wanted is None:
        what = f"the spec has several environments ({', '.join(names)}), and none is chosen"
        remedy = f"choose one with --environment {names[0]}, or export {VARIABLE}"
        return "", [Problem(source.place(_ROOT, of_key=True), what, remedy)]
    if wanted not in names:
        return "", [_unknown_name(source, wanted, names)]
    return wanted, []


def _unknown_name(source: YamlSource, wanted: str, names: list[str]) -> Problem:
    what = f"the spec has no environment {wanted!r}"
    if not names:
        return Problem(source.place(()), what, f"define it under `{FIELD}`, or choose none")
    near = difflib.get_close_matches(wanted, names, 1, cutoff=0.6)
    remedy = f"did you mean {near[0]!r}?" if near else f"choose one of: {', '.join(names)}"
    return Problem(source.place(_ROOT, of_key=True), what, remedy)


def _judge(source: YamlSource, name: str, value: Any, fields: list[str]) -> Iterator[Problem]:
    at = (FIELD, name)
    if _NAME.fullmatch(name) is None:
        what = f"{name!r} is no name of an environment"
        yield Problem(source.place(at, of_key=True), what, "lowercase letters, digits, - and _, at most 60")
    if not isinstance(value, dict):
        what = f"{'.'.join(at)}: should be a mapping of sections"
        yield Problem(source.place(at), what, "write what differs there, or `{}` when nothing does")
        return
    known = [_DESCRIPTION, *(field for field in fields if field not in APART)]
    for field in value:
        if field in APART:
            what = f"{field!r} can't differ between environments"
            yield Problem(source.place((*at, field), of_key=True), what, "leave it in the spec's base alone")
        elif field not in known:
            near = difflib.get_close_matches(field, known, 1, cutoff=0.6)
            remedy = f"did you mean {near[0]!r}?" if near else f"remove it, or use one of: {', '.join(known)}"
            yield Problem(source.place((*at, field), of_key=True), f"unknown field {field!r}", remedy)
    description = value.get(_DESCRIPTION)
    if description is not None and not isinstance(description, str):
        yield Problem(source.place((*at, _DESCRIPTION)), f"{'.'.join(at)}.{_DESCRIPTION}: should be text", "quote it")
