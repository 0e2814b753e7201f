"""Mappings compared field by field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from reshelve.consumers.mapping_effect import Effect, judge

ROOT: Final = "(mapping)"
Change: TypeAlias = Literal["added", "removed", "changed"]


@dataclass(frozen=True, slots=True)
class Difference:
    """A field that the new mapping adds, removes or changes. `field` is its dotted path, or `(mapping)` for
    what applies to the whole (`dynamic`, `_source`, …); `before` and `after` are its definitions; `effect` is what it
    means for searches, and `why`."""

    field: str
    change: Change
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    effect: Effect
    why: str


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Difference, ...]:
    """How mapping `after` differs from `before`, by field name."""
    old, new = dict(_fields(before)), dict(_fields(after))
    return tuple(
        _difference(field, old.get(field), new.get(field))
        for field in sorted(old.keys() | new.keys())
        if _plain(old.get(field)) != _plain(new.get(field))
    )


def _difference(field: str, before: dict[str, Any] | None, after: dict[str, Any] | None) -> Difference:
    change: Change = "added" if before is None else "removed" if after is None else "changed"
    if field == ROOT:
        return Difference(field, change, before, after, *judge(_plain(before or {}), _plain(after or {})))
    return Difference(field, change, before, after, *judge(_plain(before), _plain(after)))


def _fields(mapping: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    own = {name: value for name, value in mapping.items() if name != "properties"}
    if own:
        yield ROOT, own
    yield from _properties(mapping.get("properties") or {}, "")


def _properties(properties: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, definition in properties.items():
        own = {key: value for key, value in definition.items() if key != "properties"}
        yield f"{prefix}{name}", own or {"type": "object"}
        yield from _properties(definition.get("properties") or {}, f"{prefix}{name}.")


def _plain(value: Any) -> Any:
    """OpenSearch returns some numbers and booleans as text: 256 and "256" are the same."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, bool):
        return str(value).lower()
    return None if value is None else str(value)
