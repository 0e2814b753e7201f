"""What a check asks and answers, and how that travels in `checks`.

A task is of one of four kinds; `number` says which one of its kind it is:

    target     a slice of the index: its counts and checksums by partition. → {"sums": [text for each partition]}
    partition  a partition of the topic: its sums against `target`, those of all slices; the drifted keys where they
               differ; the samples. → PartitionVerdict
    range      a key range, source against index, whole documents: keys after `low`, up to and including `high`.
               → RangeVerdict
    extras     a slice of the index: which of its keys the source does not have. → RangeVerdict

"target" is done before "partition", whose tasks hold its results. Tasks and results share the topic, keyed by
`kind/number`; the schema's fingerprint tells them apart. A task done twice gives a result that replaces the first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, TypeAlias

from reshelve.errors import AccessRefused, BlockedError, ReshelveError, SourceRefused, TargetRefused, Unreachable
from reshelve.model import Bound
from reshelve.schemas.codec import CHECK_RESULT, CHECK_TASK, CodecError, schema_of

Kind: TypeAlias = Literal["target", "partition", "range", "extras"]
_ERRORS: Final = {error.code: error for error in (AccessRefused, SourceRefused, TargetRefused, Unreachable)}


@dataclass(frozen=True, slots=True)
class Scope:
    """What every task of a check needs to know.

    expires  seconds since 1970 after which nobody waits for the result any more
    pit      point in time of the index, with `slices` slices
    settled  by partition of `documents`: what stands before this offset is in the point in time
    written  by partition of `documents`: what stands at or behind this offset is not
    live     the source's changes are followed: a watermark of any clock comes sooner or later
    rejects  offset of `rejects` before which waivers count
    buckets  into which the keys of a partition are divided
    rate     documents a second that all validators together compare whole; None: as the run's limits say
    """

    expires: float
    index: str
    pit: str
    slices: int
    settled: tuple[int, ...]
    written: tuple[int, ...]
    live: bool
    buckets: int
    counts: bool
    checksums: bool
    samples: int
    rejects: int = 0
    rate: float | None = None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Scope:
        return cls(**(dict(data) | {"settled": tuple(data["settled"]), "written": tuple(data["written"])}))


@dataclass(frozen=True, slots=True)
class CheckTask:
    """One thing to be looked at.

    check      identifies the check; with an attempt behind a slash, where a point in time is looked at
    target     of kind "partition": its sums in the index (`PartitionSums.encode`); None when they were not asked for
    low, high  of kind "range"
    """

    check: str
    kind: Kind
    number: int
    scope: Scope
    target: str | None = None
    low: Bound = None
    high: Bound = None

    @property
    def key(self) -> bytes:
        return f"{self.kind}/{self.number}".encode()

    def encode(self) -> bytes:
        data = json.dumps({"scope": asdict(self.scope), "target": self.target, "low": self.low, "high": self.high})
        return CHECK_TASK.encode({"check": self.check, "kind": self.kind, "number": self.number, "data": data})


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What came out of a task; `error` when it could not be done, which is no difference.

    worker   who did it, for people
    seconds  how long it took
    data     what the kind of the task says
    error    the error's facts (`ReshelveError.as_dict`)
    """

    check: str
    kind: Kind
    number: int
    worker: str
    seconds: float
    data: dict[str, Any]
    error: dict[str, str] | None = None

    @property
    def key(self) -> bytes:
        return f"{self.kind}/{self.number}".encode()

    def encode(self) -> bytes:
        return CHECK_RESULT.encode(
            {
                "check": self.check,
                "kind": self.kind,
                "number": self.number,
                "worker": self.worker,
                "seconds": self.seconds,
                "error": json.dumps(self.error) if self.error else "",
                "data": json.dumps(self.data),
            }
        )

    def raise_error(self) -> None:
        """Raise the worker's error as it was raised there, if there was one."""
        if self.error is not None:
            facts = dict(self.error)
            kind: type[ReshelveError] = _ERRORS.get(facts.pop("code"), BlockedError)
            raise kind(facts.pop("what"), **facts)


def decode(record: bytes) -> CheckTask | CheckResult:
    """Raises CodecError when `record` is neither."""
    schema = schema_of(record)
    if schema not in (CHECK_TASK, CHECK_RESULT):
        raise CodecError(f"a {schema.name} is neither a check task nor a result")
    fields = schema.decode(record)
    try:
        data = json.loads(fields.pop("data"))
        if schema is CHECK_TASK:
            scope, low, high = Scope.from_dict(data["scope"]), _bound(data["low"]), _bound(data["high"])
            return CheckTask(**fields, scope=scope, target=data["target"], low=low, high=high)
        error = fields.pop("error")
        return CheckResult(**fields, data=data, error=json.loads(error) if error else None)
    except (ValueError, TypeError, KeyError) as error:
        raise CodecError(f"not a {schema.name} of this release: {error!r}") from error


def check_of(name: str) -> str:
    """The check that a task's or result's `check` names, whatever the attempt."""
    return name.partition("/")[0]


def _bound(value: list[str] | None) -> Bound:
    return None if value is None else tuple(value)
