"""The roles, each as a small machine of steps around the shipped deciding code: what they do between two steps may come
at any time, or never. A comment `fault` marks where a seeded bug takes a protection away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from protections import Protection
from simulated_index import Document, Request, show
from simulated_kafka import Step
from simulated_source import View

from reshelve.applied import Applied
from reshelve.consumers.in_flight import Batch, InFlight
from reshelve.consumers.outcome import Outcome, item_outcome
from reshelve.model import WATERMARK_KEY, Bound, KeyTask, PageTask, Receipt, Watermark, partition_of
from reshelve.producers.key_batch import KeyBatch, vanished
from reshelve.producers.watermarks import Watermarks
from reshelve.producers.xids import widen_xid

if TYPE_CHECKING:
    from live_world import World

PARTITIONS = 2


def partition(key: bytes) -> int:
    return partition_of(key, PARTITIONS)


class PageReader:
    """Reads a page, produces it some time later, and commits it with its receipt and the next task."""

    def __init__(self, world: World, name: str) -> None:
        self._world, self._name = world, name
        self._task: PageTask | None = None
        self._view: View
        self._keys: list[bytes] = []
        self._high: Bound = None
        self._produced: Step | None = None

    def work(self) -> str:
        if self._task is None:
            return self._read()
        if self._view.life != self._world.source.life:
            return self.die("loses its connection")
        if self._produced is None:
            return self._produce()
        return self._commit()

    def die(self, how: str = "is killed") -> str:
        if self._task is None:
            return ""
        if self._produced is not None:
            self._produced.abort()
            self._produced = None
        self._world.pages[self._task.segment] = self._task
        self._task = None
        return f"page reader {self._name} {how}: its page is read again"

    def _read(self) -> str:
        world = self._world
        if not world.pages or not world.may_read_pages:
            return ""
        task = self._task = world.pages.pop(world.rng.choice(list(world.pages)))
        view = self._view = world.source.snapshot()
        low, end = _key(task.cursor), _key(task.end)
        found = sorted(k for k in view.rows if (low is None or k > low) and (end is None or k <= end))
        self._keys = found[: world.page_rows]
        self._high = (self._keys[-1].decode(),) if len(found) > world.page_rows else task.end
        names = ", ".join(f"{key.decode()} = {view.rows[key]}" for key in self._keys)
        return f"page reader {self._name} reads {names or 'an empty page'} at {view.ids}, clock {clock(view.version)}"

    def _produce(self) -> str:
        self._produced = step = Step()
        view = self._view
        for key in self._keys:
            document = Document(key, view.version, view.rows[key], view.moment)
            self._world.documents[partition(key)].append(key, document, step)
        return f"page reader {self._name} produces its page of clock {clock(view.version)}"

    def _commit(self) -> str:
        world, view, task = self._world, self._view, self._task
        assert self._produced is not None and task is not None
        if not world.flushed(view):
            return ""
        rows = len(self._keys)
        receipt = Receipt(task.segment, task.cursor, self._high, rows, rows, 0, 0, 0, 0, view.version)
        world.receipts.append(receipt)
        if self._high != task.end:
            world.pages[task.segment] = PageTask(task.segment, self._high, task.end)
        self._produced.commit()
        self._produced = self._task = None
        return f"page reader {self._name} commits its page of clock {clock(view.version)}"


class Tailer:
    """Follows the log, writes key tasks, offers snapshots as watermarks, and confirms what is durable."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._unacknowledged: list[list[tuple[bytes, KeyTask | Watermark]]] = [[] for _ in range(PARTITIONS)]
        self._marks = Watermarks()
        self._snapshot: View | None = None
        self._lsn = 0
        self._confirm = 0
        self._life = -1
        self._passed = self._reference = 0

    def work(self) -> str:
        world = self._world
        if world.source.slot_start is None:
            return ""
        if self._life != world.source.life:
            return self._open()
        roll = world.rng.random()
        if roll < 0.6:
            return self._poll() or self._deliver()
        return self._advance() or (self._tick() if roll < 0.75 else "")

    def die(self) -> str:
        """Some of what Kafka has not acknowledged has arrived all the same."""
        world = self._world
        for number, records in enumerate(self._unacknowledged):
            for key, record in records[: world.rng.randrange(len(records) + 1)]:
                world.changes[number].append(key, record)
        world.tailer = Tailer(world)
        return "the tailer is killed"

    @property
    def idle(self) -> bool:
        """Whether all of the log was followed, and everything written."""
        return self._passed == self._world.source.flushed and not any(self._unacknowledged)

    def _open(self) -> str:
        """A new feed, from where it was confirmed."""
        source = self._world.source
        self._life, self._passed, self._snapshot = source.life, source.confirmed, None
        self._reference = source.snapshot().ids.xmax
        self._confirm = 0
        if not self._world.without(Protection.NEW_FEED_NEW_SNAPSHOT):  # fault
            self._marks.withdraw()
        return f"the tailer follows the log from {self._passed}"

    def _poll(self) -> str:
        world, told = self._world, []
        found, self._passed = world.source.decode(self._passed, world.rng.randrange(1, 4))
        for transaction in found:
            narrow = transaction.xid
            xid = narrow if world.without(Protection.WIDE_XIDS) else widen_xid(narrow, self._reference)  # fault
            task = KeyTask(xid, 0)
            for old, new in transaction.changes:
                if (
                    world.without(Protection.OLD_KEYS) and old != new
                ):  # fault: an update or insert names its new key only
                    old = None if new is not None else old
                for key in dict.fromkeys((old, new)):
                    if key is not None:
                        self._unacknowledged[partition(key)].append((key, task))
                        told.append(f"{key.decode()} (xid {xid})")
        if world.without(Protection.CONFIRM_BEHIND_ACKNOWLEDGED):  # fault
            world.source.confirmed = self._passed
        return f"the tailer decodes up to {self._passed}: {', '.join(told)}" if told else ""

    def _deliver(self) -> str:
        """Kafka acknowledges some records of a partition, in their order."""
        world = self._world
        number = world.rng.randrange(PARTITIONS)
        records = self._unacknowledged[number]
        if not records:
            return ""
        taken = world.rng.randrange(1, len(records) + 1)
        for key, record in records[:taken]:
            world.changes[number].append(key, record)
        del records[:taken]
        return f"changes {number} takes {taken} records"

    def _tick(self) -> str:
        """A snapshot, and then, some time later, the log's insert position."""
        source = self._world.source
        backwards = self._world.without(Protection.SNAPSHOT_BEFORE_LSN)  # fault: the other way round
        if self._marks.awaited is not None:
            return ""
        if self._snapshot is None:
            self._snapshot, self._lsn = source.snapshot(), len(source.log)
            return f"the tailer takes a snapshot: clock {clock(self._snapshot.version)}"
        view, lsn = (source.snapshot(), self._lsn) if backwards else (self._snapshot, len(source.log))
        self._snapshot = None
        self._marks.offer(view.version, 0, lsn)
        return f"the tailer offers clock {clock(view.version)} for when the log is passed up to {lsn}"

    def _advance(self) -> str:
        """The watermark that is due, behind all key tasks; confirmed once it is acknowledged."""
        world = self._world
        if any(self._unacknowledged):
            return ""
        if self._confirm:
            world.source.confirmed, self._confirm = self._confirm, 0
            return f"the tailer confirms {world.source.confirmed}"
        passed = self._passed
        if world.without(Protection.WATERMARK_BEHIND_LSN):  # fault
            passed = max(passed, self._marks.awaited or 0)
        mark = self._marks.reached(passed)
        if mark is None:
            return ""
        for records in self._unacknowledged:
            records.append((WATERMARK_KEY, mark))
        self._confirm = self._passed
        return f"the tailer writes watermark {clock(mark.version)}"


