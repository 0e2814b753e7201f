"""What a run is told while it goes on, and what stands of it.

    pause, resume   no work is taken, or it is taken again; with `ignore_window` also while the window is closed, once
    hold, release   the same from the run's driver: the window is closed, or a stop signal is up
    throttle        limits that stand for those of the spec; `reset` takes back what was said before
    rate            what the driver's adaptive throttle allows now
    abort           the run ends
    retire          the following of a run that has completed ends

What stands is a pure fold over all commands since the run began: whoever reads them comes to the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

_LIMITS: Final = ("documents_per_second", "megabytes_per_second")
OF_THE_DRIVER: Final = frozenset({"rate"})
"""Commands that say nothing new to the journal: its checkpoints hold what they say."""


@dataclass(frozen=True, slots=True)
class Command:
    """A record of `control`.

    at      milliseconds since 1970 UTC, by the clock of who sent it
    by      a person, or what in the driver
    values  what the kind needs besides
    offset  its place in the topic
    """

    kind: str
    at: int
    by: str
    why: str
    values: Mapping[str, Any] = field(default_factory=dict)
    offset: int = -1

    def as_dict(self) -> dict[str, Any]:
        """For the journal."""
        asked_at = datetime.fromtimestamp(self.at / 1000, UTC).isoformat(timespec="milliseconds")
        facts = {"kind": self.kind, "asked_at": asked_at, "by": self.by, "why": self.why}
        return facts | {"offset": self.offset, **self.values}


@dataclass(frozen=True, slots=True)
class Pause:
    """Why a run takes no work.

    held   by the run's driver, and not by a person
    since  ISO 8601 UTC
    """

    by: str
    why: str
    since: str
    held: bool

    def next(self, run: str) -> str:
        """The command that ends it."""
        if not self.held:
            return f"reshelve resume {run}"
        if self.by == "window":
            return f"wait: it goes on by itself; reshelve resume {run} --ignore-window does not"
        return "wait: it goes on by itself once the signal is gone"

    @property
    def text(self) -> str:
        """For people."""
        return f"paused by {self.by} since {self.since}: {self.why or 'no reason given'}"

    def as_dict(self) -> dict[str, Any]:
        """For status, journal and `--json`."""
        return {"by": self.by, "why": self.why, "since": self.since}


@dataclass(frozen=True, slots=True)
class Bounds:
    """How fast a run may work, over all its workers; None: as fast as it goes.

    source  who says so: the spec, an operator, or the adaptive throttle with what made it"""

    documents_per_second: float | None
    megabytes_per_second: float | None
    source: str

    @property
    def any(self) -> bool:
        """Whether there is a limit."""
        return self.documents_per_second is not None or self.megabytes_per_second is not None

    @property
    def text(self) -> str:
        """For people."""
        said = []
        if self.documents_per_second is not None:
            said.append(f"{self.documents_per_second:,.4g} documents/s")
        if self.megabytes_per_second is not None:
            said.append(f"{self.megabytes_per_second:,.4g} MB/s")
        return f"{' and '.join(said) or 'none: as fast as it goes'} ({self.source})"

    def as_dict(self) -> dict[str, Any]:
        """For status, journal and `--json`."""
        figures = {"documents_per_second": self.documents_per_second, "megabytes_per_second": self.megabytes_per_second}
        return figures | {"source": self.source}


@dataclass(frozen=True, slots=True)
class ControlState:
    """What stands of the commands so far.

    paused   by a person
    held     by the driver
    resumed  the newest `resume`
    limits   those that an operator has set, by the names of the spec's; what is not there is as in the spec
    limited  the newest `throttle`
    rate     the newest `rate`
    """

    paused: Command | None = None
    held: Command | None = None
    resumed: Command | None = None
    limits: Mapping[str, float | None] = field(default_factory=dict)
    limited: Command | None = None
    rate: Command | None = None
    aborted: Command | None = None
    retired: bool = False

    def take(self, command: Command) -> ControlState:
        """What stands after one more. An unknown kind, of a newer release, changes nothing."""
        match command.kind:
            case "pause":
                return replace(self, paused=command)
            case "resume":
                return replace(self, paused=None, resumed=command)
            case "hold":
                return replace(self, held=command)
            case "release":
                return replace(self, held=None)
            case "throttle":
                before = {} if command.values.get("reset") else self.limits
                said = {name: command.values[name] for name in _LIMITS if name in command.values}
                return replace(self, limits={**before, **said}, limited=command)
            case "rate":
                return replace(self, rate=command)
            case "abort":
                return replace(self, aborted=command)
            case "retire":
                return replace(self, retired=True)
        return self

    @property
    def pause(self) -> Pause | None:
        """Why no work is taken; a person's word before the driver's."""
        stands = self.paused or self.held
        if stands is None:
            return None
        since = datetime.fromtimestamp(stands.at / 1000, UTC).isoformat(timespec="seconds")
        return Pause(stands.by, stands.why, since, stands is self.held)

    def bounds(self, documents_per_second: float | None, megabytes_per_second: float | None) -> Bounds:
        """What holds now, given the limits of the spec: an operator's word instead of them, and the adaptive throttle
        within both."""
        documents = self.limits.get("documents_per_second", documents_per_second)
        megabytes = self.limits.get("megabytes_per_second", megabytes_per_second)
        source = f"set by {self.limited.by}" if self.limits and self.limited else "the spec's limits"
        allowed = self.rate.values.get("documents_per_second") if self.rate else None
        if self.rate is not None and allowed is not None and (documents is None or allowed < documents):
            documents, source = float(allowed), f"adaptive throttle: {self.rate.why}"
        return Bounds(documents, megabytes, source)


def fold_commands(commands: Iterable[Command]) -> ControlState:
    """What stands after all of them."""
    state = ControlState()
    for command in commands:
        state = state.take(command)
    return state
