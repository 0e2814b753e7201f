"""A seeded schedule of the whole pipeline: some keys, transactions, pages, readers, and what can happen to them.

The world is simulated (PostgreSQL, Kafka, OpenSearch), the deciding code is the shipped one. After every step that
matters the oracle looks whether what is promised at every moment holds; at the end everything comes to rest, and the
index must be the source.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from protections import Protection
from simulated_index import Document, Index, clock, show
from simulated_indexer import Indexer
from simulated_kafka import Committed, Partition
from simulated_producers import PARTITIONS, KeyReader, PageReader, Tailer, partition
from simulated_source import Source, View

from reshelve.applied import Applied
from reshelve.consumers.in_flight import Batch
from reshelve.model import KeyTask, PageTask, Receipt, Segment, Watermark
from reshelve.producers.settling import distinct
from reshelve.producers.visibility import may_read
from reshelve.receipts import tile

KEYS = (b"a", b"b", b"c", b"d", b"e")
SEGMENTS = (Segment(0, None, ("c",)), Segment(1, ("c",), None))
_STEPS = 260
_ROUNDS = 400


class Violation(AssertionError):
    """What was promised does not hold."""


class World:
    """missing  the protection that is taken away
    tell     is given every step in words; None: nobody listens"""

    def __init__(self, seed: int, missing: Protection | None = None, tell: Callable[[str], None] | None = None) -> None:
        rng = self.rng = Random(seed)
        self._missing, self._tell = missing, tell
        # Some schedules are about one hot key and an index in trouble, after the copy.
        self._stormy = rng.random() < 0.3
        self._keys = sorted(rng.sample(KEYS, 1 if self._stormy else rng.randrange(1, 6)))
        self.source = Source(
            rng,
            self._keys,
            delays=rng.choice((0.0, 0.5, 0.8, 0.95)),
            asynchronous=rng.choice((0.0, 0.5, 1.0)),
            lsn_is_clock=self.without(Protection.SNAPSHOT_CLOCK),
        )
        self.index = Index(rng, self.check_applied, check_versions=not self.without(Protection.VERSION_CHECK))
        self.changes: list[Partition[KeyTask | Watermark]] = [Partition() for _ in range(PARTITIONS)]
        self.documents: list[Partition[Document | Watermark]] = [Partition() for _ in range(PARTITIONS)]
        self.keys_read = [0] * PARTITIONS
        self.indexed = [Committed(0, None)] * PARTITIONS
        self.pages = {s.number: PageTask(s.number, s.low, s.high) for s in SEGMENTS}
        self.page_rows = rng.randrange(1, 4)
        self.receipts: list[Receipt] = []
        self.may_read_pages = False
        self._slot_xid = 0
        self._settle_ends: list[int] | None = None
        self._settled_ends: list[int] | None = None
        self._page_readers = [PageReader(self, name) for name in ("1", "2")]
        self._key_readers = [KeyReader(self, name) for name in ("1", "2")]
        self.tailer = Tailer(self)
        self._indexers = [Indexer(self, name) for name in ("1", "2")]
        for number in range(PARTITIONS):
            self._indexers[rng.randrange(2)].take(number)
            self._key_readers[rng.randrange(2)].partitions.append(number)
        self._judging = True
        self._disturbances = self._choose_disturbances()

    def without(self, protection: Protection) -> bool:
        return protection is self._missing

    # The schedule.

    def run(self) -> int:
        """Go through a schedule; how many steps did something. Raises Violation."""
        rng, done = self.rng, 0
        for _ in range(60):
            if self.may_read_pages:
                break
            done += self._do(self.source.work() if rng.random() < 0.6 else self._drive())
        if self._stormy or rng.random() < 0.3:
            done += self._copy_quickly()
        often, disturbed = self._often(), rng.choice((0.02, 0.06, 0.15))
        for _ in range(_STEPS):
            act = rng.choice(self._disturbances if rng.random() < disturbed else often)
            done += self._do(act())
        done += self._come_to_rest()
        self._check_rest()
        return done

    def _workers(self) -> list[Callable[[], str]]:
        pages, keys, indexers = self._page_readers, self._key_readers, self._indexers
        return [*(p.work for p in pages), *(k.work for k in keys), *(i.work for i in indexers)]

    def _copy_quickly(self) -> int:
        """So that most of the schedule comes after settling."""
        acts = [self.source.flush, self._drive, self._tail, *self._workers(), self.index.work]
        return sum(self._do(act()) for _ in range(25) for act in acts if self._settled_ends is None)

    def _often(self) -> list[Callable[[], str]]:
        """Some are quick and some are slow in a schedule, so that each is far behind another in some schedule."""
        groups: list[tuple[Callable[[], str], ...]] = [
            (self.source.work, self.source.work), (self._drive,), (self._tail, self._tail),
            *((reader.work,) for reader in self._page_readers),
            tuple(reader.work for reader in self._key_readers),
            (self._index_one, self._index_two), (self._index_one, self._index_two),
            (self.index.work,), (self.index.work, self.index.work),
        ]  # fmt: skip
        often = [act for group in groups for act in group * self.rng.choice((1, 1, 2, 4, 8))]
        return often + [self.source.flush] * self.rng.choice((0, 1, 4))

    def _choose_disturbances(self) -> list[Callable[[], str]]:
        """Mostly those of one kind: some faults need several of the same kind together."""
        index, rng = self.index, self.rng
        kinds: list[list[Callable[[], str]]] = [
            [*(p.die for p in self._page_readers), *(k.die for k in self._key_readers), self._rebalance_keys],
            [self._kill_tailer, self.source.crash, self.source.crash],
            [index.lose, index.lose, index.restart, index.forget_deletes, self._refuse, self._refuse],
            [self._kill_indexer, self._kill_indexer, self._hand_over, self._hand_over, index.forget_deletes],
        ]
        return kinds[2] if self._stormy else rng.choice([*kinds, [act for kind in kinds for act in kind]])

    def _do(self, did: str) -> bool:
        if did and self._tell is not None:
            self._tell(did)
        return bool(did)

    def _tail(self) -> str:
        return self.tailer.work()

    def _kill_tailer(self) -> str:
        return self.tailer.die()

    def _index_one(self) -> str:
        return self._indexers[0].work()

    def _index_two(self) -> str:
        return self._indexers[1].work()

    def _refuse(self) -> str:
        return self.index.work(busy=True)

    def _kill_indexer(self) -> str:
        return self.rng.choice(self._indexers).die()

    def replace_indexer(self, dead: Indexer) -> str:
        """A new one comes in its place; its partitions go to any of them."""
        number = self._indexers.index(dead)
        self._indexers[number] = Indexer(self, dead.name)
        for each in dead.partitions:
            self.rng.choice(self._indexers).take(each)
        return f"indexer {dead.name} is killed"

    def _hand_over(self) -> str:
        return self.rng.choice(self._indexers).hand_over()

    def give_away(self, number: int, giver: Indexer) -> str:
        taker = next(indexer for indexer in self._indexers if indexer is not giver)
        taker.take(number)
        return f"documents {number} goes from indexer {giver.name} to {taker.name}"

    def _rebalance_keys(self) -> str:
        for reader in self._key_readers:
            self._do(reader.die("loses its partitions"))
            reader.partitions = []
        for number in range(PARTITIONS):
            self.rng.choice(self._key_readers).partitions.append(number)
        return "the key readers share out the partitions again"

    def flushed(self, view: View) -> bool:
        """Whether what was seen may be published."""
        return self.source.flushed >= view.insert_lsn or self.without(Protection.AWAIT_DURABLE)

    # The run's driver.

    def _drive(self) -> str:
        source = self.source
        if source.slot_start is None:
            source.create_slot()
            return f"the slot is made at {source.slot_start}"
        if not self._slot_xid:
            self._slot_xid = source.take_xid()
            return f"the run takes xid {self._slot_xid}"
        if not self.may_read_pages:
            ids = source.snapshot().ids
            self.may_read_pages = may_read(ids.xmin, self._slot_xid) or self.without(Protection.XMIN_WAIT)
            return f"pages {'may' if self.may_read_pages else 'must not yet'} be read: {ids}"
        if self._settle_ends is None:
            complete = tile(SEGMENTS, self.receipts).complete
            if self.without(Protection.TILING):
                complete = not self.pages
            return self._settle() if complete else ""
        if self._settled_ends is None and all(map(int.__ge__, self.keys_read, self._settle_ends)):
            self._settled_ends = [len(documents) for documents in self.documents]
            return "settled"
        return ""

    def _settle(self) -> str:
        self._settle_ends = []
        for changes in self.changes:
            if not self.without(Protection.SETTLING):
                tasks = (record.key for record in changes.committed() if isinstance(record.value, KeyTask))
                for key in list(distinct(tasks)):
                    changes.append(key, KeyTask(0, 0))
            self._settle_ends.append(len(changes))
        return "the copy is complete; the keys that changed meanwhile are read once more"

    # What holds at every moment.

    def _fail(self, what: str) -> None:
        raise Violation(what)

    def check_watermark(self, number: int, mark: Watermark, offset: int) -> None:
        """A watermark of `documents` stands behind every change that is visible at its clock."""
        moment = self.source.moment_of(mark.version)
        if moment is None:
            self._fail(f"watermark {clock(mark.version)} is of a snapshot that saw what a crash took away")
            return
        read: dict[bytes, int] = {}
        for record in self.documents[number].committed(offset):
            if isinstance(record.value, Document):
                read[record.key] = max(read.get(record.key, 0), record.value.moment)
        for key in self._keys:
            if partition(key) == number:
                changed = self.source.last_decoded(key, moment)
                if changed is not None and read.get(key, -1) < changed:
                    self._fail(
                        f"watermark {clock(mark.version)} in documents {number}: no document of {key.decode()} before"
                        " it is as new as what was visible at that clock"
                    )

    def commit_index(self, number: int, offset: int, applied: Applied | None) -> None:
        """A committed offset is past no record that is not durable, and the applied clock never goes back."""
        before = self.indexed[number]
        if offset < before.offset:
            self._fail(f"the committed offset of documents {number} goes back from {before.offset} to {offset}")
        for record in self.documents[number].committed(offset, start=before.offset):
            item = record.value
            if isinstance(item, Document) and self.index.durable.get(item.key, 0) < item.version:
                self._fail(f"offset {offset} of documents {number} is committed, and {show(item)} is not durable")
        if before.applied is not None and (applied is None or applied.version < before.applied.version):
            self._fail(f"the applied clock of documents {number} goes back from {clock(before.applied.version)}")
        self.indexed[number] = Committed(offset, applied)
        if applied != before.applied:
            for key in self._keys:
                if partition(key) == number:
                    self.check_applied(key)

    def check_applied(self, key: bytes) -> None:
        """What is visible at a partition's applied clock is in the index, or something newer is.

        From settling on that goes for every key; before, for those whose changes are decoded (the others come with
        their page), and as long as the index forgets no delete (that is what settling is for)."""
        number = partition(key)
        offset, applied = self.indexed[number]
        if applied is None or not self._judging:
            return
        moment = self.source.moment_of(applied.version)
        if moment is None:
            self._fail(f"applied clock {clock(applied.version)} is of a snapshot that saw what a crash took away")
            return
        settled = self._settled_ends is not None and offset >= self._settled_ends[number]
        if not settled and (self.index.forgetful or self.source.last_decoded(key, moment) is None):
            return
        if not self.source.had(key, value := self.index.value(key), moment):
            self._fail(
                f"the applied clock of documents {number} is {clock(applied.version)}, and the index has"
                f" {key.decode()} = {value}, which is older than that"
            )

    # The end.

    def _come_to_rest(self) -> int:
        """Everything is followed, read, settled and indexed; the index may be in trouble for a while yet."""
        self._do("nobody writes any more")
        self.source.rest()
        while not self.may_read_pages:
            self._do(self._drive())
        version, done = self.source.snapshot().version, 0
        for number in range(_ROUNDS):
            stormy = self._stormy and number < 25
            acts = [self._drive, *self._workers()]
            if not self._all_followed(version):
                acts += [self._tail] * 4
            for act in acts:
                for _ in range(1 if stormy else 5):
                    if not self._do(act()):
                        break
                    done += 1
            if stormy:
                done += self._do(self.index.work()) + self._do(self.index.work())
                if self.rng.random() < 0.4:
                    self._do(self.rng.choice(self._disturbances)())
            else:
                while self.index.requests:
                    done += self._do(self.index.work())
            if self._at_rest(version):
                return done
        raise Violation("it does not come to rest")

    def _all_followed(self, version: int) -> bool:
        last = [changes.last for changes in self.changes]
        return self.tailer.idle and all(isinstance(mark, Watermark) and mark.version == version for mark in last)

    def _at_rest(self, version: int) -> bool:
        return (
            self._settled_ends is not None
            and all(indexer.idle for indexer in self._indexers)
            and all(applied is not None and applied.version == version for _, applied in self.indexed)
            and all(
                place.offset == len(documents) for place, documents in zip(self.indexed, self.documents, strict=True)
            )
        )

    def _check_rest(self) -> None:
        """The index is the source, and remains it: whatever comes late while deletes are remembered, and when the
        whole topic is indexed again after they are forgotten: the newest record of a key is its highest version."""
        self._compare("at the end")
        items = [record.value for documents in self.documents for record in documents.committed()]
        documents = [item for item in items if isinstance(item, Document)]
        self._judging = False  # the index goes through old documents again: only where it arrives counts
        for item in self.rng.choices(documents, k=4) if documents else ():
            if self.index.remembers(item.key):
                self.index.apply(item, again=self.rng.random() < 0.5)
        self._compare("after late requests")
        for start in range(0, len(documents), 3):
            self.index.restart()
            batch = Batch[Document]()
            for item in documents[start : start + 3]:
                batch.add(item.key, item)
            for item in batch.items.values():
                self.index.apply(item, again=False)
            self.index.flush()
        self._compare("after the whole topic came again")
        newest: dict[bytes, int] = {}
        for item in documents:
            highest = newest[item.key] = max(item.version, newest.get(item.key, 0))
        for item in {item.key: item for item in documents}.values():
            if item.version != newest[item.key]:
                self._fail(f"the newest record of {item.key.decode()} is {show(item)}, but @{clock(highest)} is higher")

    def _compare(self, when: str) -> None:
        found, rows = self.index.contents(), self.source.rows
        if found != rows:
            self._fail(f"{when} the index has {_words(found)}, the source {_words(rows)}")


def _words(rows: dict[bytes, int]) -> str:
    return ", ".join(f"{key.decode()} = {value}" for key, value in sorted(rows.items())) or "nothing"
