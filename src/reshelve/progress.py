"""How far a run is: what its workers' receipts, counters and offsets say."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

from reshelve.applied import Applied, oldest, seconds_behind
from reshelve.commands import Bounds, Pause
from reshelve.consumers.reject_ledger import RejectLedger
from reshelve.context import RunContext
from reshelve.errors import AccessRefused, BlockedError
from reshelve.kafka import header_items, refusal
from reshelve.model import Receipt
from reshelve.offsets import Offsets, lacking, read_offsets
from reshelve.rates import Rate, RateMeter
from reshelve.receipts import Tiling, tile
from reshelve.schemas.codec import COUNTERS, RECEIPT, CodecError, decode_receipt, schema_of
from reshelve.schemas.reject import Reject, read_record

_OFFSETS_EVERY_S: Final = 1.0
_OFFSETS_TIMEOUT_S: Final = 5.0  # brokers that are away must not keep a Ctrl-C waiting
_TOPICS_EVERY_S: Final = 5.0
_STALE_WORKER_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class Progress:
    """A picture of the run at one moment.

    committed, ends  of `documents`, by partition: what the indexers have durably passed, and how far it is written.
                     When the receipts tile, the ends were read after that: they count every document of the copy
    rejects          rejected documents: distinct keys that were neither redriven nor waived
    workers          newest report of each living worker
    waiting          why somebody waits
    copied_ends      `ends` when the receipts were first seen to tile; empty before. What lies behind are changes
    at_ms            when this picture was made, milliseconds since 1970 UTC
    applied          applied clock by partition; empty when changes are not followed
    key_positions, change_ends  the same as `committed` and `ends`, of the key readers and `changes`
    pause            why no work is taken; None when it is
    bounds           the limits that hold
    signals          what the adaptive throttle looks at, as it was last
    reject_records   records of `rejects` that are no resolutions: a key counts as often as it was rejected
    """

    tiling: Tiling
    committed: Mapping[int, int]
    ends: Mapping[int, int]
    rejects: int
    workers: tuple[dict[str, Any], ...]
    waiting: tuple[str, ...]
    read_rate: Rate
    index_rate: Rate
    copied_ends: Mapping[int, int] = field(default_factory=dict)
    at_ms: int = 0
    followed: bool = False
    applied: Mapping[int, Applied | None] = field(default_factory=dict)
    key_positions: Mapping[int, int] = field(default_factory=dict)
    change_ends: Mapping[int, int] = field(default_factory=dict)
    pause: Pause | None = None
    bounds: Bounds | None = None
    signals: Mapping[str, float] = field(default_factory=dict)
    reject_records: int = 0

    @property
    def lag(self) -> int:
        """Offsets between what is written and what is durably indexed; transaction markers count too."""
        return lacking(self.committed, self.ends)

    @property
    def drained(self) -> bool:
        """Every partition durably indexed up to its end: a position, not lag arithmetic. Offsets of committed records
        get there only when no transaction is left open, so no document of the copy can come any more once the
        receipts tile."""
        return bool(self.ends) and all(self.committed.get(p, 0) >= end for p, end in self.ends.items())

    @property
    def indexed(self) -> int:
        """Documents of the copy that are durably indexed, estimated from the offsets: markers, and the changes made
        meanwhile, lie between the documents. What came after the copy does not count."""
        ends = self.copied_ends or self.ends
        total = sum(ends.values())
        return 0 if not total else round(self.tiling.documents * (1 - lacking(self.committed, ends) / total))

    @property
    def change_lag(self) -> int | None:
        """Offsets of `changes` that the key readers have still to pass, watermarks too; None when nobody follows."""
        return lacking(self.key_positions, self.change_ends) if self.followed else None

    @property
    def applied_version(self) -> int | None:
        """Every change visible at its clock is in the index; None as long as a partition has no applied clock."""
        clock = oldest(self.applied.values())
        return None if clock is None else clock.version

    @property
    def applied_at(self) -> int | None:
        """Every change committed before this time (milliseconds since 1970 UTC) is durably indexed; None: not known."""
        clock = oldest(self.applied.values())
        return None if clock is None else clock.at

    @property
    def seconds_behind(self) -> float | None:
        """How old the oldest change may be that is not indexed; None when nobody follows, or none was indexed yet."""
        return seconds_behind(self.applied.values(), self.at_ms)

    @property
    def tailer(self) -> Mapping[str, int]:
        """What the tailer counts: `wal_retained` (bytes that the source keeps for the slot), `transactions` and
        `key_tasks` since it started. Empty when none has reported."""
        reports = [report for report in self.workers if report["role"] == "tailer"]
        return max(reports, key=lambda report: report["at"])["counts"] if reports else {}

    @property
    def bulk(self) -> dict[str, int]:
        """Bulk requests of the living indexers since each began, and the milliseconds that they took in all."""
        counts = [report["counts"] for report in self.workers if report["role"] == "indexer"]
        return {name: sum(int(count.get(name, 0)) for count in counts) for name in ("requests", "request_ms")}

    def eta_s(self, expected: int) -> tuple[float, float] | None:
        """Seconds until `expected` documents are indexed, as a range; None while there is no rate to go by, and
        for the first hundredth, when the rate is mostly that of workers which are still starting."""
        rates = [r for r in (self.index_rate.minute, self.index_rate.ten_minutes) if r]
        if not rates or self.indexed < expected / 100:
            return None
        left = max(0, expected - self.indexed)
        return left / max(rates), left / min(rates) * 1.2

    def as_dict(self) -> dict[str, Any]:
        """For the journal's checkpoints, `--json` and the report."""
        return {
            "segments": self.tiling.segments,
            "segments_done": self.tiling.segments_done,
            "rows": self.tiling.rows,
            "documents": self.tiling.documents,
            "left_out": self.tiling.left_out,
            "rejected": self.tiling.rejected,
            "bytes": self.tiling.bytes,
            "indexed": self.indexed,
            "lag": self.lag,
            "rejects": self.rejects,
            "committed": {str(p): offset for p, offset in sorted(self.committed.items())},
            "ends": {str(p): offset for p, offset in sorted(self.ends.items())},
            "read_per_second": self.read_rate.minute,
            "indexed_per_second": self.index_rate.minute,
            "bulk": self.bulk,
            "waiting": list(self.waiting),
            "paused": None if self.pause is None else self.pause.as_dict(),
            "limit": None if self.bounds is None else self.bounds.as_dict(),
        } | (self._changes() if self.followed else {})

    def _changes(self) -> dict[str, Any]:
        return {
            "seconds_behind": self.seconds_behind,
            "applied_at": self.applied_at,
            "applied": {str(p): clock and clock.version for p, clock in sorted(self.applied.items())},
            "change_lag": self.change_lag,
            "wal_retained": self.tailer.get("wal_retained"),
        }


