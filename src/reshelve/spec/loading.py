"""From the text of a spec to a `Spec`, or to all that is wrong with it."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from reshelve.errors import Problem, SpecError
from reshelve.redaction import redact
from reshelve.spec.definition import read_definition
from reshelve.spec.environments import lay_environment
from reshelve.spec.model import Spec, path_of
from reshelve.spec.scope import scope_faults
from reshelve.spec.secrets import remember_secrets, written_secrets
from reshelve.spec.yaml_source import Path as FieldPath
from reshelve.spec.yaml_source import YamlSource, read_yaml

_INDEX: Final[FieldPath] = ("target", "opensearch", "index")


def load(path: Path, environ: Mapping[str, str] | None = None, *, environment: str | None = None) -> Spec:
    """The spec in the file `path`, for an environment as `parse` chooses it. Raises SpecError with every problem at
    once."""
    name = path.name
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        column = error.start - error.object.rfind(b"\n", 0, error.start)
        raise SpecError([Problem(f"{name}:{line}:{column}", "not UTF-8", "save it as UTF-8")]) from None
    except OSError as error:
        what = f"cannot read the spec: {error.strerror}"
        problem = Problem(str(path), what, "name a spec, or write one with `reshelve init`")
        raise SpecError([problem]) from None
    return parse(text, name=name, folder=path.parent, environ=environ, environment=environment)


def parse(
    text: str,
    *,
    name: str,
    folder: Path,
    environ: Mapping[str, str] | None = None,
    definition: Mapping[str, Any] | None = None,
    environment: str | None = None,
) -> Spec:
    """The spec that `text` is. File names in it are relative to `folder`; places name the file `name`.

    `environment` is laid over it; None: that of the variable RESHELVE_ENVIRONMENT, or the only one that is defined.
    `definition` stands for the index definition's file, for whoever has a plan and not its folder;
    `environ` is the process's when left out. Raises SpecError with every problem at once."""
    environ = os.environ if environ is None else environ
    source = read_yaml(text, name=name, environ=environ)
    if not isinstance(source.value, dict):
        what = "the spec is empty" if source.value is None else "the spec must be a mapping of fields"
        raise SpecError(source.all_problems or [Problem(f"{name}:1:1", what, "start with `reshelve init`")])
    remember_secrets(source)
    problems = list(written_secrets(source))
    unknown = partial(_unknown_fields, source)
    chosen, found = lay_environment(source, environment, environ, list(Spec.model_fields), unknown)
    problems += [*source.all_problems, *found]
    if found and not chosen:  # the base alone may be no spec at all
        raise SpecError(sorted(map(_redacted, problems), key=_position))
    spec: Spec | None = None
    try:
        spec = Spec.model_validate(source.value, context={"folder": folder, "planned": definition is not None})
    except ValidationError as error:
        problems += _translate(error, source)
    if spec is not None:
        faults = scope_faults(spec.scope, spec.phases, spec.source.postgres.key)
        problems += [Problem(source.place(path_of(fault.field)), fault.what, fault.remedy) for fault in faults]
    if definition is None:
        definition, found = _definition(source, folder)
        problems += found
    if problems or spec is None:
        raise SpecError(sorted(map(_redacted, problems), key=_position))
    spec._text, spec._folder, spec._origin, spec._environment = text, folder, source, chosen
    spec._definition = {"settings": {}, "mappings": {}} | dict(definition)
    return spec


def _definition(source: YamlSource, folder: Path) -> tuple[dict[str, Any], list[Problem]]:
    value: Any = source.value
    for step in _INDEX:
        value = value.get(step) if isinstance(value, dict) else None
    if not isinstance(value, str) or not value or _INDEX in source.missing:
        return {}, []
    return read_definition(folder / value, name=value, place=source.place(_INDEX))


