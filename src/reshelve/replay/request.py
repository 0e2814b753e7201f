"""What a replay is asked for, and how the journal has it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from reshelve.consumers.alias import Alias
from reshelve.consumers.replay import Start
from reshelve.errors import UsageError
from reshelve.journal import Event
from reshelve.model import RunId

BEGUN: Final = "replaying"
ENDED: Final = "replayed"


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for.

    to          the index to make, or an alias of the run's own (`aimed`); None: the run's own is written to
    definition  of that index, in place of the plan's
    keys        documents and tombstones of these keys only; None: of all
    """

    start: Start = field(default_factory=Start)
    to: str | None = None
    definition: Mapping[str, Any] | None = None
    keys: frozenset[bytes] | None = None

    def id(self, run: RunId) -> str:
        """The same for the same replay of the same run."""
        keys = None if self.keys is None else sorted(key.decode("utf-8", "surrogateescape") for key in self.keys)
        asked = [str(run), asdict(self.start), self.to, self.definition, keys]
        text = json.dumps(asked, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def require(self) -> None:
        """Raises UsageError when it makes no sense."""
        if self.to is None and self.definition is not None:
            raise UsageError(
                "--definition goes with --to",
                why="the run's own index has its definition",
                remedy="name the index to make with --to",
            )
        if self.to is not None and not self.start.is_beginning:
            raise UsageError(
                "a new index is made from the beginning of the topic",
                why="made of its later part, it would lack documents",
                remedy="leave --from-offset and --from-time out, or --to",
            )
        if self.keys is not None and not self.keys:
            raise UsageError("there are no keys to replay", remedy="name some, or leave --keys-file out")


def aimed(request: Request, held: Alias, own: str) -> Request:
    """The request by what its name `to` stands for: the run's own index, by its name or by an alias that points to it
    alone, or a new index, where the name is free. Pure. Raises UsageError for anything else.

    held  what the name stands for now; own: the run's index"""
    if held.is_data_stream:
        raise _exists(held.name, "it is a data stream")
    if not held.is_index and not held.indexes:
        return request
    there = (held.name,) if held.is_index else held.indexes
    if there == (own,):
        return replace(request, to=None)
    if held.is_index:
        raise _exists(held.name, "it is an index, and not the run's own")
    if len(there) > 1:
        raise _exists(
            held.name, f"it is an alias of {', '.join(there)}: which one is meant is not for Reshelve to guess"
        )
    raise _exists(held.name, f"it is an alias of index {there[0]}, which is not the run's own ({own})")


def _exists(name: str, why: str) -> UsageError:
    return UsageError(
        f"{name} exists already",
        why=f"{why}; a replay goes into the run's own index or makes a new one, and touches no other",
        remedy="choose another name, or delete that index",
    )


@dataclass(frozen=True, slots=True)
class Task:
    """A replay that was begun, as the journal has it. `uuid` is empty until a new index is there."""

    id: str
    group: str
    index: str
    write_alias: str
    uuid: str
    own: bool
    starts: dict[int, int]
    ends: dict[int, int]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Task:
        """The inverse of `as_dict`, by way of JSON."""
        numbers = {name: {int(p): int(offset) for p, offset in data[name].items()} for name in ("starts", "ends")}
        return cls(**{**data, **numbers})


def unfinished(events: Iterable[Event], id: str) -> Task | None:
    """The replay of that name that was begun and has not ended. Pure."""
    found: Task | None = None
    for event in events:
        if event.kind in (BEGUN, ENDED) and event.data.get("id") == id:
            found = Task.of(event.data) if event.kind == BEGUN else None
    return found
