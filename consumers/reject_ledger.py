"""What the records of `rejects` say, folded: each key once, with what became of it. Pure: no I/O."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

from reshelve.schemas.reject import Reject, Resolution

_QUOTED: Final = re.compile(r"""(?<!\w)(?:'.*?'|".*?")(?!\w)""", re.DOTALL)
_NUMBER: Final = re.compile(r"(?<![\w#])[-+]?\d+(?:[.,]\d+)*(?!\w)")

Status: TypeAlias = Literal["open", "superseded", "waived", "redriven"]


@dataclass(frozen=True, slots=True)
class RejectedKey:
    """A key that was rejected.

    reject      of its highest version, the newest of those; without the document
    size        bytes of the document; None where the record carries none
    first, last when it was rejected first and last, milliseconds since 1970 UTC
    place       offset in `rejects` of the reject
    resolution  None: it is open, unless something newer of the key was accepted
    """

    reject: Reject
    size: int | None
    first: int
    last: int
    place: int
    resolution: Resolution | None = None

    @property
    def key(self) -> str:
        return self.reject.key

    def status(self, superseded: Set[str]) -> Status:
        """`superseded`: keys of which the source has made something newer that was accepted."""
        if self.resolution is not None:
            return self.resolution.how
        return "superseded" if self.key in superseded else "open"


class RejectLedger:
    """The newest word about each rejected key. Holds no documents: these may be large."""

    def __init__(self) -> None:
        self._keys: dict[str, RejectedKey] = {}
        self._unresolved: set[str] = set()

    def take(self, record: Reject | Resolution, at: int = 0, place: int = -1) -> None:
        """One more record, in the order of the topic. `at`: when it was written, milliseconds since 1970 UTC."""
        known = self._keys.get(record.key)
        if isinstance(record, Resolution):
            if known is not None:
                self._keep(replace(known, resolution=record))
            return
        size = None if record.document is None else len(record.document)
        found = RejectedKey(replace(record, document=None), size, at, at, place)
        if known is None:
            self._keep(found)
        elif _is_news(record, known):
            self._keep(replace(found, first=known.first))
        else:
            self._keep(replace(known, last=at))

    def __iter__(self) -> Iterator[RejectedKey]:
        return iter(self._keys.values())

    def get(self, key: str) -> RejectedKey | None:
        return self._keys.get(key)

    @property
    def unresolved(self) -> int:
        """Keys whose newest record is a reject: those that are open, and those that are superseded."""
        return len(self._unresolved)

    def waived(self) -> dict[bytes, Resolution]:
        """The keys that are waived, each with who answers for it."""
        return {
            one.key.encode(): one.resolution
            for one in self
            if one.resolution is not None and one.resolution.how == "waived"
        }

    def _keep(self, one: RejectedKey) -> None:
        self._keys[one.key] = one
        (self._unresolved.discard if one.resolution else self._unresolved.add)(one.key)


def _is_news(reject: Reject, known: RejectedKey) -> bool:
    """Whether a reject counts as the newest word about its key. A record that is delivered again after a crash is
    rejected again: that is none, and opens nothing that was resolved. Nor is a page that comes late."""
    resolved = known.resolution
    if reject.version is None:
        return True
    if resolved is not None and resolved.how == "waived" and resolved.version is not None:
        return reject.version > resolved.version
    return known.reject.version is None or reject.version >= known.reject.version


@dataclass(frozen=True, slots=True)
class RejectGroup:
    """Rejects with one reason.

    name         short, derived from the reason: the same in every run
    reason       with `…` for quoted values and `#` for numbers
    statuses     number of keys in each status that occurs
    first, last  when the first and the last of them was rejected, milliseconds since 1970 UTC
    """

    name: str
    stage: str
    kind: str
    reason: str
    statuses: Mapping[Status, int]
    keys: tuple[str, ...]
    first: int
    last: int


def mask(reason: str) -> str:
    """The reason without what differs from document to document: values in quotes, and numbers."""
    return _NUMBER.sub("#", _QUOTED.sub("'…'", reason))


def group_name(reject: Reject) -> str:
    """Of the group that a reject is in."""
    text = "\0".join((reject.stage, reject.kind, mask(reject.reason)))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def group(rejected: Iterable[RejectedKey], superseded: Set[str] = frozenset()) -> list[RejectGroup]:
    """The groups, largest first; in each the keys in their order."""
    members: dict[str, list[RejectedKey]] = {}
    for one in rejected:
        members.setdefault(group_name(one.reject), []).append(one)
    found = [_group(name, ones, superseded) for name, ones in members.items()]
    return sorted(found, key=lambda one: (-len(one.keys), one.stage, one.kind, one.reason))


def _group(name: str, members: list[RejectedKey], superseded: Set[str]) -> RejectGroup:
    statuses: dict[Status, int] = {}
    for one in members:
        status = one.status(superseded)
        statuses[status] = statuses.get(status, 0) + 1
    sample = members[0].reject
    return RejectGroup(
        name,
        sample.stage,
        sample.kind,
        mask(sample.reason),
        statuses,
        tuple(sorted(one.key for one in members)),
        min(one.first for one in members),
        max(one.last for one in members),
    )


def waivers(resolutions: Iterable[Resolution]) -> str:
    """Who waived how many, and why, oldest first: "3 waived by ada: test data"; empty when nothing is."""
    counts: dict[tuple[str, str], int] = {}
    for one in sorted(resolutions, key=lambda one: one.at):
        counts[one.by, one.why] = counts.get((one.by, one.why), 0) + 1
    return "; ".join(f"{number:,} waived by {by}: {why}" for (by, why), number in counts.items())
