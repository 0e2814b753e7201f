"""PostgreSQL, as far as transactions, snapshots, the log and its decoding go.

What is like the real one, because a protection exists on account of it:

- a commit is in the log first and visible later (a synchronous standby may take its time in between); row locks are
  held until it is visible
- a commit with `synchronous_commit = off` is visible though not flushed: a crash takes it back, and its transaction id
  and its place in the log are given out again
- ids are given out at the first write and end in any order; the log has only 32 bits of them
- only what is flushed is decoded; a slot decodes the transactions that commit after its start

Left out: savepoints (one transaction is one id), tables and columns (a row is a key and a value), TRUNCATE and DDL
(the run is blocked then), lookups of joined tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

from reshelve.model import make_version
from reshelve.producers.visibility import SnapshotIds

XID_BITS = (1 << 32) - 1
EPOCH = 1

Pair = tuple[bytes | None, bytes | None]
"""The keys of a row before and after a change; None where there was no row."""


class LogRecord(NamedTuple):
    """`changes` of a commit; None for every other record, of which only the id matters."""

    xid: int
    changes: tuple[Pair, ...] | None


class Change(NamedTuple):
    """When a value became visible, and where its commit is in the log."""

    moment: int
    value: int | None
    lsn: int


class Decoded(NamedTuple):
    """A transaction as the feed tells it: with the low 32 bits of its id."""

    xid: int
    lsn: int
    changes: tuple[Pair, ...]


@dataclass(slots=True, eq=False)
class Transaction:
    """asynchronous  commits with `synchronous_commit = off`
    lsn              of its commit record; 0 before"""

    xid: int
    asynchronous: bool
    writes: dict[bytes, int | None] = field(default_factory=dict)
    changes: list[Pair] = field(default_factory=list)
    lsn: int = 0


@dataclass(frozen=True, slots=True)
class View:
    """A snapshot with the rows that it sees. `moment` counts the ends of transactions: it is how the oracle tells time,
    and nothing under test may know it. `life` counts the server's starts: a connection does not outlive one."""

    ids: SnapshotIds
    version: int
    insert_lsn: int
    moment: int
    life: int
    rows: dict[bytes, int]


