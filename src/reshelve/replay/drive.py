"""A replay: the run's topic `documents` applied once more, to the run's own index or to a new one.

1. what is asked for has a name (`Request.id`): an unfinished replay of that name is gone on with, else one is begun,
   whose beginnings and ends stand in the journal (`replaying`) before anything is written
2. indexers of this process work the partitions off up to these ends; the replay's own consumer group knows how far
3. the run's own index: the deletes that were written meanwhile are applied again. A document that the replay wrote
   late may have come after a newer delete that the index had forgotten
4. a new index: proven equal to the topic, then made what its definition says
5. `replayed`, and the group goes
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from opensearchpy.exceptions import TransportError

from reshelve.consumers import generation
from reshelve.consumers.opensearch import refusal
from reshelve.consumers.reject_picture import look_at_rejects
from reshelve.consumers.replay import Extent, Wants, deletes, only, places
from reshelve.context import RunContext
from reshelve.errors import BlockedError, Interrupted, ReshelveError, TargetRefused, UsageError
from reshelve.journal import read_journal
from reshelve.model import partition_of
from reshelve.replay.proof import TopicProof, prove
from reshelve.replay.request import BEGUN, ENDED, Request, Task, aimed, unfinished
from reshelve.replay.work import ReplayProgress, ReplayWork, WorkOptions

_GROUP_GOES_S: Final = 15.0


class Display(Protocol):
    """Shows how far it is."""

    def progress(self, progress: ReplayProgress) -> None: ...
    def say(self, text: str) -> None: ...


@dataclass
class Replay:
    """One replay, of a run that has completed.

    uuid    of the run's own index
    record  appends to the run's journal
    stop    set by Ctrl-C: what is done is kept, and the same replay goes on later
    keep    called again and again: keeps the lease; raises LeaseHeld
    """

    context: RunContext
    uuid: str
    request: Request
    options: WorkOptions
    record: Callable[[str, dict[str, Any]], None]
    display: Display
    stop: threading.Event
    keep: Callable[[], None]

    def drive(self) -> dict[str, Any]:
        """To its end. Returns what was recorded of it.

        Raises UsageError, Interrupted, and BlockedError: when what is asked for is not in the topic any more, when the
        new index is not equal to the topic, when the run's own has refused documents and accepted nothing newer."""
        began = time.monotonic()
        task = self._task()
        work = ReplayWork(
            self.context, task.index, task.write_alias, task.uuid, task.group, self.options, self.stop, self._tick
        )
        self._apply(work, "apply", task.starts, task.ends, only(self.request.keys))
        proof = None
        if task.own:
            self._repeat_deletes(work, task)
            self._make_durable(task.index)
        else:
            self.display.say(f"comparing counts and checksums of the topic and index {task.index}")
            proof = prove(self.context, task.index, task.ends, self.request.keys, self._check)
            self._finish(task)
        result = {
            **task.as_dict(),
            **{name: work.counts.get(name, 0) for name in ("indexed", "superseded", "rejected")},
            "seconds": round(time.monotonic() - began, 1),
            "proof": None if proof is None else proof.as_dict(),
        }
        self.record(ENDED, result)
        self._forget(task.group)
        self._judge(task, proof, work.counts.get("rejected", 0))
        return result

    # --- the beginning

    def _task(self) -> Task:
        """An unfinished one first: the index that it makes is in the way of none but another."""
        if task := self._resume():
            return task
        if self.request.to is not None and self._aims_at_own(self.request.to) and (task := self._resume()):
            return task
        self.request.require()
        return self._begin()

    def _aims_at_own(self, to: str) -> bool:
        plan = self.context.plan
        self.request = aimed(self.request, generation.alias_targets(self.context.opensearch, to), plan.index)
        if self.request.to is None:
            self.display.say(f"{to} is the run's own index {plan.index}: the replay goes into that")
            return True
        if plan.adopted:
            raise UsageError(
                f"index {to} can't be made from the topic of run {plan.run}",
                why=f"the run has adopted index {plan.index}: its topic holds nothing but what was repaired",
                remedy="build an index with `reshelve run`",
            )
        return False

    def _resume(self) -> Task | None:
        """The same replay, if it was begun and its index is there still."""
        context = self.context
        task = unfinished(read_journal(context.cluster, run=context.run), self.request.id(context.run))
        if task is None:
            return None
        if task.own:
            self._require_own()
        elif not task.uuid:
            task = self._create(task)
        elif (found := generation.uuid(context.opensearch, task.index)) is None:
            self.display.say(f"index {task.index} of an unfinished replay is gone: begun anew")
            return None
        elif found != task.uuid:
            raise TargetRefused(
                f"index {task.index} is not the one that the unfinished replay has made",
                where=task.index,
                why=f"its UUID is {found}, not {task.uuid}",
                remedy="choose another name, or delete that index",
            )
        self.display.say(f"going on with the replay into index {task.index}")
        return task

    def _begin(self) -> Task:
        context, request = self.context, self.request
        to = request.to
        if to is None:
            self._require_own()
        ends, starts = self._places()
        id = request.id(context.run)
        task = Task(
            id,
            # A group of its own: offsets of a replay that asked for the same would pass for this one's.
            context.run.group(f"replay-{id}-{secrets.token_hex(4)}"),
            to or context.plan.index,
            f"{to}.write" if to else context.plan.write_alias,
            "" if to else self.uuid,
            to is None,
            starts,
            {p: ends[p] for p in starts},
        )
        self.record(BEGUN, task.as_dict())
        return task if to is None else self._create(task)

    def _places(self) -> tuple[dict[int, int], dict[int, int]]:
        """The topic's ends as they are now, and where to begin in the partitions that have something."""
        context, start, keys = self.context, self.request.start, self.request.keys
        cluster, topic, partitions = context.cluster, context.run.topic("documents"), context.partitions
        extent = Extent(cluster.begins(topic, partitions), cluster.stable_ends(topic, partitions))
        since = {} if start.at is None else cluster.offsets_since(topic, partitions, max(0, start.at))
        needed = range(partitions) if keys is None else {partition_of(key, partitions) for key in keys}
        return dict(extent.ends), places(topic, start, extent, since, needed)

    def _create(self, task: Task) -> Task:
        uuid = generation.create(self.context.opensearch, task.index, task.write_alias, self._definition)
        made = replace(task, uuid=uuid)
        self.record(BEGUN, made.as_dict())
        return made

    def _require_own(self) -> None:
        """Raises TargetRefused when the run's index is not there any more."""
        index = self.context.plan.index
        if generation.uuid(self.context.opensearch, index) != self.uuid:
            raise TargetRefused(
                f"index {index} is not there any more",
                where=index,
                why="somebody dropped or re-created it",
                remedy="if it was restored from a snapshot, `reshelve repair` with the run takes it for its own;"
                " or make a new index from the topic with --to",
            )

    @property
    def _definition(self) -> Mapping[str, Any]:
        return self.context.plan.definition if self.request.definition is None else self.request.definition

    # --- the work

    def _apply(
        self, work: ReplayWork, stage: str, starts: Mapping[int, int], ends: Mapping[int, int], wants: Wants | None
    ) -> None:
        work.apply(stage, starts, ends, wants)
        self._check()

    def _tick(self, progress: ReplayProgress) -> None:
        self.keep()
        self.display.progress(progress)

    def _check(self) -> None:
        """Raises Interrupted, LeaseHeld."""
        self.keep()
        if self.stop.is_set():
            raise Interrupted(
                f"the replay of run {self.context.run} was stopped",
                why="told to",
                remedy="the same command goes on where it was",
            )

    def _repeat_deletes(self, work: ReplayWork, task: Task) -> None:
        """Nothing that comes after this end needs it: no document of the replay is written any more."""
        topic, partitions = self.context.run.topic("documents"), self.context.partitions
        now = self.context.cluster.stable_ends(topic, partitions)
        grown = {p: end for p, end in task.ends.items() if now[p] > end}
        self._apply(work, "deletes", grown, {p: now[p] for p in grown}, deletes(self.request.keys))

    def _make_durable(self, index: str) -> None:
        """Also where the index's definition says that answers come before the disk has it."""
        client = self.context.opensearch
        try:
            client.indices.flush(index=index, params={"wait_if_ongoing": "true"})
            client.indices.refresh(index=index)
        except TransportError as error:
            raise refusal(error, f"cannot flush index {index}", index) from error

    def _finish(self, task: Task) -> None:
        self.display.say(f"finishing index {task.index}")
        health = generation.finish(self.context.opensearch, task.index, self._definition, report=self.display.say)
        if health.note:
            self.display.say(f"note: {health.note}")

    # --- the end

    def _forget(self, group: str) -> None:
        """The group has done its work; one that stays costs nothing, and `clean` removes it."""
        try:
            self.context.cluster.delete_group(group, _GROUP_GOES_S)
        except ReshelveError as error:
            self.display.say(f"note: consumer group {group} stays: {error}")

    def _judge(self, task: Task, proof: TopicProof | None, rejected: int) -> None:
        rejects = f"`reshelve rejects list {self.context.run}` says which documents were rejected"
        if proof is not None and not proof.equal:
            raise BlockedError(
                f"index {task.index} is not equal to the topic",
                where=task.index,
                why=f"{proof.summary()}; {rejected} documents were rejected",
                remedy=f"{rejects}; delete the index, correct its definition, and replay again",
            )
        if rejected and proof is not None:
            self.display.say(f"note: {rejected} older records were rejected, and newer ones of their keys accepted")
        elif rejected and (left := self._open_rejects()):
            raise BlockedError(
                f"index {task.index} rejected {rejected} records of the replay",
                where=self.context.run.topic("rejects"),
                why=f"{left} rejected documents are open: the index has accepted nothing newer of them",
                remedy=rejects,
            )

    def _open_rejects(self) -> int:
        context = self.context
        picture = look_at_rejects(
            context.cluster, context.run, context.opensearch, context.plan.index, context.partitions
        )
        return len(picture.open)
