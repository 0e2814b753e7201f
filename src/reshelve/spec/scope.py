"""Which documents are rebuilt, and in which order: key ranges as everywhere else, after `low` up to and including
`high`, each the values of the key columns or of the first few of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from reshelve.model import Bound
from reshelve.spec.fields import Section, Text, one_or_more
from reshelve.spec.statement import clean_predicate


def bound_texts(value: object) -> object:
    """The values of a bound as PostgreSQL reads them; one stands for itself."""
    values = value if isinstance(value, list) else [value]
    return tuple(_text(one) for one in values) if value is not None else None


def _text(value: object) -> object:
    if isinstance(value, bool):  # YAML 1.1 takes a bare no, off or y for one
        raise ValueError("should be text or a number; put it in quotes")
    if isinstance(value, datetime):
        return value.isoformat(sep=" ")
    if isinstance(value, int | float | date):
        return str(value)
    return value


KeyBound = Annotated[
    Annotated[tuple[Text, ...], Field(min_length=1)] | None,
    BeforeValidator(bound_texts),
    Field(json_schema_extra={"type": ["string", "number", "array", "null"]}),
]


class KeyRange(Section):
    """Keys after `low`, up to and including `high`."""

    low: KeyBound = Field(
        default=None,
        description="Key, or list of the values of its columns (or of the first few), after which the range begins; "
        "this key itself is not part of it. Null: from the first key, in a phase from the first of the scope.",
    )
    high: KeyBound = Field(
        default=None,
        description="Key up to which the range goes; it is part of it. Null: to the last key, in a phase to the last "
        "of the scope.",
    )


def _range_section(value: object) -> object:
    return {} if value is None else value


AnyRange = Annotated[KeyRange, BeforeValidator(_range_section)]


class Scope(Section):
    """Which documents are rebuilt. Everything the query returns, when left out."""

    where: Annotated[Text, AfterValidator(clean_predicate)] | None = Field(
        default=None,
        description="SQL predicate over the columns of the query's result. Null: all rows, because a rebuilt "
        "index that lacks documents must be asked for.",
    )
    keys: AnyRange = Field(default_factory=KeyRange)

    @property
    def partial(self) -> bool:
        """Whether documents of the query are left out."""
        return self.where is not None or self.keys != KeyRange()

    def __str__(self) -> str:
        parts = [self.where] if self.where is not None else []
        if self.keys != KeyRange():
            parts.append(describe_range(self.keys.low, self.keys.high))
        return "; ".join(parts) or "everything the query returns"


def scope_of(spec: Mapping[str, Any]) -> Scope:
    """Of a spec as a plan holds it."""
    return Scope.model_validate(spec["scope"])


class Phase(Section):
    """A part of the copy: one key range of the scope."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,59}$")] = Field(
        description="Name of the phase: lowercase letters, digits, - and _, at most 60."
    )
    keys: AnyRange = Field(default_factory=KeyRange)
    depends_on: Annotated[tuple[Text, ...], BeforeValidator(one_or_more)] | None = Field(
        default=None,
        description="Phases above that must be copied before this one begins. Null: the one above, so that phases "
        "follow each other; []: none, it begins at once.",
        json_schema_extra={"type": ["string", "array", "null"]},
    )


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a field, by its dotted path."""

    field: str
    what: str
    remedy: str


def describe_range(low: Bound, high: Bound) -> str:
    """For people."""
    after = "" if low is None else f"after {', '.join(low)}"
    up_to = "" if high is None else f"up to {', '.join(high)}"
    return "keys " + (" ".join(filter(None, (after, up_to))) or "from the first to the last")


def needed_phases(phases: Sequence[Phase], number: int) -> tuple[str, ...]:
    """The names of those that must be copied before the phase of that number begins."""
    asked = phases[number].depends_on
    if asked is not None:
        return asked
    return (phases[number - 1].name,) if number else ()


def phase_range(scope: KeyRange, phase: Phase) -> tuple[Bound, Bound]:
    """The keys of a phase; its open ends are those of the scope."""
    keys = phase.keys
    return scope.low if keys.low is None else keys.low, scope.high if keys.high is None else keys.high


def in_key_order(scope: KeyRange, phases: Sequence[Phase]) -> list[int]:
    """The numbers of the phases as they lie end to end, from the low bound of the scope on as far as they do. Bounds
    are compared as text: which of two is the lower one PostgreSQL knows alone."""
    ranges = [phase_range(scope, phase) for phase in phases]
    by_low: dict[Bound, int] = {}
    for number, (low, _) in enumerate(ranges):
        by_low.setdefault(low, number)
    order: list[int] = []
    place = scope.low
    while (found := by_low.pop(place, None)) is not None:
        order.append(found)
        place = ranges[found][1]
        if place == scope.high:
            break
    return order


def scope_faults(scope: Scope, phases: Sequence[Phase], key: Sequence[str]) -> Iterator[Fault]:
    """What is wrong with scope and phases, as far as it can be told without the source."""
    ranges = [("scope.keys", scope.keys), *((f"phases.{n}.keys", phase.keys) for n, phase in enumerate(phases))]
    for field, one in ranges:
        for end, bound in (("low", one.low), ("high", one.high)):
            if bound is not None and len(bound) > len(key):
                what = f"{field}.{end} has {len(bound)} values, and the key {len(key)} ({', '.join(key)})"
                yield Fault(f"{field}.{end}", what, "give one value for each column of the key, or for the first few")
    yield from _name_faults(phases)
    if phases:
        yield from _tile_faults(scope.keys, phases)


def _name_faults(phases: Sequence[Phase]) -> Iterator[Fault]:
    above: list[str] = []
    names = [phase.name for phase in phases]
    for number, phase in enumerate(phases):
        if phase.name in above:
            yield Fault(f"phases.{number}.name", f"there are two phases {phase.name!r}", "rename one of them")
        for place, name in enumerate(phase.depends_on or ()):
            if name in above:
                continue
            known = f"phase {name!r} does not come before it" if name in names else f"there is no phase {name!r}"
            remedy = "move it above this one" if name in names and name != phase.name else "name phases above this one"
            yield Fault(
                f"phases.{number}.depends_on.{place}", f"phase {phase.name!r} depends on it, but {known}", remedy
            )
        above.append(phase.name)


def _tile_faults(scope: KeyRange, phases: Sequence[Phase]) -> Iterator[Fault]:
    order = in_key_order(scope, phases)
    reached = phase_range(scope, phases[order[-1]])[1] if order else scope.low
    if not order or reached != scope.high:
        place = f"after {', '.join(reached or ())}" if order else "where the scope begins"
        remedy = "let one phase's `low` be the `high` of another, written alike, throughout the scope"
        yield Fault("phases", f"the phases leave a gap: none begins {place}", remedy)
        return
    for number, phase in enumerate(phases):
        if number not in order:
            what = f"phase {phase.name!r} overlaps the others, which cover the scope without it"
            yield Fault(f"phases.{number}.keys", what, "each key belongs to one phase alone")
