"""The roles that read the source, each as a small machine of steps around the shipped deciding code: between two steps
anything may happen. A comment `fault` marks where a seeded bug takes a protection away."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protections import Protection
from simulated_index import Document, clock
from simulated_kafka import Step
from simulated_source import View

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


def _key(bound: Bound) -> bytes | None:
    return None if bound is None else bound[0].encode()
