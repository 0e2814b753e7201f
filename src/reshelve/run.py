"""The run: creates, copies, indexes, validates, swaps, closes; on one machine, in the foreground.

A run that was stopped, killed or blocked goes through the same stages again: each finds what is done
already (topics, index, tasks, receipts, offsets) and does only what is left.

    create    topics, consumer groups at offset 0, the index with its private write alias, publication and slot
    copy      the page tasks, phase by phase, until the receipts tile every segment; changes are followed from here on
    settle    the keys that changed during the copy once more
    index     until every partition is durably indexed up to where it then ends
    validate  topic against index, source against index, while both go on
    catchup   until what is not indexed yet is younger than limits.max_seconds_behind
    cutover   the gates, then one atomic swap of the alias
    close     what was committed before the swap is indexed, publication and slot are dropped; the report
    follow    with `follow: always` they are kept, and the index is kept after the source, until the run is retired

Without live changes (`changes: none`) there is nothing to settle and to catch up with.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from reshelve.abort import Ending, abort_run
from reshelve.approval.standing import require_approved, spend
from reshelve.consumers import generation
from reshelve.consumers.reject_picture import look_at_rejects
from reshelve.context import RunContext
from reshelve.cutover import cut_over, gather
from reshelve.errors import AbortedError, BlockedError, GateClosed, Interrupted, ReshelveError, Unreachable
from reshelve.gates import GateFacts, LiveFacts, gates, require_open
from reshelve.live import LiveChanges
from reshelve.model import facts
from reshelve.phases import PhasedCopy
from reshelve.progress import Progress, topics_gone
from reshelve.session import Session
from reshelve.state import RunState
from reshelve.supervision import FOLLOW, Observer, Options, Supervision
from reshelve.validator.coordinator import validate
from reshelve.validator.full_check import begin
from reshelve.validator.levels import Levels
from reshelve.validator.queries import QueriesVerdict, compare_queries
from reshelve.validator.recomputation import recompute
from reshelve.validator.verdict import Validation

_CUTOVER_RETRY_S: Final = 2.0
_SAY_S: Final = 60.0
_SWAP_ENDS_S: Final = 180.0  # a request whose answer is lost, and the alias read back: an abort has to see its end


class Run:
    """Drives one run through its stages. `stop` is set by Ctrl-C or SIGTERM."""

    def __init__(self, session: Session, options: Options, observer: Observer, stop: threading.Event) -> None:
        self._context, self._state, self._options = session.context, session.state, options
        self._watch = Supervision(session, options, observer, stop)
        self._followed = self._context.plan.changes.followed
        self._fed = False
        self._live = LiveChanges(self._context, self._state, self._watch.record, self._watch.say)

    def drive(self) -> RunState:
        """Go through the stages. Raises what ends the run early, after it is in the journal."""
        watch = self._watch
        try:
            self._go_unless_aborted()
        except AbortedError:
            watch.report()
            raise
        except (Interrupted, KeyboardInterrupt):
            watch.record_end("interrupted", {})
            raise
        except ReshelveError as error:
            if error.code != "lease":  # the journal is another process's now
                watch.record_end("blocked" if isinstance(error, BlockedError) else "failed", error.as_dict())
                watch.report()
            raise
        finally:
            watch.close()
            self._warn_of_slot()
        return self._state

    def _warn_of_slot(self) -> None:
        """What a run that has not come to its end leaves growing."""
        slot = self._state.facts.get("slot", {}).get("slot")
        if slot and self._context.plan.changes.mode == "replication" and "slot_dropped" not in self._state.facts:
            run = self._context.run
            ends = f"`reshelve retire {run}`" if self._state.following else f"`reshelve clean {run}`"
            self._watch.observer.say(f"slot {slot} keeps the source's WAL until the run goes on; {ends} drops it")

    def _go_unless_aborted(self) -> None:
        """Raises AbortedError once the run has come to that end."""
        try:
            self._go()
        except AbortedError:
            watch, asked = self._watch, self._watch.control.aborted
            assert asked is not None, "who aborted it?"
            watch.children.stop()
            if abort_run(self._context, self._state, asked, watch.record, watch.observer.say) is not Ending.COMPLETE:
                raise
            self._fed = False  # its workers are stopped
            self._close()

    def _go(self) -> None:
        if self._state.following:
            self._keep_following()
            return
        if "cutover" in self._state.facts:  # it ended between the swap and the report
            self._close()
            return
        self._watch.enter("create")
        require_approved(self._context, self._watch.record, self._watch.observer.say)
        if not self._state.index_uuid:
            self._watch.await_resume()
        self._create()
        self._copy()
        if self._options.until == "copied":
            self._stop_here("copied")
            return
        if self._followed:
            self._settle()
        self._watch.children.start("validator", 1)  # it takes seconds to join its group: meanwhile the rest is indexed
        self._index()
        self._watch.enter("validate")
        validation, live = self._validate()
        queries = self._compare_queries()
        if self._options.until == "validated":
            self._stop_here("validated")
            return
        if self._followed:
            self._catch_up()
        self._watch.enter("cutover")
        self._cut_over(validation, live, queries)
        self._close()

    def _copy(self) -> None:
        self._watch.enter("copy")
        self._watch.children.start("pages", self._options.page_readers)
        self._follow()
        copying = PhasedCopy(self._context, self._state, self._watch.record, self._watch.say)
        tiling = self._watch.until(lambda now: not copying.waits(now.tiling)).tiling
        while not tiling.faults and copying.due(tiling):
            self._watch.beside(partial(copying.go_on, tiling))
            tiling = self._watch.until(lambda now: not copying.waits(now.tiling)).tiling
        if tiling.faults:
            raise BlockedError(
                "the receipts do not tile the segments",
                where=self._context.run.topic("progress"),
                why="; ".join(tiling.faults[:5]),
                remedy="this should never be: keep the topics for a report of the fault, and start a new run",
            )
        self._watch.children.stop("pages")
        self._watch.record("copied", facts(tiling))

    def _follow(self) -> None:
        """Start what keeps the index after the source, where it does not run yet."""
        if self._fed:
            return
        self._fed = True
        if self._followed:
            self._watch.children.start("tailer", 1)
            self._watch.children.start("keys", self._options.key_readers)
        self._watch.children.start("indexer", self._options.indexers)

    def _settle(self) -> None:
        self._watch.enter("settle")
        ends = self._watch.beside(self._live.settle)
        self._watch.until(lambda now: all(now.key_positions.get(p, 0) >= end for p, end in ends.items()))

    def _index(self) -> None:
        """Up to where the topic ends now: with live changes it never ends. With those also up to the source as it is
        now: what was written while the run stood still is no difference for the validation to find."""
        self._watch.enter("index")
        context = self._context
        ends = self._watch.beside(
            lambda: context.cluster.written_ends(context.run.topic("documents"), context.partitions)
        )

        version = self._watch.beside(self._live.version_now) if self._followed else 0

        def indexed(now: Progress) -> bool:
            clocked = not self._followed or (now.applied_version or 0) >= version
            return clocked and all(now.committed.get(p, 0) >= end for p, end in ends.items())

        self._watch.record("drained", self._watch.until(indexed).as_dict())

    def _catch_up(self) -> None:
        self._watch.enter("catchup")
        self._await_closeness()

    def _await_closeness(self) -> None:
        """Until the index is less behind than the limit."""
        limit = self._context.spec.limits.max_seconds_behind
        self._watch.until(self._impatient(lambda now: now.seconds_behind is not None and now.seconds_behind < limit))

    def _impatient(self, close: Callable[[Progress], bool]) -> Callable[[Progress], bool]:
        """Says now and then why it may take for ever."""
        said, limit = time.monotonic(), self._context.spec.limits.documents_per_second

        def judged(now: Progress) -> bool:
            nonlocal said
            if time.monotonic() - said > _SAY_S:
                said = time.monotonic()
                behind = "not known yet" if now.seconds_behind is None else f"{now.seconds_behind:.0f} s"
                text = f"still catching up: behind {behind}"
                if limit is not None:
                    text += f"; does the source change faster than limits.documents_per_second, {limit:g}?"
                self._watch.observer.say(text)
            return close(now)

        return judged

    def _create(self) -> None:
        context, plan, run = self._context, self._context.plan, self._context.run
        if self._state.index_uuid:
            self._require_created()
        else:
            for topic in plan.topics:
                context.cluster.create_topic(
                    topic.name, topic.partitions, topic.config, context.spec.kafka.replication_factor
                )
            # Only now: later on, a group without offsets has lost them, and must not begin again at 0.
            context.cluster.start_group(run.group("pages"), run.topic("pages"), context.partitions)
            context.cluster.start_group(run.group("keys"), run.topic("changes"), context.partitions)
            context.cluster.start_group(run.group("indexer"), run.topic("documents"), context.partitions)
            uuid = generation.create(context.opensearch, plan.index, plan.write_alias, plan.definition)
            self._watch.record("created", {"index": plan.index, "uuid": uuid, "topics": [t.name for t in plan.topics]})
        if self._followed:
            self._watch.beside(self._live.begin, watch=self._watch.keep_lease)

    def _require_created(self) -> None:
        """A run that goes on must find what it made: made again, it would lack what was in it."""
        context, plan, known = self._context, self._context.plan, self._state.index_uuid
        missing = {topic.name for topic in plan.topics} - context.cluster.topics(context.run.prefix).keys()
        if missing:
            raise topics_gone(context, missing)
        found = generation.uuid(context.opensearch, plan.index)
        if found != known:
            raise BlockedError(
                f"index {plan.index} is not the one that the run made",
                where=plan.spec["target"]["opensearch"]["url"],
                why=f"its UUID is {found}, not {known}" if found else "it is gone, and what was indexed with it",
                remedy="start a new run with --new",
            )

    def _validate(self) -> tuple[Validation, LiveFacts | None]:
        """The validation; with live changes also what the gates need to know of it, counted once more."""
        validation = self._judge()
        if not self._followed:
            return validation, None
        recomputed = self._watch.beside(lambda: recompute(self._context, self._watch.say))
        return validation, LiveFacts(self._live.settled, recomputed.version, recomputed.ends, recomputed)

    def _judge(self) -> Validation:
        context, levels = self._context, Levels.of(self._context.spec.validation)
        began = None
        if levels.full:
            began = begin(context, levels.names, self._state.facts, self._watch.record, self._watch.say)
        validation = self._watch.beside(
            lambda: validate(context, self._watch.last.tiling, began=began, report=self._watch.observer.say)
        )
        self._watch.children.stop("validator")
        self._watch.record("validated", validation.as_dict())
        self._require_clean(validation)
        return validation

    def _compare_queries(self) -> QueriesVerdict | None:
        found = self._watch.beside(lambda: compare_queries(self._context, self._watch.say))
        if found is not None:
            self._watch.record("queries", found.as_dict())
        return found

    def _require_clean(self, validation: Validation) -> None:
        context, run, index = self._context, self._context.run, self._context.plan.index
        found = self._watch.beside(
            lambda: look_at_rejects(context.cluster, run, context.opensearch, index, context.partitions)
        )
        rejects = len(found.open)
        if rejects:
            raise BlockedError(
                f"{rejects} document{'s were' if rejects != 1 else ' was'} rejected; the rest is indexed",
                where=index,
                why=validation.summary(),
                remedy=f"`reshelve rejects list {run}` lists them with the reason; correct its cause and"
                f" `reshelve rejects redrive {run}`, or waive them, then run again",
            )
        if not validation.clean:
            raise BlockedError(
                "the validation found differences",
                where=index,
                why=validation.summary(),
                remedy=f"`reshelve validate {run}` lists the keys: what wrote to the index or the source meanwhile?"
                " Then run again, or anew with --new",
            )

    def _cut_over(self, validation: Validation, live: LiveFacts | None, queries: QueriesVerdict | None) -> None:
        if live is None:
            self._watch.children.stop("indexer")
        context, uuid = self._context, self._state.index_uuid

        def swap() -> None:
            found = gather(
                context, self._watch.last.tiling, validation, uuid, live, queries, report=self._watch.observer.say
            )
            swap_alias(context, found, self._watch.record, self._watch.say_unless_paused)

        while True:
            if self._watch.control.pause is not None:
                self._watch.until(lambda now: now.pause is None)
            try:
                self._watch.beside(swap, patience_s=_SWAP_ENDS_S)
                self._watch.observer.say(f"alias {context.plan.alias} now points to {context.plan.index}")
                return
            except Unreachable as error:  # each step looks first at what is done already
                self._watch.observer.say(f"the cut-over starts anew: {error}")
                self._watch.wait(_CUTOVER_RETRY_S)
            except GateClosed as error:
                if not error.passing:
                    raise
                self._watch.observer.say(f"waiting to cut over: {error.why}")
                if self._followed:
                    self._await_closeness()

    def _close(self) -> None:
        self._watch.enter("close")
        following = self._context.spec.follow == "always"
        if self._followed:
            self._index_what_came_before_the_swap()
            if not following:
                self._end_changes()
        self._watch.record("completed", {"message": "Reindex complete", "following": following})
        self._watch.report()
        if following:
            self._watch.follow_only()
            self._keep_following()

    def _index_what_came_before_the_swap(self) -> None:
        """Searches read the new index from now on: nothing that they could have found in the old one is missing."""
        if "slot_dropped" in self._state.facts:
            return
        self._follow()
        swapped = self._watch.beside(self._live.version_now)
        self._watch.until(lambda now: now.applied_version is not None and now.applied_version >= swapped)

    def _end_changes(self) -> None:
        self._watch.children.stop()
        self._live.end()

    def _keep_following(self) -> None:
        self._watch.enter(FOLLOW)
        self._watch.observer.say(f"following changes until `reshelve retire {self._context.run}`")
        self._follow()
        self._watch.until(lambda _: self._watch.control.retired)
        self._end_changes()
        self._watch.record("retired", {"why": "as asked for"})
        self._watch.report()

    def _stop_here(self, where: str) -> None:
        self._watch.children.stop()
        self._watch.record("stopped", {"until": where})
        self._watch.report()


def swap_alias(
    context: RunContext, found: GateFacts, record: Callable[[str, dict[str, Any]], None], say: Callable[[str], None]
) -> None:
    """The cut-over with its entries in the journal. Raises GateClosed, TargetRefused, Unreachable.

    The entry `cutover_began` is also the fence: who drove this reindex before can't get past writing it."""
    plan = context.plan
    judged = gates(found)
    record("gates", {"gates": [gate.as_dict() for gate in judged]})
    require_open(judged)
    spend(found.approval, record)
    move = {"alias": plan.alias, "from": plan.previous_index, "to": plan.index}
    record("cutover_began", move)
    health = cut_over(context, found, report=say)
    record("cutover", move | {"copies": facts(health)})