def _translate(error: ValidationError, source: YamlSource) -> Iterator[Problem]:
    details = error.errors(include_url=False, include_input=False)
    explained: set[FieldPath] = set()  # fields that are missing because their name is misspelt: told once
    for detail in details:
        if detail["type"] == "extra_forbidden":
            *inside, field = detail["loc"]
            near, problem = _unknown_field(source.place(detail["loc"], of_key=True), str(field), _fields_of(inside))
            explained.update((*inside, other) for other in near)
            yield problem
    for detail in details:
        path = detail["loc"]
        if detail["type"] == "extra_forbidden" or path in source.missing:
            continue
        if detail["type"] == "missing":
            if path not in explained:
                what = f"field {'.'.join(map(str, path))!r} is missing"
                yield Problem(source.place(path[:-1], of_key=True), what, _remedy(path, "add it"))
            continue
        what = f"{'.'.join(map(str, path))}: {_message(detail)}"
        yield Problem(source.place(path), what, _remedy(path, "see"))


def _unknown_field(place: str, field: str, known: list[str]) -> tuple[list[str], Problem]:
    """The known field that was meant, if any, and the problem."""
    near = difflib.get_close_matches(field, known, 1, cutoff=0.6)
    remedy = f"did you mean {near[0]!r}?" if near else f"remove it, or use one of: {', '.join(known)}"
    return near, Problem(place, f"unknown field {field!r}", remedy)


def _unknown_fields(source: YamlSource, at: FieldPath, path: FieldPath, value: object) -> Iterator[Problem]:
    """The fields below a value that stands at `at`, and is meant for the field `path`, that no section has."""
    if isinstance(value, list):
        for number, item in enumerate(value):
            yield from _unknown_fields(source, (*at, number), (*path, number), item)
    known = _fields_of(list(path))
    if not isinstance(value, dict) or not known:
        return
    for name, item in value.items():
        if name in known:
            yield from _unknown_fields(source, (*at, name), (*path, name), item)
        else:
            yield _unknown_field(source.place((*at, name), of_key=True), name, known)[1]


def _message(detail: ErrorDetails) -> str:
    match detail["type"]:
        case "string_type":
            return "should be text; put it in quotes"
        case "model_type" | "model_attributes_type" | "dict_type":
            return "should be a mapping of fields"
        case "tuple_type":
            return (
                "should be the name of a column, or a list of them"
                if detail["loc"][-1] in ("key", "columns")
                else "should be a list"
            )
        case "string_too_short" | "too_short":
            return "is empty"
        case "string_pattern_mismatch":
            return f"does not match {detail['ctx']['pattern']}"
        case "value_error":
            return str(detail["ctx"]["error"])
    return detail["msg"].removeprefix("Input ").replace("valid integer", "whole number")


def _remedy(path: FieldPath, verb: str) -> str:
    description = _description(path)
    return f"{verb}: {description}" if description else "see docs/spec.md"


def _model_at(path: FieldPath) -> type[BaseModel] | None:
    model: type[BaseModel] | None = Spec
    for step in path:
        if model is None:
            return None
        if isinstance(step, str):  # the number of a list's item stays within its model
            info = model.model_fields.get(step)
            model = _section(info.annotation) if info else None
    return model


def _section(annotation: Any) -> type[BaseModel] | None:
    """The section in an annotation: itself, an alternative to null, or the items of a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_section, get_args(annotation))), None)


def _fields_of(path: list[int | str]) -> list[str]:
    model = _model_at(tuple(path))
    return list(model.model_fields) if model else []


def _description(path: FieldPath) -> str:
    for end in range(len(path), 0, -1):
        model = _model_at(path[: end - 1])
        info = model.model_fields.get(str(path[end - 1])) if model else None
        if info is not None:
            section = info.annotation
            return info.description or (section.__doc__ if isinstance(section, type) else "") or ""
    return ""


def _redacted(problem: Problem) -> Problem:
    return Problem(problem.place, redact(problem.what), redact(problem.remedy), problem.level)


def _position(problem: Problem) -> tuple[str, int, int]:
    """Problems in the order of reading: file, line, column."""
    name, line, column = problem.place.rsplit(":", 2)
    return name, int(line), int(column)
