"""The index of a run looked after: validated, and where it has drifted repaired."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from reshelve.children import beside
from reshelve.consumers.adoption import put_private_alias
from reshelve.crew import CrewOptions, crew, is_fed
from reshelve.drifted import DriftedKeys, drifted_keys
from reshelve.errors import BlockedError, Interrupted, UsageError
from reshelve.progress import read_tiling
from reshelve.repair import Repair, Repaired
from reshelve.repair_report import save_repair
from reshelve.session import Session
from reshelve.validator.coordinator import validate
from reshelve.validator.full_check import begin
from reshelve.validator.levels import Levels
from reshelve.validator.verdict import Validation

Say = Callable[[str], None]


@dataclass(frozen=True)
class Upkeep:
    """What can be done with the index of `session`'s run, beside whoever follows it.

    stop  set by Ctrl-C: what is under way ends with Interrupted"""

    session: Session
    options: CrewOptions
    stop: threading.Event
    say: Say

    def validate(self, names: Collection[str], *, rate: float | None = None, record: bool = True) -> Validation:
        """Compare at these levels (none: those of the spec; of an adopted index "full"), with a validator of our own.

        rate    documents a second that level "full" may compare; None: as the run's limits say
        record  in the journal, which makes a comparison of level "full" one that can be gone on with
        Where nobody follows the source's changes now, what it has changed is drift, too. Raises ReshelveError."""
        session, context = self.session, self.session.context
        levels = Levels.chosen(names, context.spec.validation, adopted=context.plan.adopted)
        began = None
        if levels.full and record:
            began = begin(context, levels.names, session.state.facts, session.record, self.say)
        self._restore_places()
        known = session.state.facts
        unfinished = "completed" not in known
        live = context.plan.changes.followed if unfinished else is_fed(context, session.state)
        # An unfinished run has no workers at all now: those that follow its changes are ours to start.
        ours = unfinished and "slot" in known and "slot_dropped" not in known
        options = self.options if ours else replace(self.options, key_readers=0, indexers=0)

        def work() -> Validation:
            tiling = read_tiling(context)
            return validate(context, tiling, levels=levels, live=live, began=began, rate=rate, report=self.say)

        with crew(context, session.state, options, tailers=int(ours), validators=1, say=self.say) as tend:
            found = beside(work, lambda: self._tend(tend))
        if record:
            session.record("validated", found.as_dict())
        return found

    @contextmanager
    def drifted(self, check: str) -> Iterator[DriftedKeys]:
        """The drifted keys of a check. Raises ReshelveError."""
        context = self.session.context
        with drifted_keys(context.cluster, context.run, context.partitions, check) as keys:
            yield keys

    def ahead(self, keys: DriftedKeys) -> int:
        """How many of the keys have a version ahead of the source's clock as it is now: mostly these make way. Raises
        ReshelveError."""
        return keys.above(self.session.context.version_now("reshelve repair")) if keys.counts else 0

    def repair(self, keys: DriftedKeys) -> Repaired:
        """Repair the keys, and say so in the journal and in a report. Raises ReshelveError."""
        context, state = self.session.context, self.session.state
        self._restore_places()
        if context.plan.adopted:
            plan = context.plan
            put_private_alias(context.opensearch, plan.index, plan.write_alias, state.index_uuid)
        with crew(context, state, self.options, say=self.say) as tend:
            found = Repair(self.session, lambda: self._tend(tend), self.say).run(keys)
        self.session.record("repaired", found.as_dict())
        save_repair(found, self.options.reports, self.say)
        return found

    def _restore_places(self) -> None:
        """The brokers forget the offsets of a group that nobody is in for some days (`offsets.retention.minutes`). Of a
        run that nobody is to follow any more they are put at the ends: what was not passed then shows as drift. One
        that is to be followed must not overlook it."""
        context, cluster = self.session.context, self.session.context.cluster
        if self.session.state.following or "completed" not in self.session.state.facts:
            return
        for role, name in (("keys", "changes"), ("indexer", "documents")):
            topic = context.run.topic(name)
            ends = cluster.written_ends(topic, context.partitions)
            cluster.start_group(context.run.group(role), topic, context.partitions, ends)

    def _tend(self, tend: Callable[[], None]) -> None:
        if self.stop.is_set():
            raise Interrupted(
                "stopped as asked for",
                where=self.session.context.plan.index,
                why="what was written until then is right",
                remedy="the same command again looks anew, and goes on",
            )
        self.session.lease.poll()
        tend()


def require_known(keys: DriftedKeys, run: str) -> None:
    """Raises UsageError where a check that was named has no drifted keys: it is no check, or found none."""
    if not keys.counts:
        raise UsageError(
            f"check {keys.check!r} has no drifted keys",
            where=run,
            why="it found none, or there was no such check",
            remedy=f"see the names of checks in `reshelve validate {run} --json`, or repair without --check",
        )


def require_keys(keys: DriftedKeys, found: Validation, say: Say) -> None:
    """Raises BlockedError where a check found differences, but no key that drifted."""
    if found.clean or keys.counts:
        for fault in found.faults:
            say(f"this is of no one key, and is not repaired: {fault}")
        return
    raise BlockedError(
        "the validation found what no key can be repaired for",
        where=found.check,
        why="; ".join(found.faults) or found.summary(),
        remedy="see the report of the validation; a new run builds the index anew",
    )
