"""The index definition file: `settings` and `mappings` as JSON."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any, Final, NoReturn

from reshelve.errors import Problem

_SECTIONS: Final = ("settings", "mappings")


class _RepeatedKey(ValueError):
    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__(key)


def read_definition(path: Path, *, name: str, place: str) -> tuple[dict[str, Any], list[Problem]]:
    """The definition in the file `path`, and what is wrong with it. `name` is the file as the spec names it;
    `place` is where the spec does so."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        return {}, [Problem(f"{name}:{line}:1", "not UTF-8 text", "save the file as UTF-8")]
    except OSError as error:
        what = f"cannot read the index definition {name}: {error.strerror}"
        return {}, [Problem(place, what, f"create it, for instance with `reshelve init`; looked for {path}")]
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        at = f"{name}:{error.lineno}:{error.colno}"
        return {}, [Problem(at, f"not JSON: {error.msg}", "correct the JSON here")]
    except _RepeatedKey as error:
        at = _place_of(text, error.key, name, last=True)
        return {}, [Problem(at, f"{error.key!r} stands twice in one object", "keep one of them")]
    except (ValueError, RecursionError) as error:
        return {}, [Problem(f"{name}:1:1", f"not JSON: {error}", "correct the JSON")]
    if not isinstance(value, dict):
        what = "the index definition must be an object"
        return {}, [Problem(f"{name}:1:1", what, 'write {"settings": {…}, "mappings": {…}}')]
    return value, [problem for key in value for problem in _judge(key, value[key], text, name)]


def _judge(key: str, value: object, text: str, name: str) -> list[Problem]:
    at = _place_of(text, key, name)
    if key == "aliases":
        what = "`aliases` can't be part of the index definition: the spec's alias is moved at the cut-over"
        return [Problem(at, what, "remove it; name the alias in target.opensearch.alias")]
    if key not in _SECTIONS:
        near = difflib.get_close_matches(key, _SECTIONS, 1)
        remedy = f"did you mean {near[0]!r}?" if near else "put it under `settings` or `mappings`"
        return [Problem(at, f"unknown field {key!r} in the index definition", remedy)]
    if not isinstance(value, dict):
        return [Problem(at, f"`{key}` must be an object", f'write "{key}": {{…}}')]
    return []


def _place_of(text: str, key: str, name: str, *, last: bool = False) -> str:
    written = json.dumps(key, ensure_ascii=False)
    at = max(text.rfind(written) if last else text.find(written), 0)
    return f"{name}:{text.count(chr(10), 0, at) + 1}:{at - text.rfind(chr(10), 0, at)}"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise _RepeatedKey(key)
        result[key] = value
    return result


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
