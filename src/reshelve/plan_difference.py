"""What differs between two plans, field by field, of what their hashes cover. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Final

from reshelve.plan import Plan, hashed_facts

_SHOWN: Final = 60
_CONTEXT: Final = 12
_ABSENT: Final = "(nothing)"
_REPEATED: Final = ("spec_text", "spec_name")  # what matters of the text is in `spec`, field by field


@dataclass(frozen=True, slots=True)
class PlanDifference:
    """field: its way in the plan, e.g. `spec.limits.max_rejects`; before, after: as short texts."""

    field: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.field}: {self.before} → {self.after}"


def plan_differences(before: Plan, after: Plan) -> list[PlanDifference]:
    """What makes the plans' hashes differ; empty when they do not. A text of the spec that says the same otherwise, as
    with another comment, is one difference."""
    return facts_differences(hashed_facts(before), hashed_facts(after))


def facts_differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[PlanDifference]:
    """What differs between the facts of two plans, or between those of two specs."""
    found = list(_compare("", before, after))
    meant = [one for one in found if one.field not in _REPEATED]
    return meant or found


def _compare(field: str, before: Any, after: Any) -> Iterator[PlanDifference]:
    if before == after:
        return
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in sorted({*before, *after}, key=str):
            way = f"{field}.{name}" if field else str(name)
            yield from _compare(way, before.get(name), after.get(name))
    elif _is_list(before) and _is_list(after) and len(before) == len(after):
        for number, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from _compare(f"{field}.{number}", one, other)
    else:
        yield PlanDifference(field, *_pair(before, after))


def _is_list(value: object) -> bool:
    return isinstance(value, (list, tuple))


def _pair(before: object, after: object) -> tuple[str, str]:
    """Both as short texts, from a little before the place where they part."""
    texts = [_ABSENT if value is None else " ".join(str(value).split()) for value in (before, after)]
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(*texts, strict=False)))
    start = same - _CONTEXT if same > _SHOWN // 2 else 0
    one, other = (("…" if start else "") + text[start:] for text in texts)
    return _short(one), _short(other)


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
