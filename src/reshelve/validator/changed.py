"""Which keys the topic `changes` names: of every other key, the topic `documents` holds one record only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Final
from zlib import crc32

from confluent_kafka import Message

from reshelve.errors import Unreachable
from reshelve.kafka import KafkaCluster
from reshelve.model import RunId
from reshelve.validator.log import bad_record, is_watermark, watermark_version
from reshelve.validator.target import Check

_BITS: Final = 25  # 2**25 bits are 4 MiB: with a million changed keys, 3 of 100 others are taken for changed
_MASK: Final = (1 << _BITS) - 1
_STEP: Final = 10_000  # records between two looks at `check`
WATERMARK_WAIT_S: Final = 60.0
_LOOK_S: Final = 0.25  # a tailer's tick


class ChangedKeys:
    """A set of keys of one partition in 4 MiB. A key that was added is in it; another may be.

    Keys are asked for by `rest`, their crc32 // partitions: in a partition, the crc's remainder is always the same."""

    def __init__(self, rests: Iterable[int] = ()) -> None:
        self._bits = bytearray(1 << _BITS - 3)
        for rest in rests:
            self.add(rest)

    @classmethod
    def all(cls) -> ChangedKeys:
        """The set of every key."""
        found = cls()
        found._bits = bytearray(b"\xff") * len(found._bits)
        return found

    def add(self, rest: int) -> None:
        place = rest & _MASK
        self._bits[place >> 3] |= 1 << (place & 7)

    def __contains__(self, rest: int) -> bool:
        place = rest & _MASK
        return self._bits[place >> 3] >> (place & 7) & 1 == 1


@dataclass(frozen=True)
class ChangeLog:
    """A partition of the run's topic `changes`."""

    cluster: KafkaCluster
    run: RunId
    partition: int
    partitions: int
    check: Check = lambda: None

    def changed_keys(self) -> ChangedKeys | None:
        """The keys of all tasks that there are by now; None when there is no task.

        To be asked for after the end of `documents` was looked up: a key task stands in `changes` before what is
        read for it can stand in `documents`. Where the beginning of `changes` is gone, every key counts as changed.
        Raises BlockedError for a key of another partition, Unreachable."""
        found: ChangedKeys | None = None
        for number, message in enumerate(self._read(0, self._end())):
            if number % _STEP == 0:
                self.check()
            if number == 0 and message.offset() != 0:
                return ChangedKeys.all()
            if is_watermark(message):
                continue
            rest, partition = divmod(crc32(_key(message)), self.partitions)
            if partition != self.partition:
                raise bad_record(message, "its key is not one of this partition")
            found = found or ChangedKeys()
            found.add(rest)
        return found

    def pending(
        self, keys: frozenset[bytes], start: int, version: int | None, *, patience: float = WATERMARK_WAIT_S
    ) -> frozenset[bytes]:
        """Which of the keys have a task between the offset `start` and the first watermark of the clock of `version`,
        or a later one; version None: up to where the partition ends now.

        Waits for this watermark, `patience` seconds at most: raises Unreachable when it does not come."""
        found: set[bytes] = set()
        deadline = monotonic() + patience
        while True:
            end = self._end()
            for number, message in enumerate(self._read(start, end)):
                if number % _STEP == 0:
                    self.check()
                if not is_watermark(message):
                    if (key := _key(message)) in keys:
                        found.add(key)
                elif version is not None and watermark_version(message) >= version:
                    return frozenset(found)
            if version is None:
                return frozenset(found)
            start = max(start, end)
            self.check()
            if monotonic() > deadline:
                raise self._no_watermark(patience)
            sleep(_LOOK_S)

    @property
    def _topic(self) -> str:
        return self.run.topic("changes")

    def _end(self) -> int:
        return self.cluster.stable_ends(self._topic, self.partitions)[self.partition]

    def _read(self, start: int, end: int) -> Iterator[Message]:
        starts, ends = {self.partition: start}, {self.partition: end}
        return self.cluster.read(
            self._topic, [self.partition], starts=starts, ends=ends, group=self._topic + ".validator"
        )

    def _no_watermark(self, patience: float) -> Unreachable:
        return Unreachable(
            "whole documents can't be compared",
            where=f"{self._topic}/{self.partition}",
            why=f"the change tailer has written no watermark of the samples' clock within {patience:.0f} s",
            remedy=f"see that the change tailer runs (`reshelve worker tailer {self.run}` starts one) "
            "and that PostgreSQL answers it",
        )


def _key(message: Message) -> bytes:
    key = message.key()
    if not isinstance(key, bytes):
        raise bad_record(message, "it has no key")
    return key
