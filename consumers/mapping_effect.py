"""What a difference between two mappings means for whoever searches: a judgement by OpenSearch's rules of what can be
changed in place, and of what a search relies on. Pure.

https://docs.opensearch.org/latest/field-types/mapping-parameters/index/"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias

Effect: TypeAlias = Literal["safe", "needs reindex", "breaks queries"]
"""safe            searches find what they found before; the index could have been changed in place
needs reindex   searches go on to work, and only a new index can have it
breaks queries  searches that use the field may fail, or not find what they found"""

SAFE: Final = "safe"
NEEDS_REINDEX: Final = "needs reindex"
BREAKS_QUERIES: Final = "breaks queries"
_ORDER: Final[tuple[Effect, ...]] = (SAFE, NEEDS_REINDEX, BREAKS_QUERIES)

Definition: TypeAlias = Mapping[str, Any]
Judgement: TypeAlias = tuple[Effect, str]
"""The effect, and why; no why where that is plain."""

_DEFAULT_TYPE: Final = "object"
_FAMILIES: Final = (
    frozenset({"byte", "short", "integer", "long", "unsigned_long"}),
    frozenset({"half_float", "float", "double", "scaled_float"}),
    frozenset({"keyword", "constant_keyword", "wildcard"}),
    frozenset({"date", "date_nanos"}),
    frozenset({"text", "match_only_text"}),
)
"""Types that answer the same queries."""
_UPDATABLE: Final = frozenset(
    {
        "ignore_above",
        "search_analyzer",
        "search_quote_analyzer",
        "boost",
        "coerce",
        "ignore_malformed",
        "meta",
        "copy_to",
    }
    | {"eager_global_ordinals", "fielddata_frequency_filter", "dynamic", "date_detection", "numeric_detection"}
    | {"dynamic_templates", "dynamic_date_formats", "_meta"}
)
"""Parameters that an index takes while it is used."""
_SWITCHES: Final = {"index": True, "doc_values": True, "enabled": True, "fielddata": False, "store": False}
"""What a search needs to be on, with its default. (`fielddata` could be switched on in place.)"""


def judge(before: Definition | None, after: Definition | None) -> Judgement:
    """Of a field that differs: `before` and `after` are its definitions without the fields below it; None: it is not
    there."""
    if before is None:
        return SAFE, ""
    if after is None:
        return BREAKS_QUERIES, "searches that name it find nothing"
    type_ = _judge_type(str(before.get("type", _DEFAULT_TYPE)), str(after.get("type", _DEFAULT_TYPE)))
    if type_ is not None and type_[0] == BREAKS_QUERIES:
        return type_
    names = {name for name in {*before, *after} - {"type"} if before.get(name) != after.get(name)}
    found = [_judge_parameter(name, before.get(name), after.get(name)) for name in sorted(names)]
    return max(([type_] if type_ else []) + found, key=lambda one: _ORDER.index(one[0]), default=(SAFE, ""))


def _judge_type(before: str, after: str) -> Judgement | None:
    if before == after:
        return None
    if any({before, after} <= family for family in _FAMILIES):
        return NEEDS_REINDEX, f"{before} and {after} answer the same queries"
    numbers = _FAMILIES[0] | _FAMILIES[1]
    if {before, after} <= numbers:
        return NEEDS_REINDEX, "numbers, of another precision"
    return BREAKS_QUERIES, f"{after} is not searched, sorted and aggregated as {before} is"


def _judge_parameter(name: str, before: Any, after: Any) -> Judgement:
    if name == "fields":
        return _judge_subfields(before or {}, after or {})
    if name in _SWITCHES:
        return _judge_switch(name, before, after)
    if name == "format":
        return BREAKS_QUERIES, "dates in searches are read by the new format"
    if name in ("_source", "_routing"):
        return BREAKS_QUERIES, f"{name} changes what a search returns or must name"
    if name in _UPDATABLE:
        return SAFE, f"{name} can be changed in place"
    return NEEDS_REINDEX, f"{name} holds for what is indexed with it"


def _judge_switch(name: str, before: Any, after: Any) -> Judgement:
    was, will = (_is_on(_SWITCHES[name] if value is None else value) for value in (before, after))
    if was and not will:
        return BREAKS_QUERIES, f"{name} is switched off"
    return (NEEDS_REINDEX, f"{name} is switched on") if will and not was else (SAFE, "")


def _is_on(value: Any) -> bool:
    """OpenSearch returns some booleans as text."""
    return str(value).lower() == "true"


def _judge_subfields(before: Mapping[str, Definition], after: Mapping[str, Definition]) -> Judgement:
    gone = sorted(before.keys() - after.keys())
    if gone:
        return BREAKS_QUERIES, f"searches that name {', '.join(gone)} below it find nothing"
    changed = [judge(before[name], after[name]) for name in sorted(before) if before[name] != after[name]]
    worst = max(changed, key=lambda one: _ORDER.index(one[0]), default=None)
    if worst is not None and worst[0] != SAFE:
        return worst
    if after.keys() - before.keys():
        return NEEDS_REINDEX, "fields below it that only documents indexed from now on would have"
    return SAFE, ""
