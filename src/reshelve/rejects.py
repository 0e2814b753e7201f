"""Doing something about rejects: read them again, or answer for their not being in the index."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from reshelve.consumers.reject_ledger import RejectedKey, group_name
from reshelve.consumers.reject_picture import RejectPicture, look_at_rejects
from reshelve.consumers.rejects import read_rejects, write_resolutions
from reshelve.context import RunContext
from reshelve.crew import CrewOptions, crew
from reshelve.errors import UsageError
from reshelve.journal import read_journal
from reshelve.kafka import KafkaCluster
from reshelve.passage import Passage
from reshelve.producers.key_tasks import write_key_tasks
from reshelve.schemas.reject import Reject, Resolution
from reshelve.session import Session, attach, attach_beside
from reshelve.state import find_run, fold

_NAMED: Final = 100  # keys in an entry of the journal: it is bounded
_SAY_S: Final = 10.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which of a run's rejects are meant.

    keys    these; also when they are waived or superseded
    groups  the open ones of these groups, named as `reshelve rejects list` names them
    Neither: all that are open."""

    keys: Sequence[str] = ()
    groups: Sequence[str] = ()

    def of(self, picture: RejectPicture) -> list[RejectedKey]:
        """Raises UsageError for a key that was not rejected, and for a group without an open reject."""
        if self.keys:
            return [self._named(picture, key) for key in dict.fromkeys(self.keys)]
        if not self.groups:
            return list(picture.open)
        names = {one.key: group_name(one.reject) for one in picture.open}
        for wanted in self.groups:
            if wanted not in names.values():
                raise UsageError(
                    f"no open reject is in the group {wanted!r}",
                    remedy="`reshelve rejects list` with the run names the groups",
                )
        return [one for one in picture.open if names[one.key] in self.groups]

    def _named(self, picture: RejectPicture, key: str) -> RejectedKey:
        found = picture.ledger.get(key)
        if found is None:
            raise UsageError(f"key {key!r} was not rejected", remedy="`reshelve rejects list --all` lists the keys")
        return found


@dataclass(frozen=True, slots=True)
class Redriven:
    """What became of rejects that were read again.

    accepted  keys that are in the index as the source has them now, or are gone from both
    again     keys that were rejected again, now for this reason
    """

    accepted: tuple[str, ...]
    again: tuple[Reject, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON, bounded; the numbers are exact."""
        return {
            "accepted": len(self.accepted),
            "rejected_again": len(self.again),
            "keys": list(self.accepted[:_NAMED]),
            "keys_again": [one.key for one in self.again[:_NAMED]],
        }


def picture_of(context: RunContext) -> RejectPicture:
    """How the run's rejects stand now. Raises ReshelveError."""
    return look_at_rejects(context.cluster, context.run, context.opensearch, context.plan.index, context.partitions)


def attach_for_rejects(cluster: KafkaCluster, run: str, report: Say) -> Session:
    """The run, to do something about its rejects: one that has completed beside its follower, one that is Blocked in
    place of its driver. Raises LeaseHeld when it is driven, UsageError, SpecError."""
    state = find_run(fold(read_journal(cluster)), run)
    if "completed" in state.facts:
        return attach_beside(cluster, str(state.run), "redrive", report)
    if "created" not in state.facts or state.state == "aborted":
        raise UsageError(
            f"run {state.run} has no index to bring rejects into",
            why=f"it is {state.state} in stage {state.stage}",
            remedy="name a run that is Blocked, or has completed: `reshelve runs` lists them",
        )
    return attach(cluster, str(state.run), report)


def redrive(session: Session, selection: Selection, options: CrewOptions, say: Say) -> Redriven:
    """Have the selected keys read again from the source, as it is now, and indexed: never the old document, so that
    nothing newer is overwritten. What was accepted is recorded as redriven; the rest stays, with its new reason.

    `say` is told what is waited for (now and then nothing), and ends it by raising. Killed and done again it only
    costs. Raises ReshelveError."""
    context = session.context
    wanted = {one.key: one for one in selection.of(picture_of(context))}
    if not wanted:
        return Redriven((), ())
    start = context.cluster.written_ends(context.run.topic("rejects"), 1)[0]
    with crew(context, session.state, options, say=say) as tend:
        keys = [key.encode() for key in wanted]
        number, ends = write_key_tasks(context.cluster, context.run, keys, context.partitions, say)
        say(f"{number:,} keys are read again")
        _await(Passage(context.cluster, context.run, ends), tend, say)
    again = _rejected_since(context, start, wanted)
    accepted = [one for key, one in wanted.items() if key not in again]
    now = int(time.time() * 1000)
    resolved = [Resolution(one.key, "redriven", "", "", one.reject.version, now) for one in accepted]
    write_resolutions(context.cluster, context.run, resolved, say)
    found = Redriven(tuple(one.key for one in accepted), tuple(again.values()))
    session.record("redriven", found.as_dict())
    return found


def waive(session: Session, selection: Selection, by: str, why: str, say: Say) -> int:
    """Record that somebody answers for the selected keys not being in the index; how many they are.

    Raises UsageError when name or reason is missing, ReshelveError."""
    if not by.strip() or not why.strip():
        raise UsageError("a waiver needs a name and a reason", remedy="say them with --by and --why")
    context = session.context
    wanted = selection.of(picture_of(context))
    if wanted:
        now = int(time.time() * 1000)
        resolutions = [Resolution(one.key, "waived", by, why, one.reject.version, now) for one in wanted]
        write_resolutions(context.cluster, context.run, resolutions, say)
        keys = [one.key for one in wanted[:_NAMED]]
        session.record("waived", {"by": by, "why": why, "count": len(wanted), "keys": keys})
    return len(wanted)


def _await(passage: Passage, tend: Callable[[], None], say: Say) -> None:
    said = time.monotonic()
    while not passage.done():
        tend()
        say("")
        if time.monotonic() - said > _SAY_S:
            said = time.monotonic()
            say(f"waiting for the {passage.stage}")


def _rejected_since(context: RunContext, start: int, wanted: Iterable[str]) -> dict[str, Reject]:
    """Of these keys, those that have been rejected again since that offset of `rejects`. Equal versions count: while
    nobody writes to the source its clock stands still."""
    keys = set(wanted)
    return {
        record.key: record
        for record, _, _ in read_rejects(context.cluster, context.run, start)
        if isinstance(record, Reject) and record.key in keys
    }
