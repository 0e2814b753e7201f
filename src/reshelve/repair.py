"""Repair: exactly the keys that a check found drifted are read again and written, and then checked again.

The order, in `Repair.run`:

1. keys that can't be one of the source are deleted from the index, each as it was seen: no key reader could read them
2. the other keys are written to `changes` as key tasks; a reader makes a document of each, or a tombstone
3. wait until they are durably indexed (`Passage`)
4. check them again, directly (`Recheck`); those that are right are settled
5. where a foreign version is ahead of the source's clock, make way for ours (`consumers/foreign.py`)
6. again from 2 with those that are left, some times

Nothing is written but through the key readers and the indexers, so a follower may work beside, and a repair that was
killed is begun again with a new check.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Final

from reshelve.consumers.foreign import forget_deletes, remove_exactly
from reshelve.crew import is_fed
from reshelve.drifted import DriftedKeys
from reshelve.errors import BlockedError
from reshelve.passage import Passage
from reshelve.producers.key_tasks import write_key_tasks
from reshelve.producers.possible_keys import impossible_keys
from reshelve.producers.source import source_session
from reshelve.recheck import Recheck
from reshelve.session import Session

LISTED: Final = 100
_TRIES: Final = 3
_SAY_S: Final = 5.0
_CHANGED: Final = "it can't be a key of the source, and was changed since the check"

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Repaired:
    """What a repair did.

    keys      drifted keys by class
    writes    what became of them: document (written again), tombstone, removed (from the index alone)
    made_way  documents of foreign versions, ahead of the source's clock, that were deleted before
    left      keys by class that are not right; reasons: of the first of them, (key, class, why)
    """

    run: str
    index: str
    check: str
    at: str
    seconds: float
    keys: Mapping[str, int]
    writes: Mapping[str, int]
    made_way: int
    left: Mapping[str, int]
    reasons: tuple[tuple[str, str, str], ...]

    @property
    def clean(self) -> bool:
        """Whether nothing is left."""
        return not self.left

    def summary(self) -> str:
        """One line for people."""
        text = f"{sum(self.keys.values()):,} drifted keys: {_listed(self.writes) or 'none'} written"
        return text + (f"; left: {_listed(self.left)}" if self.left else "; checked again: no difference")

    def as_dict(self) -> dict[str, Any]:
        """For the journal, `--json` and the report."""
        return {
            "run": self.run,
            "index": self.index,
            "check": self.check,
            "at": self.at,
            "seconds": self.seconds,
            "summary": self.summary(),
            "keys": dict(self.keys),
            "writes": dict(self.writes),
            "made_way": self.made_way,
            "left": dict(self.left),
            "reasons": [{"key": key, "class": drift, "why": why} for key, drift, why in self.reasons],
        }


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


class Pulse:
    """Calls `beat` when it is called, but once in `every` seconds at most."""

    def __init__(self, beat: Callable[[], None], every: float = 1.0) -> None:
        self._beat, self._every, self._next = beat, every, 0.0

    def __call__(self) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + self._every
            self._beat()


@dataclass(frozen=True)
class Repair:
    """Repairs one run's index. `tend` keeps key readers and indexers going, waits a moment, and may raise."""

    session: Session
    tend: Callable[[], None]
    say: Say

    @cached_property
    def pulse(self) -> Callable[[], None]:
        """`tend`, once a second at most: for loops that don't wait."""
        return Pulse(self.tend)

    def run(self, keys: DriftedKeys) -> Repaired:
        """Raises ReshelveError; what was written until then stays, and is right."""
        context, started = self.session.context, time.monotonic()
        found = keys.counts
        starts = context.cluster.written_ends(context.run.topic("documents"), context.partitions)
        rejects = context.cluster.written_ends(context.run.topic("rejects"), 1)[0]
        recheck = Recheck(context, starts, rejects, self._fed, self.pulse, self.say)
        self._remove_impossible(keys)
        made_way = 0
        for number in range(1, _TRIES + 1):
            if not self._write_again(keys):
                break
            self.say("checking the keys again")
            recheck.run(keys)
            if not keys.left:
                break
            self.say(f"left after {number} of {_TRIES} tries: {_listed(keys.left)}")
            if number < _TRIES and keys.open:
                made_way += self._make_way(keys)
        return Repaired(
            run=str(context.run),
            index=context.plan.index,
            check=keys.check,
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - started, 3),
            keys=found,
            writes={str(write): count for write, count in keys.writes.items()},
            made_way=made_way,
            left=keys.left,
            reasons=tuple((one.key, one.drift, why) for one, why in keys.reasons(LISTED)),
        )

    def _write_again(self, keys: DriftedKeys) -> int:
        """Steps 2 and 3; the number of keys."""
        context = self.session.context
        wanted = (one.key.encode() for page in keys.pages() for one in page)
        number, ends = write_key_tasks(context.cluster, context.run, wanted, context.partitions, self._waiting)
        if not number:
            return 0
        passage, told, fed = Passage(context.cluster, context.run, ends), 0.0, self._fed()
        while not passage.done():
            if time.monotonic() - told > _SAY_S:
                told = time.monotonic()
                if fed and not self._fed():
                    raise self._left_alone()
                self.say(f"{number:,} keys are read again: {passage.stage} at work")
            self.tend()
        return number

    def _fed(self) -> bool:
        return is_fed(self.session.context, self.session.state)

    def _left_alone(self) -> BlockedError:
        """Its key readers and indexers were to do the work."""
        return BlockedError(
            "the process that follows the run has ended",
            where=str(self.session.context.run),
            why="its key readers and indexers are not there any more",
            remedy=f"`reshelve follow {self.session.context.run}`, or repair again: that does without",
        )

    def _remove_impossible(self, keys: DriftedKeys) -> None:
        """Step 1. A key task of such a key would stop the key readers, those of a follower too."""
        context = self.session.context
        with source_session(context.spec.source.postgres.url, "reshelve repair") as connection:
            for page in keys.pages():
                seen = {one.key: one.found for one in page}
                bad = impossible_keys(connection, context.plan.source.key, list(seen))
                there = {key: version for key in bad if (version := seen[key]) is not None}
                removed = remove_exactly(context.opensearch, context.plan.index, context.plan.write_alias, there)
                for key in bad:
                    if key in removed:
                        keys.settle(key, "removed")
                    else:
                        keys.leave(key, _CHANGED, final=True)
                self.pulse()

    def _make_way(self, keys: DriftedKeys) -> int:
        """Step 5, for those keys alone that another version is ahead of; how many were deleted. What somebody else's
        delete has left behind does not show: it is forgotten with ours."""
        context, number = self.session.context, 0
        for ahead in keys.ahead():
            removed = remove_exactly(context.opensearch, context.plan.index, context.plan.write_alias, ahead)
            number += len(removed)
            self.pulse()
        if number:
            self.say(f"made way for {number:,} documents: foreign versions were ahead of the source's clock")
        definition, following = context.plan.definition, self.session.state.following
        forget_deletes(context.opensearch, context.plan.index, definition, followed=following)
        return number

    def _waiting(self, why: str) -> None:
        if why:
            self.say(why)
        self.pulse()