class KeyReader:
    """Takes key tasks, reads their keys in a snapshot that sees them, and commits documents, watermarks and offsets."""

    def __init__(self, world: World, name: str) -> None:
        self._world, self._name = world, name
        self.partitions: list[int] = []
        self._batch: KeyBatch | None = None
        self._ends: dict[int, int] = {}
        self._view: View | None = None
        self._step: Step | None = None

    def work(self) -> str:
        if self._batch is None:
            return self._consume()
        if self._view is not None and self._view.life != self._world.source.life:
            return self.die("loses its connection")
        if self._step is None:
            return self._read()
        return self._commit()

    def die(self, how: str = "is killed") -> str:
        if self._batch is None:
            return ""
        if self._step is not None:
            self._step.abort()
        self._batch = self._view = self._step = None
        return f"key reader {self._name} {how}"

    def _consume(self) -> str:
        world, batch, told = self._world, KeyBatch(), []
        self._ends = {}
        for number in self.partitions:
            start = world.keys_read[number]
            found, end = world.changes[number].read(start, world.rng.randrange(5))
            for record in found:
                batch.add(number, record.key, record.value)
                told.append(record.key.decode() or f"watermark {clock(record.value.version)}")  # type: ignore[union-attr]
            if found:
                self._ends[number] = end
        if not told:
            return ""
        self._batch = batch
        return f"key reader {self._name} takes {', '.join(told)}"

    def _read(self) -> str:
        world, batch, step = self._world, self._batch, Step()
        assert batch is not None
        if not batch.keys:
            self._step = step
            return self._commit()
        view = world.source.snapshot()
        if not batch.readable(view.ids) and not world.without(Protection.VISIBILITY_WAIT):  # fault
            return f"key reader {self._name} waits: {sorted(batch.xids)} are not all visible in {view.ids}"
        self._view, self._step = view, step
        if world.without(Protection.WATERMARK_BEHIND_DOCUMENTS):  # fault
            self._mark(batch, step)
        found = batch.keys.keys() & view.rows.keys()
        rows = {key: view.rows[key] for key in batch.keys if key in found}
        gone = [] if world.without(Protection.TOMBSTONES) else vanished(batch.keys, found)  # fault
        for key in [*rows, *gone]:
            document = Document(key, view.version, rows.get(key), view.moment)
            world.documents[partition(key)].append(key, document, step)
        told = ", ".join(f"{key.decode()} = {rows.get(key)}" for key in [*rows, *gone])
        return f"key reader {self._name} reads and produces {told} at clock {clock(view.version)}"

    def _mark(self, batch: KeyBatch, step: Step) -> list[tuple[int, int]]:
        return [(n, self._world.documents[n].append(WATERMARK_KEY, mark, step)) for n, mark in batch.marks.items()]

    def _commit(self) -> str:
        world, batch, step = self._world, self._batch, self._step
        assert batch is not None and step is not None
        if self._view is not None and not world.flushed(self._view):
            return ""
        early = world.without(Protection.WATERMARK_BEHIND_DOCUMENTS)
        marked = [] if early and batch.keys else self._mark(batch, step)
        step.commit()
        for number, end in self._ends.items():
            world.keys_read[number] = end
        for number, offset in marked:
            world.check_watermark(number, batch.marks[number], offset)
        self._batch = self._view = self._step = None
        return f"key reader {self._name} commits {self._ends}"


