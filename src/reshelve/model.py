"""The facts that every part of Reshelve speaks of. No I/O here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeAlias
from zlib import crc32

import xxhash

CLOCK_BITS: Final = 48
MAX_EPOCH: Final = 31  # so that a version stays below 2**53 and survives a JSON parser that knows only doubles
SLOT_PREFIX: Final = "reshelve_"
WATERMARK_KEY: Final = b""  # of watermarks among keyed records: no document has it, `_id` must not be empty
MAX_ID_BYTES: Final = 512  # OpenSearch's limit on `_id`
_CHECKSUM_MASK: Final = (1 << 64) - 1

Bound: TypeAlias = tuple[str, ...] | None
"""A place between keys: the text of the key columns, or of the first few of them (a prefix).
None is the open end: before every key as a low bound, after every key as a high bound."""


def make_version(epoch: int, clock: int) -> int:
    """The 64-bit version of a document read at `clock` in `epoch`: `epoch << 48 | clock`.

    Raises ValueError when either is out of range."""
    if not 0 <= epoch <= MAX_EPOCH:
        raise ValueError(f"epoch {epoch} is not in 0..{MAX_EPOCH}")
    if not 0 < clock < 1 << CLOCK_BITS:
        raise ValueError(f"clock {clock} is not in 1..2**48-1")
    return epoch << CLOCK_BITS | clock


def document_checksum(key: bytes, version: int) -> int:
    """XXH3-64 of the key, seeded with the version. Sums of it (mod 2**64) are the checksums of
    pages, partitions and indexes: any write by anybody changes a version, so it changes the sum."""
    return xxhash.xxh3_64_intdigest(key, version)


def add_checksums(checksums: Iterable[int]) -> int:
    """Sum mod 2**64: commutative, so the order of reading does not matter."""
    return sum(checksums) & _CHECKSUM_MASK


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of `key` in `documents` and `changes`: CRC-32 mod partitions, which is
    librdkafka's `consistent` partitioner."""
    return crc32(key) % partitions


def join_key(parts: Sequence[str]) -> str:
    """The document key (`_id`) of the texts of the key columns: one column stands for itself;
    several are joined by `|` with `|` and `\\` in them escaped by `\\`, so no two keys collide."""
    if len(parts) == 1:
        return parts[0]
    return "|".join(part.replace("\\", "\\\\").replace("|", "\\|") for part in parts)


_KEY_TOKEN: Final = re.compile(r"\|((?:[^|\\]|\\.)*)", re.DOTALL)
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)


def split_key(key: str, columns: int) -> tuple[str, ...]:
    """The inverse of `join_key`. Raises ValueError when `key` does not have that many columns."""
    if columns == 1:
        return (key,)
    parts = tuple(_ESCAPED.sub(r"\1", part) for part in _KEY_TOKEN.findall("|" + key))
    if len(parts) != columns:
        raise ValueError(f"not a key of {columns} columns: {key!r}")
    return parts


@dataclass(frozen=True, slots=True)
class KeyColumn:
    """A column of the document key: its name in the query's result and its PostgreSQL type
    (`format_type` text, e.g. "bigint", "character varying(20)", "uuid")."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table that the query reads, as it was when planned. `fingerprint` covers what TRUNCATE,
    a rewrite or a change of columns would alter (the filenode, and the columns with their types)."""

    schema: str
    name: str
    oid: int
    fingerprint: str


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """What was found out about the source when planning. A reader refuses a source that differs."""

    system_identifier: str
    timeline: int
    key: tuple[KeyColumn, ...]
    tables: tuple[Table, ...]
    estimated_documents: int
    estimated_bytes: int


@dataclass(frozen=True, slots=True)
class ChangeRule:
    """Which document keys a change of a table makes dirty.

    columns  whose values, old and new, are taken from each change; without `lookup` they are the document
             key itself, in the order of the key's columns
    types    base types of these columns (`format_type`; of a domain, what it is made of)
    lookup   SELECT that finds the keys, its columns in the key's order; the values are its parameters: `%(values)s`
             where there is one column, else an array `%(<column>)s` for each; None: the values are the key
    """

    schema: str
    table: str
    oid: int
    columns: tuple[str, ...]
    types: tuple[str, ...]
    lookup: str | None = None


@dataclass(frozen=True, slots=True)
class ChangePlan:
    """How a run follows the changes of its source.

    mode              "replication" (a slot of our own), "debezium" (topics that a connector fills) or "none"
    slot              the replication slot: ours, or the connector's; empty in mode "none"
    publication       in mode "replication"
    owns_publication  the run makes it and drops it
    rules             by table; a table may have several
    ignored           tables (schema.table) that the query reads and whose changes are not followed, as asked for
    """

    mode: str
    slot: str = ""
    publication: str = ""
    owns_publication: bool = False
    rules: tuple[ChangeRule, ...] = ()
    ignored: tuple[str, ...] = ()

    @property
    def followed(self) -> bool:
        return self.mode != "none"