class ProgressReader:
    """Follows the run's `progress` topic and offsets. Not thread-safe."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._consumer: Consumer = context.cluster.consumer(
            context.run.group("control"),
            {"auto.offset.reset": "earliest", "queued.max.messages.kbytes": 2048, "enable.partition.eof": True},
        )
        self._rejects_topic = context.run.topic("rejects")
        self._consumer.assign(
            [
                TopicPartition(topic, 0, OFFSET_BEGINNING)
                for topic in (context.run.topic("progress"), self._rejects_topic)
            ]
        )
        self._receipts: list[Receipt] = []
        self._tiling: Tiling | None = None
        self._workers: dict[tuple[str, str], tuple[float, dict[str, Any]]] = {}
        self._offsets = Offsets()
        self._copied_ends: dict[int, int] = {}
        self._rejected = RejectLedger()
        self._reject_records = 0
        self._offsets_at = self._topics_at = 0.0
        self._missing: set[str] = set()
        self._gone: set[str] = set()
        self._trouble = ""
        self._began, self._began_ms = time.monotonic(), int(time.time() * 1000)
        self._caught_up = False
        self._reads, self._indexes = RateMeter(), RateMeter()

    def close(self) -> None:
        self._consumer.close()

    def poll(self) -> Progress:
        """The newest picture. When Kafka does not answer it is the last one, with the trouble among `waiting`.

        Raises AccessRefused, BlockedError when something else than ours is in the topics or one of them is gone."""
        self._read_progress()
        if self._tiling is None:
            self._tiling = tile(self._context.plan.segments, self._receipts)
            if self._tiling.complete:
                self._offsets, self._offsets_at = (
                    replace(self._offsets, ends={}),
                    0.0,
                )  # the ends known so far may be older than the last page
        if time.monotonic() - self._offsets_at > _OFFSETS_EVERY_S:
            self._read_offsets()
        now = time.monotonic()
        living = [record for at, record in self._workers.values() if now - at < _STALE_WORKER_S]
        progress = Progress(
            self._tiling,
            self._offsets.committed,
            self._offsets.ends,
            self._rejected.unresolved,
            tuple(living),
            (),
            self._reads.rate(),
            self._indexes.rate(),
            copied_ends=dict(self._copied_ends),
            at_ms=int(time.time() * 1000),
            followed=self._context.plan.changes.followed,
            applied=self._offsets.applied,
            key_positions=self._offsets.key_positions,
            change_ends=self._offsets.change_ends,
            reject_records=self._reject_records,
        )
        reasons = [f"{r['role']} {r['worker']}: {r['waiting']}" for r in living if r["waiting"]]
        reasons += [
            f"{r['role']} {r['worker']} has ended: {json.loads(r['blocked'])['what']}; see its output"
            for _, r in self._workers.values()
            if r["blocked"] and r["at"] >= self._began_ms  # what ended an earlier attempt is no news
        ]
        if self._trouble:
            reasons.append(self._trouble)
        elif now - self._began > _STALE_WORKER_S:
            reasons += silences(progress, str(self._context.run))
        progress = replace(progress, waiting=tuple(reasons))
        if self._caught_up and not self._trouble:  # what an earlier process did is no rate of this one
            self._reads.add(self._tiling.documents)
            self._indexes.add(progress.indexed)
        return progress

    @property
    def receipts(self) -> Sequence[Receipt]:
        return self._receipts

    def _read_progress(self) -> None:
        for message in self._consumer.consume(500, 0.1):
            error = message.error()
            if error is not None:
                if error.code() != KafkaError._PARTITION_EOF:
                    self._note(error)
                elif message.topic() != self._rejects_topic:
                    self._caught_up = True
                continue
            if message.topic() == self._rejects_topic:
                word = read_record(message.key() or b"", message.value(), header_items(message))
                self._rejected.take(word)
                self._reject_records += isinstance(word, Reject)
                continue
            record = message.value() or b""
            try:
                schema = schema_of(record)
                if schema is RECEIPT:
                    self._receipts.append(decode_receipt(record))
                    self._tiling = None
                elif schema is COUNTERS:
                    report = COUNTERS.decode(record)
                    self._workers[report["role"], report["worker"]] = (time.monotonic(), report)
            except CodecError as error:
                raise BlockedError(
                    f"record {message.offset()} of {message.topic()} is not ours",
                    where=self._context.cluster.bootstrap,
                    why=str(error),
                    remedy="something else wrote to the run's topic; start a new run with --new",
                ) from None

    def _read_offsets(self) -> None:
        context = self._context
        try:
            self._look_for_topics()
            found = read_offsets(
                context.cluster,
                context.run,
                context.partitions,
                followed=context.plan.changes.followed,
                timeout=_OFFSETS_TIMEOUT_S,
            )
        except BlockedError as error:
            if isinstance(error, AccessRefused):
                raise
            self._trouble = str(error)
        else:
            self._offsets = found
            if not self._copied_ends and self._tiling is not None and self._tiling.complete:
                self._copied_ends = dict(found.ends)
            self._trouble = ""
        self._offsets_at = time.monotonic()
        if self._gone:
            raise topics_gone(context, self._gone)

    def _look_for_topics(self) -> None:
        """A topic is gone when it is missing twice: brokers that have just started may not know all of them."""
        if time.monotonic() - self._topics_at < _TOPICS_EVERY_S:
            return
        known = self._context.cluster.topics(self._context.run.prefix, timeout=_OFFSETS_TIMEOUT_S)
        missing = {topic.name for topic in self._context.plan.topics} - known.keys()
        self._gone, self._missing = missing & self._missing, missing
        self._topics_at = time.monotonic()

    def _note(self, error: KafkaError) -> None:
        refused = refusal(error, "cannot follow the run's progress", self._context.cluster.bootstrap)
        if refused.code == "access":
            raise refused
        self._trouble = str(refused)


def silences(progress: Progress, run: str) -> list[str]:
    """The roles that have work to do and of which nobody reports: nothing goes on, or nobody can tell. Pure."""
    heard = {record["role"] for record in progress.workers}
    at_work = {
        "pages": not progress.tiling.complete,
        "tailer": progress.followed,
        "keys": bool(progress.change_lag),
        "indexer": not progress.drained,
    }
    return [
        f"no {role} worker has reported for {_STALE_WORKER_S:.0f} s: it waits for its server's answer, or there is none"
        f" (`reshelve worker {role} {run}` starts one)"
        for role, busy in at_work.items()
        if busy and role not in heard
    ]


def topics_gone(context: RunContext, missing: Iterable[str]) -> BlockedError:
    """Topics of the run were deleted: what was in them can't be told any more."""
    return BlockedError(
        f"topics of run {context.run} are gone: {', '.join(sorted(missing))}",
        where=context.cluster.bootstrap,
        why="somebody deleted them",
        remedy="start a new run with --new",
    )


def read_tiling(context: RunContext) -> Tiling:
    """How far the receipts cover the plan's segments now. Raises ReshelveError."""
    receipts = [
        decode_receipt(record)
        for message in context.cluster.read(context.run.topic("progress"), [0])
        if schema_of(record := message.value() or b"") is RECEIPT
    ]
    return tile(context.plan.segments, receipts)