class _Careless(InFlight["_Sent"]):
    """The seeded bug: batches with a key in common are under way together."""

    def may_submit(self, batch: _Sent) -> bool:
        return len(self) < 4


class _Sent(Batch[Document]):
    """A batch and its request. `unsure`: an answer was lost since."""

    pending: Sequence[Document] = ()
    request: Request | None = None
    unsure = False
    done = False


class Indexer:
    """Reads `documents`, sends bulk requests, several at once, and commits what is durable."""

    def __init__(self, world: World, name: str) -> None:
        self._world, self.name = world, name
        self.partitions: list[int] = []
        self._place: dict[int, int] = {}
        self._ready: _Sent | None = None
        self._sent: list[_Sent] = []
        self._in_flight: InFlight[_Sent] = (
            _Careless(4) if world.without(Protection.ONE_REQUEST_A_KEY) else InFlight(3)
        )  # fault

    @property
    def idle(self) -> bool:
        """Whether there is nothing left to read and nothing under way."""
        documents = self._world.documents
        return self._ready is None and not self._sent and all(self._place[p] == len(documents[p]) for p in self._place)

    def take(self, number: int) -> None:
        """A partition becomes its own: it reads on from what is committed."""
        self.partitions.append(number)
        self._place[number] = self._world.indexed[number].offset

    def work(self) -> str:
        roll = self._world.rng.random()
        if roll < 0.4:
            return self._consume() or self._submit()
        if roll < 0.8:
            return self._hear() or self._submit()
        return self._commit()

    def die(self) -> str:
        """Its requests go on without it: what they have written so far is flushed, as what they will write."""
        for sent in self._sent:
            if sent.request is not None:
                sent.request.orphan = True
        self._world.index.flush()
        return self._world.replace_indexer(self)

    def hand_over(self) -> str:
        """Another one gets a partition, in good order: nothing is under way, and what is done is committed."""
        if self._sent or self._ready is not None or not self.partitions:
            return ""
        self._commit()
        number = self.partitions.pop()
        del self._place[number]
        self._in_flight.forget([number])
        return self._world.give_away(number, self)

    def _consume(self) -> str:
        if self._ready is not None:
            return ""
        world, batch = self._world, _Sent()
        for number in self.partitions:
            found, end = world.documents[number].read(self._place[number], world.rng.randrange(5))
            if end != self._place[number]:
                self._place[number] = batch.offsets[number] = end
            for record in found:
                if isinstance(record.value, Watermark):
                    batch.mark(number, record.value)
                else:
                    batch.add(record.key, record.value)
        if not batch.offsets:
            return ""
        self._ready = batch
        return f"indexer {self.name} takes {', '.join(map(show, batch.items.values())) or 'no document'}"

    def _submit(self) -> str:
        batch = self._ready
        if batch is None or not self._in_flight.may_submit(batch):
            return ""
        self._in_flight.submit(batch)
        self._sent.append(batch)
        self._ready = None
        if self._world.without(Protection.COMMIT_BEHIND_DURABLE):  # fault
            self._in_flight.finish()
        self._send(batch, list(batch.items.values()))
        return f"indexer {self.name} sends {', '.join(map(show, batch.items.values())) or 'nothing'}"

    def _send(self, batch: _Sent, items: Sequence[Document]) -> None:
        batch.pending, batch.done = items, not items
        if items:
            again = batch.unsure and not self._world.without(Protection.EXTERNAL_GTE)  # fault
            batch.request = Request(items, again=again)
            self._world.index.receive(batch.request)
        else:
            batch.request = None

    def _hear(self) -> str:
        """What became of the requests; then the batches that are done leave, the oldest first."""
        told = ""
        for batch in self._sent:
            request = batch.request
            if request is None:
                continue
            if request.lost:
                batch.unsure = True
                self._send(batch, batch.pending)
                told = f"indexer {self.name} sends {', '.join(map(show, batch.pending))} again"
            elif request.answered:
                answers = zip(batch.pending, request.answers, strict=True)
                left = [item for item, a in answers if a and item_outcome(a.status, a.error) is Outcome.RETRY]
                self._send(batch, left)
                told = f"indexer {self.name} hears of {', '.join(map(show, request.items))}, {len(left)} left"
        while self._sent and self._sent[0].done:
            batch = self._sent.pop(0)
            if len(self._in_flight) and batch is self._in_flight.oldest:
                self._in_flight.finish()
        return told

    def _commit(self) -> str:
        world, in_flight = self._world, self._in_flight
        for number in in_flight.unrecalled():
            applied = None if world.without(Protection.CLOCK_RECALLED) else world.indexed[number].applied  # fault
            in_flight.recall(number, applied)
        places = in_flight.to_commit()
        if not places:
            return ""
        for number, place in places.items():
            world.commit_index(number, place.offset, place.applied)
        in_flight.committed()
        return f"indexer {self.name} commits " + ", ".join(
            f"{number}: {place.offset} (applied clock {_applied(place.applied)})" for number, place in places.items()
        )


def _applied(applied: Applied | None) -> str:
    return "none" if applied is None else str(clock(applied.version))


def clock(version: int) -> int:
    return version & ((1 << 48) - 1)


def _key(bound: Bound) -> bytes | None:
    return None if bound is None else bound[0].encode()
