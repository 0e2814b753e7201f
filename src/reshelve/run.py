"""The run: creates, copies, indexes, validates, swaps, closes; on one machine, in the foreground.

A run that was stopped, killed or blocked goes through the same stages again: each finds what is done
already (topics, index, tasks, receipts, offsets) and does only what is left.

    create    topics, consumer groups at offset 0, the index with its private write alias, publication and slot, the
              page tasks
    copy      until the receipts tile every segment; changes are followed from here on
    settle    the keys that changed during the copy once more
    index     until every partition is durably indexed up to where it then ends
    validate  topic against index, source against index; key readers are held meanwhile
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from reshelve.children import Children, beside
from reshelve.consumers import generation
from reshelve.consumers.rejects import count_rejects
from reshelve.context import RunContext
from reshelve.control import ControlReader
from reshelve.cutover import GateFacts, LiveFacts, cut_over, gates, gather
from reshelve.errors import BlockedError, Interrupted, ReshelveError, Unreachable
from reshelve.journal import JournalWriter
from reshelve.lease import Lease
from reshelve.live import LiveChanges
from reshelve.model import facts
from reshelve.producers.tasks import seed_pages
from reshelve.progress import Progress, ProgressReader, topics_gone
from reshelve.report import save_report
from reshelve.session import follower_lease
from reshelve.state import RunState
from reshelve.validator.coordinator import validate
from reshelve.validator.recomputation import recompute
from reshelve.validator.verdict import Validation

T = TypeVar("T")
_TICK_S: Final = 0.2
_CHECKPOINT_S: Final = 5.0
_FOLLOWED_CHECKPOINT_S: Final = 600.0  # for years: the journal is kept for ever
_CUTOVER_RETRY_S: Final = 2.0
_REST_S: Final = 2.0  # without a new record: key readers that are told to hold have done their last batch


class Observer(Protocol):
    """Whoever watches: the terminal, or a log."""

    def stage(self, name: str) -> None: ...
    def progress(self, stage: str, progress: Progress) -> None: ...
    def say(self, text: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Options:
    """How a run is driven here; none of it changes what comes out.

    until                  "copied" or "validated" stops before the swap; None goes through
    page_readers, key_readers, indexers  workers on this machine; others may join from elsewhere
    reports                where report and logs go, in a folder named after the run
    """

    until: str | None
    page_readers: int
    key_readers: int
    indexers: int
    reports: Path
    environ: dict[str, str]


class Run:
    """Drives one run. `stop` is set by Ctrl-C or SIGTERM."""

    def __init__(
        self,
        context: RunContext,
        state: RunState,
        journal: JournalWriter,
        lease: Lease,
        options: Options,
        observer: Observer,
        stop: threading.Event,
    ) -> None:
        self._context, self._state, self._journal, self._lease = context, state, journal, lease
        self._options, self._observer, self._stop = options, observer, stop
        self._folder = options.reports / str(context.run)
        self._children = Children(str(context.run), options.environ, self._folder / "logs", self._on_death)
        self._reader: ProgressReader | None = None
        self._stage = ""
        self._checkpoint_at = 0.0
        self._checkpoint: dict[str, Any] = {}
        self._progress: Progress | None = None
        self._recording = threading.Lock()  # what is done beside the watching has entries of its own
        self._followed = context.plan.changes.followed
        self._live = LiveChanges(context, state, self._record, self._say_and_go_on)

    def drive(self) -> RunState:
        """Go through the stages. Raises what ends the run early, after it is in the journal."""
        try:
            self._go()
        except (Interrupted, KeyboardInterrupt):
            self._children.stop()
            self._write_end("interrupted", {"stage": self._stage})
            raise
        except BlockedError as error:
            self._children.stop()
            if error.code != "lease":  # the journal is another process's now
                self._write_end("blocked", error.as_dict() | {"stage": self._stage})
                self._report()
            raise
        except ReshelveError as error:
            self._children.stop()
            self._write_end("failed", error.as_dict() | {"stage": self._stage})
            self._report()
            raise
        finally:
            self._children.stop()
            if self._reader is not None:
                self._reader.close()
            self._lease.release()
        return self._state

    def _go(self) -> None:
        if self._state.following:
            self._keep_following()
            return
        if "cutover" in self._state.facts:  # it ended between the swap and the report
            self._close()
            return
        self._enter("create")
        self._create()
        self._reader = ProgressReader(self._context)
        self._copy()
        if self._options.until == "copied":
            self._stop_here("copied")
            return
        if self._followed:
            self._settle()
        self._children.start("validator", 1)  # it takes seconds to join its group: meanwhile the rest is indexed
        self._index()
        self._enter("validate")
        validation, live = self._validate()
        if self._options.until == "validated":
            self._stop_here("validated")
            return
        if self._followed:
            self._catch_up()
        self._enter("cutover")
        self._cut_over(validation, live)
        self._close()

    def _copy(self) -> None:
        self._enter("copy")
        self._children.start("pages", self._options.page_readers)
        self._follow()
        progress = self._until("copy", lambda now: now.tiling.complete or bool(now.tiling.faults))
        if progress.tiling.faults:
            raise BlockedError(
                "the receipts do not tile the segments",
                where=self._context.run.topic("progress"),
                why="; ".join(progress.tiling.faults[:5]),
                remedy="this should never be: keep the topics for a report of the fault, and start a new run",
            )
        self._children.stop("pages")
        self._record("copied", facts(progress.tiling))

    def _follow(self) -> None:
        """What keeps the index after the source."""
        if self._followed:
            self._children.start("tailer", 1)
            self._children.start("keys", self._options.key_readers)
        self._children.start("indexer", self._options.indexers)

    def _settle(self) -> None:
        self._enter("settle")
        ends = self._beside("settle", self._live.settle)
        self._until("settle", lambda now: all(now.key_positions.get(p, 0) >= end for p, end in ends.items()))

    def _index(self) -> None:
        """Up to where the topic ends now: with live changes it never ends."""
        self._enter("index")
        context = self._context
        ends = self._beside(
            "index", lambda: context.cluster.written_ends(context.run.topic("documents"), context.partitions)
        )
        progress = self._until("index", lambda now: all(now.committed.get(p, 0) >= end for p, end in ends.items()))
        self._record("drained", progress.as_dict())

    def _catch_up(self) -> None:
        self._enter("catchup")
        limit = self._context.spec.limits.max_seconds_behind
        self._until("catchup", lambda now: now.seconds_behind is not None and now.seconds_behind < limit)

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
            self._record("created", {"index": plan.index, "uuid": uuid, "topics": [t.name for t in plan.topics]})
        if self._followed:
            beside(self._live.begin, self._watch_lease)
        seed_pages(context.cluster, run, plan.segments, context.partitions, self._say_and_go_on)

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

    def _until(self, stage: str, done: Callable[[Progress], bool]) -> Progress:
        """Watch the workers until `done`; keep lease, journal and observer up to date."""
        while True:
            progress = self._tick(stage)
            if done(progress):
                self._write_checkpoint(progress, force=True)
                return progress

    def _go_on(self, stage: str) -> None:
        """Raises Interrupted when a stop was asked for."""
        if self._stop.is_set():
            raise Interrupted(
                f"stopped in stage {stage}",
                where=str(self._context.run),
                remedy="run the same command again: it resumes",
            )

    def _tick(self, stage: str) -> Progress:
        self._go_on(stage)
        assert self._reader is not None
        self._lease.poll()
        self._children.tend()
        progress = self._progress = self._reader.poll()
        limit = self._context.spec.limits.max_rejects
        if progress.rejects > limit:
            raise BlockedError(
                f"{progress.rejects} documents were rejected",
                where=self._context.run.topic("rejects"),
                why=f"limits.max_rejects allows {limit}",
                remedy=f"see them with `reshelve rejects list {self._context.run}`, correct the cause, run with --new",
            )
        self._observer.progress(stage, progress)
        self._write_checkpoint(progress)
        self._stop.wait(_TICK_S)
        return progress

    def _watch_lease(self) -> None:
        """For what takes its time before there are workers to watch."""
        self._go_on(self._stage)
        self._lease.poll()
        self._stop.wait(_TICK_S)

    def _beside(self, stage: str, work: Callable[[], T]) -> T:
        """Do something that blocks, while the workers are watched all the same."""
        return beside(work, lambda: self._tick(stage))

    def _validate(self) -> tuple[Validation, LiveFacts | None]:
        """The validation; with live changes also what the gates need of the moment at which nothing was added to the
        topic: everything in it was indexed, and counted once more."""
        if not self._followed:
            validation = self._judge()
            return validation, None
        with self._live.held():
            ends = self._await_rest()
            validation = self._judge()
            self._observer.say("recomputing counts and checksums for the gates")
            recomputed = self._beside("validate", lambda: recompute(self._context))
        settled = {int(p): end for p, end in self._state.facts["settled"]["ends"].items()}
        return validation, LiveFacts(settled, validation.version, ends, recomputed)

    def _judge(self) -> Validation:
        validation = self._beside(
            "validate", lambda: validate(self._context, self._last.tiling, report=self._observer.say)
        )
        self._children.stop("validator")
        self._record("validated", validation.as_dict())
        self._require_clean(validation, count_rejects(self._context.cluster, self._context.run))
        return validation

    def _await_rest(self) -> dict[int, int]:
        """Until nobody adds to the topic for a while, and all of it is indexed; where it ends."""
        since, last = time.monotonic(), dict[int, int]()

        def at_rest(now: Progress) -> bool:
            nonlocal since, last
            if now.ends != last:
                since, last = time.monotonic(), dict(now.ends)
            return now.drained and time.monotonic() - since > _REST_S

        return dict(self._until("validate", at_rest).ends)

    def _require_clean(self, validation: Validation, rejects: int) -> None:
        run, index = self._context.run, self._context.plan.index
        if rejects:
            raise BlockedError(
                f"{rejects} document{'s were' if rejects != 1 else ' was'} rejected; the rest is indexed",
                where=index,
                why=validation.summary(),
                remedy=f"`reshelve rejects list {run}` lists them with the reason; correct the mapping, the query or"
                " the transform, then `reshelve run --new`",
            )
        if not validation.clean:
            raise BlockedError(
                "the validation found differences",
                where=index,
                why=validation.summary(),
                remedy=f"`reshelve validate {run}` lists the keys: what wrote to the index or the source meanwhile?"
                " Then run again, or anew with --new",
            )

    def _cut_over(self, validation: Validation, live: LiveFacts | None) -> None:
        if live is None:
            self._children.stop("indexer")
        context, uuid = self._context, self._state.index_uuid

        def swap() -> None:
            found = gather(context, self._last.tiling, validation, uuid, live, report=self._observer.say)
            swap_alias(context, found, self._record, self._say_and_go_on)

        while True:
            try:
                self._beside("cutover", swap)
                self._observer.say(f"alias {context.plan.alias} now points to {context.plan.index}")
                return
            except Unreachable as error:  # each step looks first at what is done already
                self._observer.say(f"the cut-over starts anew: {error}")
                self._wait("cutover", _CUTOVER_RETRY_S)

    def _say_and_go_on(self, text: str) -> None:
        """For what may wait long, such as for copies before the swap: a stop that is asked for meanwhile ends it."""
        self._observer.say(text)
        self._go_on(self._stage)

    @property
    def _last(self) -> Progress:
        """The newest picture."""
        assert self._progress is not None
        return self._progress

    def _wait(self, stage: str, seconds: float) -> None:
        """Let time pass, and watch all the same."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._tick(stage)

    def _close(self) -> None:
        self._enter("close")
        following = self._context.spec.follow == "always"
        if self._followed:
            self._index_what_came_before_the_swap()
            if not following:
                self._end_changes()
        self._record("completed", {"message": "Reindex complete", "following": following})
        self._report()
        if following:
            self._let_newer_runs_begin()
            self._keep_following()

    def _index_what_came_before_the_swap(self) -> None:
        """Searches read the new index from now on: nothing that they could have found in the old one is missing."""
        if "slot_dropped" in self._state.facts:
            return
        if self._reader is None:
            self._reader = ProgressReader(self._context)
            self._follow()
        swapped = time.time()
        self._until("close", lambda now: now.applied_at is not None and now.applied_at / 1000 >= swapped)

    def _end_changes(self) -> None:
        self._children.stop()
        self._live.end()

    def _let_newer_runs_begin(self) -> None:
        """From here on only this run is ours, and no longer the reindex."""
        context = self._context
        lease = follower_lease(context.cluster, context.run, self._observer.say)
        self._lease.release()
        self._lease = lease
        self._journal = JournalWriter(
            context.cluster, context.run, shared=True, still_leader=lease.confirm, waiting=self._said_and_stopped
        )

    def _said_and_stopped(self, why: str) -> bool:
        self._observer.say(why)
        return self._stop.is_set()

    def _keep_following(self) -> None:
        self._stage = "follow"
        self._observer.stage("follow")
        self._observer.say(f"following changes until `reshelve retire {self._context.run}`")
        if self._reader is None:
            self._reader = ProgressReader(self._context)
            self._follow()
        control = ControlReader(self._context.cluster, self._context.run)
        try:
            self._until("follow", lambda _: control.retired())
        finally:
            control.close()
        self._end_changes()
        self._record("retired", {"why": "as asked for"})
        self._report()

    def _stop_here(self, where: str) -> None:
        self._children.stop()
        self._record("stopped", {"until": where})
        self._report()

    def _report(self) -> None:
        save_report(self._context.plan, self._state, self._folder, self._observer.say)

    def _enter(self, stage: str) -> None:
        self._stage = stage
        self._observer.stage(stage)
        if self._state.stage != stage or stage not in self._state.stages:
            self._record("stage", {"stage": stage})

    def _record(self, kind: str, data: dict[str, Any]) -> None:
        with self._recording:
            self._state.take(self._journal.append(kind, data))

    def _write_checkpoint(self, progress: Progress, *, force: bool = False) -> None:
        now = time.monotonic()
        if now - self._checkpoint_at < (
            _FOLLOWED_CHECKPOINT_S if self._stage == "follow" else 0 if force else _CHECKPOINT_S
        ):
            return
        checkpoint = progress.as_dict()
        if checkpoint != self._checkpoint:
            self._record("checkpoint", checkpoint)
        self._checkpoint_at, self._checkpoint = now, checkpoint

    def _write_end(self, kind: str, data: dict[str, Any]) -> None:
        """What was seen last, so that the status of a run that has stopped is not seconds older than its end; and
        that end. Brokers that are away must not hide what it was: then it is only said."""
        try:
            if self._progress is not None:
                self._write_checkpoint(self._progress, force=True)
            self._record(kind, data)
        except BlockedError as error:
            self._observer.say(f"not recorded: {error}")

    def _on_death(self, what: str) -> None:
        self._observer.say(what)
        self._record("error", {"what": what, "stage": self._stage})


def swap_alias(
    context: RunContext, found: GateFacts, record: Callable[[str, dict[str, Any]], None], say: Callable[[str], None]
) -> None:
    """The cut-over with its entries in the journal. Raises GateClosed, TargetRefused, Unreachable.

    The entry `cutover_began` is also the fence: who drove this reindex before can't get past writing it."""
    plan = context.plan
    record("gates", {"gates": [gate.as_dict() for gate in gates(found)]})
    move = {"alias": plan.alias, "from": plan.previous_index, "to": plan.index}
    record("cutover_began", move)
    health = cut_over(context, found, report=say)
    record("cutover", move | {"copies": facts(health)})
