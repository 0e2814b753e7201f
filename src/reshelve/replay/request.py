"""What a replay is asked for, and how the journal has it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from reshelve.consumers.replay import Start
from reshelve.errors import UsageError
from reshelve.journal import Event
from reshelve.model import RunId

BEGUN: Final = "replaying"
ENDED: Final = "replayed"


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for.

    to          the index to make; None: the run's own is written to
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
