"""Keys that were read again, checked again while writes go on: the index against the source by value, and against the
topic by version."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from reshelve.consumers.rejects import read_rejects
from reshelve.context import RunContext
from reshelve.drifted import DriftedKeys, Write
from reshelve.schemas.reject import Reject
from reshelve.validator.alignment import Alignment, align
from reshelve.validator.compare import Written, expected_version, judge
from reshelve.validator.excuse import Excuses
from reshelve.validator.log import read_between
from reshelve.validator.newest import scratch
from reshelve.validator.source_keys import SourceKeys
from reshelve.validator.suspects import Suspect, SuspectReader

REJECTED: Final = "it became no document: see `reshelve rejects list`"
REFUSED: Final = "the index takes no such document: a delete by somebody else is newer"
AHEAD: Final = "the index has a version that somebody else wrote, newer than the source's clock"
BEHIND: Final = "the index has an older version"
DIFFERENT: Final = "source and index differ"

_TABLES: Final = (
    "create table seen (key blob primary key, version integer) without rowid",
    "create table record (key blob, version integer, gone integer, passed integer)",
)
_RECORD: Final = "insert into record select ?, ?, ?, ? where exists (select 1 from seen where key = ?)"
_RECORDS: Final = "select version, gone, passed from record where key = ? order by rowid"


@dataclass(frozen=True, slots=True)
class Finding:
    """What is known of one key.

    lower       its newest record since the repair began that the index must have; None: there is none
    candidates  its records that the index may have
    found       the version that the index has; None: no such document
    """

    lower: Written | None
    candidates: tuple[Written, ...]
    found: int | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """write: what the key was made, where it is right; else why it is not. ahead: the foreign version that is newer
    than ours. final: another try would change nothing."""

    write: Write | None = None
    why: str = ""
    ahead: int | None = None
    final: bool = False


def conclude(finding: Finding, suspect: Suspect | None, *, rejected: bool) -> Verdict:
    """Pure. `suspect`: the key's value differs for certain; rejected: it was, since the repair began."""
    lower, found = finding.lower, finding.found
    if lower is None or (suspect is not None and suspect.rejected):
        return Verdict(why=REJECTED, final=True)
    if judge(lower, finding.candidates, found) is None:
        if suspect is not None:
            return Verdict(why=DIFFERENT)
        return Verdict("tombstone" if expected_version(lower, finding.candidates) is None else "document")
    if rejected:
        return Verdict(why=REJECTED, final=True)
    if found is None:
        return Verdict(why=REFUSED)
    if found > max(one.version for one in (lower, *finding.candidates)):
        return Verdict(why=AHEAD, ahead=found)
    return Verdict(why=BEHIND)


@dataclass(frozen=True)
class Recheck:
    """Looks at every key that is left, and settles those that are right.

    starts   of `documents`, by partition, before the first key was read again
    rejects  where `rejects` ended then
    fed      whether somebody follows the source's changes now
    check    called often; raises to end the work
    """

    context: RunContext
    starts: Mapping[int, int]
    rejects: int
    fed: Callable[[], bool]
    check: Callable[[], None]
    say: Callable[[str], None]

    def run(self, keys: DriftedKeys) -> None:
        """Raises ReshelveError."""
        suspects = self._compare_values(keys)
        with scratch() as memory:
            for table in _TABLES:
                memory.execute(table)
            alignment = align(self.context, self.say)
            try:
                self._read_versions(memory, keys, alignment)
            finally:
                alignment.point.close()
            self._read_records(memory, alignment)
            records = read_rejects(self.context.cluster, self.context.run, self.rejects)
            rejected = {record.key.encode() for record, _, _ in records if isinstance(record, Reject)}
            for key, finding in _findings(memory):
                verdict = conclude(finding, suspects.get(key), rejected=key in rejected)
                if verdict.write is not None:
                    keys.settle(key.decode(), verdict.write)
                else:
                    keys.leave(key.decode(), verdict.why, ahead=verdict.ahead, final=verdict.final)

    def _compare_values(self, keys: DriftedKeys) -> dict[bytes, Suspect]:
        """Those that differ for certain: few, most were just written."""
        context, certain = self.context, {}
        with closing(context.snapshot_reader("reshelve repair")) as source:
            reader = SuspectReader(
                SourceKeys(source, context.plan.source.key).documents,
                context.opensearch,
                context.plan.index,
                context.transform,
                Excuses(context, self.fed(), self.check),
                self.check,
            )
            for page in keys.pages():
                found = reader.read([one.key.encode() for one in page])
                certain.update({one.key: one for one in found.certain})
        return certain

    def _read_versions(self, memory: sqlite3.Connection, keys: DriftedKeys, alignment: Alignment) -> None:
        for page in keys.pages():
            self.check()
            asked = [one.key.encode() for one in page]
            versions = alignment.point.versions(asked)
            memory.executemany("insert into seen values (?, ?)", [(key, versions.get(key)) for key in asked])

    def _read_records(self, memory: sqlite3.Connection, alignment: Alignment) -> None:
        """Of the keys that were looked at: what the index must have, and what it may have."""
        settled, written = dict(enumerate(alignment.settled)), dict(enumerate(alignment.written))
        behind = {partition: max(settled[partition], self.starts[partition]) for partition in settled}
        for passed, starts, ends in ((True, self.starts, settled), (False, behind, written)):
            cluster, topic = self.context.cluster, self.context.run.topic("documents")
            records = read_between(cluster, topic, starts, ends, self.context.partitions, self.check)
            for key, _, version, document in records:
                memory.execute(_RECORD, [key, version, document is None, passed, key])


def _findings(memory: sqlite3.Connection) -> Iterator[tuple[bytes, Finding]]:
    memory.execute("create index record_key on record (key)")
    for key, found in memory.execute("select key, version from seen"):
        passed: list[Written] = []
        open_: list[Written] = []
        for version, gone, settled in memory.execute(_RECORDS, [key]):
            (passed if settled else open_).append(Written(version, bool(gone)))
        yield key, Finding(_newest(passed), tuple(open_), found)


def _newest(records: Sequence[Written]) -> Written | None:
    """The last of the highest version."""
    return max(reversed(records), key=lambda one: one.version, default=None)
