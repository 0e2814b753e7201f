"""What is published of the spec: its JSON Schema, for editors, and a commented example.

`python -m reshelve.spec.published` writes the schema's file anew; a test sees that it is up to date."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from reshelve.spec.environments import APART
from reshelve.spec.model import Spec

SCHEMA_FILE = "spec.schema.json"


class _Schema(GenerateJsonSchema):
    """Numbers and booleans may be written as `${NAME}` too."""

    def int_schema(self, schema: core_schema.IntSchema) -> JsonSchemaValue:
        return _or_variable(super().int_schema(schema))

    def float_schema(self, schema: core_schema.FloatSchema) -> JsonSchemaValue:
        return _or_variable(super().float_schema(schema))

    def bool_schema(self, schema: core_schema.BoolSchema) -> JsonSchemaValue:
        return _or_variable(super().bool_schema(schema))


def _or_variable(schema: JsonSchemaValue) -> JsonSchemaValue:
    return {"anyOf": [schema, {"type": "string", "pattern": "\\$\\{"}]}


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a spec."""
    schema = Spec.model_json_schema(schema_generator=_Schema)
    _allow_sections(schema)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema


def _allow_sections(schema: dict[str, Any]) -> None:
    """An environment may hold any other section, and each of them in part: nothing is required there."""
    definitions = schema["$defs"]
    sections = {name: one for name, one in schema["properties"].items() if name not in APART}
    partial = {f"Partial{name}": _in_part(one) for name, one in definitions.items() if name != "Environment"}
    definitions["Environment"]["properties"] |= _in_part(sections)
    schema["$defs"] = definitions | partial


def _in_part(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_in_part(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {name: _in_part(one) for name, one in schema.items() if name not in ("required", "default")}
    if isinstance(reference := kept.get("$ref"), str):
        kept["$ref"] = reference.replace("#/$defs/", "#/$defs/Partial")
    return kept


def schema_text() -> str:
    """The schema as its file holds it."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def example(name: str = "cities") -> tuple[str, str]:
    """A commented spec of a reindex, and its index definition, to be stored as `<name>.index.json`."""
    folder = files("reshelve.spec")
    spec = (folder / "example.yaml").read_text(encoding="utf-8")
    for line in ("reindex: {}", "alias: {}", "index: {}.index.json"):
        spec = spec.replace(line.format("cities"), line.format(name))
    return spec, (folder / "example.index.json").read_text(encoding="utf-8")


if __name__ == "__main__":
    Path(__file__).with_name(SCHEMA_FILE).write_text(schema_text(), encoding="utf-8")