@dataclass(frozen=True, slots=True)
class PhasePlan:
    """A part of the copy, as planned: keys after `low`, up to and including `high`.

    needs                those that must be copied before it begins
    first, last          numbers of its segments
    estimated_documents  in it"""

    name: str
    low: Bound
    high: Bound
    needs: tuple[str, ...]
    first: int
    last: int
    estimated_documents: int


@dataclass(frozen=True, slots=True)
class KeyTask:
    """Read one key again. It is the record's key.

    after_xid  64-bit id of the transaction that changed it: to be read at a snapshot in which that is visible;
               0: at any
    at         when it was committed, milliseconds since 1970 UTC; for people
    """

    after_xid: int
    at: int


@dataclass(frozen=True, slots=True)
class Watermark:
    """Every change visible at the clock of `version` has been emitted before this record, in its partition.

    at   wall time of that snapshot, milliseconds since 1970 UTC
    lsn  how far the log was passed: of a transaction that committed before it, every key task is durable
    """

    version: int
    at: int
    lsn: int


@dataclass(frozen=True, slots=True)
class DriftedKey:
    """A key whose document is not what it should be, as a check found it.

    drift     missing, extra, stale, different or foreign
    level     how it was found: checksums (or counts), samples, full
    expected  version that should be there; None: no document should, or it is not known
    found     version that is there; None: none is
    """

    key: str
    check: str
    level: str
    drift: str
    expected: int | None
    found: int | None


@dataclass(frozen=True, slots=True)
class Segment:
    """A key range of the plan: keys after `low`, up to and including `high`."""

    number: int
    low: Bound
    high: Bound


@dataclass(frozen=True, slots=True)
class PageTask:
    """Read the next page of a segment: keys after `cursor`, up to and including `end`."""

    segment: int
    cursor: Bound
    end: Bound


@dataclass(frozen=True, slots=True)
class Receipt:
    """Proof that the keys after `low` up to and including `high` were read at one snapshot.

    rows = documents + left_out (by the transform) + rejected (could not be made a document);
    bytes counts the documents' JSON; checksum is the sum of `document_checksum` of the documents."""

    segment: int
    low: Bound
    high: Bound
    rows: int
    documents: int
    left_out: int
    rejected: int
    bytes: int
    checksum: int
    version: int


@dataclass(frozen=True, slots=True)
class RunId:
    """A run of a reindex, written `<reindex>.<name>`; `name` sorts by the time of planning."""

    reindex: str
    name: str

    def __str__(self) -> str:
        return f"{self.reindex}.{self.name}"

    @classmethod
    def parse(cls, text: str) -> RunId:
        """Raises ValueError when `text` is not `<reindex>.<name>`."""
        reindex, dot, name = text.rpartition(".")
        if not dot or not reindex or not name:
            raise ValueError(f"not a run: {text!r} (expected <reindex>.<name>)")
        return cls(reindex, name)

    @property
    def prefix(self) -> str:
        """Prefix of the run's topics, consumer groups and transactional ids."""
        return f"reshelve.{self.reindex}.{self.name}."

    def topic(self, name: str) -> str:
        """The run's topic: pages, changes, documents, rejects, progress, checks, drift or control."""
        return self.prefix + name

    def group(self, role: str) -> str:
        """The consumer group of a role: pages, keys, indexer or validator."""
        return self.prefix + role

    @property
    def index(self) -> str:
        """The generation that the run builds."""
        return f"{self.reindex}-{self.name}"

    @property
    def slot(self) -> str:
        """The run's replication slot and publication: at most 63 of a-z, 0-9 and _, the run's name at the end."""
        reindex = self.reindex.replace("-", "_")[:32]
        return f"{SLOT_PREFIX}{reindex}_{self.name.replace('-', '_')}"

    @property
    def write_alias(self) -> str:
        """The generation's private alias: writes go through it with `require_alias`, so that a
        worker left over by a dead run cannot re-create a dropped index."""
        return f"{self.index}.write"


JOURNAL_TOPIC: Final = "reshelve.journal"
_APPROVALS: Final = "approvals"


def approvals_of(reindex: str) -> RunId:
    """The key of the journal's entries that hold the approvals of a reindex: they are of plans, and of no run."""
    return RunId(reindex, _APPROVALS)


def is_run(key: str) -> bool:
    """Whether a key of the journal is a run, and not that of a reindex's approvals."""
    return not key.endswith(f".{_APPROVALS}")


def facts(value: Any) -> dict[str, Any]:
    """A frozen dataclass as plain JSON-able data."""
    return asdict(value)
