"""What a spec leaves open that somebody has to decide, whether that blocks, and what to write. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import yaml

from reshelve.model import Bound
from reshelve.spec import Spec
from reshelve.spec.validation import Validation

LARGE_DOCUMENTS: Final = 72_000_000
"""Above it phases are proposed: an hour of copying at 20,000 documents a second, the slowest rate that plans assume.
Whoever answers for more wants to see parts of it end."""
_REASON: Final = "why: {kind: schema_change, reference: TICKET, text: what it is for}"

_VALIDATION: Final = """\
validation:
  counts: exact
  checksums: true
  samples_per_partition: 200"""


@dataclass(frozen=True, slots=True)
class Open:
    """What is missing: an error blocks."""

    field: str
    level: Literal["error", "warning"]
    what: str
    remedy: str


def open_inputs(spec: Spec) -> Iterator[Open]:
    """What nobody has said, in the order of the file. Where an approval is required, it blocks: nobody could tell what
    is approved."""
    level: Literal["error", "warning"] = "warning" if spec.approval.required == "none" else "error"
    if spec.owner is None:  # an error already where an approval is required
        yield Open("owner", "warning", "nobody answers for the reindex", "name somebody: `owner: search-team`")
    if spec.why is None:
        yield Open("why", level, "nobody has said why it is done", f"say so, e.g. `{_REASON}`")
    if unvalidated(spec.validation):
        what = "the result is not validated at all: nothing proves that the new index equals the source"
        yield Open("validation", level, what, f"write:\n{_indented(_VALIDATION)}")


def unvalidated(validation: Validation) -> bool:
    """Whether neither documents nor their number are compared with anything."""
    compared = validation.checksums or validation.samples_per_partition or validation.full
    return validation.counts == "off" and not compared


def wanted_phases(documents: int) -> int:
    """How many phases to propose for so many documents; 1: none."""
    return max(1, -(-documents // LARGE_DOCUMENTS))


def propose_phases(documents: int, low: Bound, bounds: Sequence[tuple[str, ...]], high: Bound) -> Open:
    """To copy so many documents in phases that end at these bounds."""
    what = (
        f"about {documents:,} documents are copied at once: more than an hour at {LARGE_DOCUMENTS // 3600:,} a second"
    )
    if not bounds:
        remedy = "cover the scope with several `phases`; there are no statistics to propose their bounds (ANALYZE)"
        return Open("scope", "warning", what, remedy)
    return Open("scope", "warning", what, f"copy it in phases:\n{_indented(phases_text(low, bounds, high))}")


def phases_text(low: Bound, bounds: Sequence[tuple[str, ...]], high: Bound) -> str:
    """The section `phases` whose key ranges meet at these bounds."""
    edges = [low, *bounds, high]
    phases = []
    for number in range(len(edges) - 1):
        ends = {"low": edges[number], "high": edges[number + 1]}
        keys = {name: _bound(bound) for name, bound in ends.items() if bound is not None}
        phases.append({"name": f"part{number + 1}", "keys": keys})
    lines = [yaml.safe_dump(phase, default_flow_style=True, sort_keys=False, width=1000).strip() for phase in phases]
    return "\n".join(["phases:", *(f"  - {line}" for line in lines)])


def _bound(bound: tuple[str, ...]) -> str | list[str]:
    return bound[0] if len(bound) == 1 else list(bound)


def _indented(text: str) -> str:
    return "\n".join(f"        {line}" for line in text.splitlines())