class Source:
    """delays      how probable it is that a commit in the log is not visible at the next look; 0: never
    asynchronous  how probable it is that a transaction commits with `synchronous_commit = off`
    lsn_is_clock  the seeded bug: versions come from the log's insert position"""

    def __init__(self, rng: Random, keys: Sequence[bytes], *, delays: float, asynchronous: float, lsn_is_clock: bool):
        self._rng, self._keys, self._lsn_is_clock = rng, keys, lsn_is_clock
        self._delays, self._asynchronous = delays, asynchronous
        # Near an end of the 32 bits, so that they run over meanwhile; or far from it, or young.
        self._first = rng.choice(((1 << 32) - rng.randrange(1, 9), (7 << 32) + 1000, 1000))
        self.next_xid = self._first
        self._completed = self._first - 1
        self._active: list[Transaction] = []
        self._locked: set[bytes] = set()
        self.log: list[LogRecord] = [LogRecord(self._completed, None)]
        self.flushed = 1
        self.rows = {key: number for number, key in enumerate(keys, 1) if rng.random() < 0.7}
        self._values = len(keys)
        self.history = {key: [Change(0, self.rows.get(key), 0)] for key in keys}
        self._moment = 0
        self._moments: dict[int, tuple[int, int]] = {}
        self.life = 0
        self.confirmed = 0
        self.slot_start: int | None = None

    # What users do.

    def work(self) -> str:
        """Some transaction goes one step on. Says what happened, nothing when nothing did."""
        rng = self._rng
        if not self._active or (len(self._active) < 3 and rng.random() < 0.3):
            return self._begin()
        transaction = rng.choice(self._active)
        if transaction.lsn:
            if rng.random() < self._delays:
                return ""
            return self._end(transaction, visible=True)
        roll = rng.random()
        if roll < 0.25 and (did := self._write(transaction)):
            return did
        if roll < 0.9:
            return self._commit(transaction)
        return self._roll_back(transaction)

    def flush(self) -> str:
        """What the WAL writer does every now and then."""
        if self.flushed == len(self.log):
            return ""
        self.flushed = len(self.log)
        return f"the log is flushed up to {self.flushed}"

    def rest(self) -> None:
        """Every transaction ends, and all of the log is flushed."""
        for transaction in list(self._active):
            if not transaction.lsn:
                self._commit(transaction)
            if transaction in self._active:
                self._end(transaction, visible=True)
        self.flush()

    def crash(self) -> str:
        """What was not flushed is lost; what was is visible, also the commits that waited."""
        del self.log[self.flushed :]
        for changes in self.history.values():
            changes[:] = [change for change in changes if change.lsn <= self.flushed]
        waiting = [t for t in self._active if 0 < t.lsn <= self.flushed]
        self._active.clear()
        self._locked.clear()
        self._moment += 1
        for transaction in waiting:
            for key, value in transaction.writes.items():
                self.history[key].append(Change(self._moment, value, transaction.lsn))
        values = ((key, changes[-1].value) for key, changes in self.history.items())
        self.rows = {key: value for key, value in values if value is not None}
        self._completed = max(record.xid for record in self.log)
        self.next_xid = self._completed + 1
        self._moments = {version: at for version, at in self._moments.items() if at[1] <= self.flushed}
        self.life += 1
        return f"the source crashes; its log ends at {self.flushed}, the next xid is {self.next_xid}"

    def _begin(self) -> str:
        transaction = Transaction(self.next_xid, self._rng.random() < self._asynchronous)
        if not (did := self._write(transaction)):
            return ""
        self.log.append(LogRecord(transaction.xid, None))
        self.next_xid += 1
        self._active.append(transaction)
        return did

    def _write(self, transaction: Transaction) -> str:
        free = [key for key in self._keys if key not in self._locked or key in transaction.writes]
        if not free:
            return ""
        rng, rows, writes = self._rng, self.rows, transaction.writes
        key = rng.choice(free)
        old = writes[key] if key in writes else rows.get(key)
        self._values += 1
        self._locked.add(key)
        if old is None:
            writes[key] = self._values
            transaction.changes.append((None, key))
            return f"xid {transaction.xid} inserts {key.decode()} = {self._values}"
        roll = rng.random()
        if roll < 0.4:
            writes[key] = None
            transaction.changes.append((key, None))
            return f"xid {transaction.xid} deletes {key.decode()}"
        empty = [k for k in free if (writes[k] if k in writes else rows.get(k)) is None]
        if roll < 0.6 and empty:
            new = rng.choice(empty)
            self._locked.add(new)
            writes[key], writes[new] = None, self._values
            transaction.changes.append((key, new))
            return f"xid {transaction.xid} changes key {key.decode()} to {new.decode()} = {self._values}"
        writes[key] = self._values
        transaction.changes.append((key, key))
        return f"xid {transaction.xid} updates {key.decode()} = {self._values}"

    def _commit(self, transaction: Transaction) -> str:
        self.log.append(LogRecord(transaction.xid, tuple(transaction.changes)))
        transaction.lsn = len(self.log)
        if not transaction.asynchronous:
            self.flushed = transaction.lsn
        if self._delays:
            return f"xid {transaction.xid} commits: logged at {transaction.lsn}, not visible yet"
        return self._end(transaction, visible=True)

    def _roll_back(self, transaction: Transaction) -> str:
        self.log.append(LogRecord(transaction.xid, None))
        return self._end(transaction, visible=False)

    def _end(self, transaction: Transaction, *, visible: bool) -> str:
        self._active.remove(transaction)
        self._locked -= transaction.writes.keys()
        self._completed = max(self._completed, transaction.xid)
        self._moment += 1
        if not visible:
            return f"xid {transaction.xid} rolls back"
        for key, value in transaction.writes.items():
            if value is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = value
            self.history[key].append(Change(self._moment, value, transaction.lsn))
        return f"xid {transaction.xid} is visible (committed at {transaction.lsn})"

    # What Reshelve does.

    def snapshot(self) -> View:
        """As `pg_current_snapshot()` and `pg_current_wal_insert_lsn()` in a reading transaction."""
        xmax = self._completed + 1
        running = sorted(t.xid for t in self._active if t.xid < xmax)
        ids = SnapshotIds.parse(f"{running[0] if running else xmax}:{xmax}:{','.join(map(str, running))}")
        lsn = len(self.log)
        version = make_version(EPOCH, lsn if self._lsn_is_clock else ids.clock)
        self._moments.setdefault(version, (self._moment, lsn))
        return View(ids, version, lsn, self._moment, self.life, dict(self.rows))

    def create_slot(self) -> None:
        self.flush()
        self.slot_start = self.confirmed = len(self.log)

    def take_xid(self) -> int:
        xid = self.next_xid
        self.next_xid += 1
        self.log.append(LogRecord(xid, ()))
        self.flush()
        self._completed = xid  # the highest that was given out
        self._moment += 1
        return xid

    def decode(self, after: int, commits: int) -> tuple[list[Decoded], int]:
        """The next transactions that committed after that LSN, and the LSN up to which there are no others."""
        found: list[Decoded] = []
        while after < self.flushed:
            record = self.log[after]
            after += 1
            if record.changes:
                found.append(Decoded(record.xid & XID_BITS, after, record.changes))
                if len(found) == commits:
                    break
        return found, after

    # What only the oracle knows.

    @property
    def now(self) -> int:
        return self._moment

    def moment_of(self, version: int) -> int | None:
        """The moment of a snapshot; None when it saw what a crash took away, or was never taken."""
        found = self._moments.get(version)
        return None if found is None else found[0]

    def last_decoded(self, key: bytes, moment: int) -> int | None:
        """When the last change of a key that is visible at that moment became so, of those that the slot decodes."""
        assert self.slot_start is not None
        for change in reversed(self.history[key]):
            if change.moment <= moment:
                return change.moment if change.lsn > self.slot_start else None
        return None

    def had(self, key: bytes, value: int | None, since: int) -> bool:
        """Whether the key had that value (None: no row) at that moment or some time after it."""
        for change in reversed(self.history[key]):
            if change.value == value:
                return True
            if change.moment <= since:
                return False
        return False
