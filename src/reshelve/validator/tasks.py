"""What a check asks and answers, and how that travels in `checks`.

A check has two rounds. Round one, kind "target": the sums of each slice of the index. Round two, kind
"partition": the sums of each partition of the topic, compared with those of all slices, the drifted keys
where they differ, and the samples. Tasks and results share the topic, keyed by `kind/number`; the schema's
fingerprint tells them apart. A task done twice gives a result that replaces the first.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, TypeAlias

from reshelve.errors import AccessRefused, BlockedError, ReshelveError, SourceRefused, TargetRefused, Unreachable
from reshelve.schemas.codec import CHECK_RESULT, CHECK_TASK, CodecError, schema_of

Kind: TypeAlias = Literal["target", "partition"]
_ERRORS: Final = {error.code: error for error in (AccessRefused, SourceRefused, TargetRefused, Unreachable)}


@dataclass(frozen=True, slots=True)
class Scope:
    """What every task of a check needs to know.

    expires  seconds since 1970 after which nobody waits for the result any more
    buckets  into which the keys of a partition are divided
    """

    expires: float
    index: str
    pit: str
    slices: int
    buckets: int
    counts: bool
    checksums: bool
    samples: int


@dataclass(frozen=True, slots=True)
class CheckTask:
    """Measure slice `number` of the index, or judge partition `number` of the topic up to the offset `end`, whose
    sums in the index are `target` (`PartitionSums.encode`; None when they were not asked for)."""

    check: str
    kind: Kind
    number: int
    scope: Scope
    target: str | None = None
    end: int = 0

    @property
    def key(self) -> bytes:
        return f"{self.kind}/{self.number}".encode()

    def encode(self) -> bytes:
        data = json.dumps({"scope": asdict(self.scope), "target": self.target, "end": self.end})
        return CHECK_TASK.encode({"check": self.check, "kind": self.kind, "number": self.number, "data": data})


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What came out of a task; `error` when it could not be done, which is no difference.

    worker   who did it, for people
    seconds  how long it took
    data     of "target": {"sums": [text for each partition]}; of "partition": a PartitionVerdict
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
            return CheckTask(**fields, scope=Scope(**data["scope"]), target=data["target"], end=data["end"])
        error = fields.pop("error")
        return CheckResult(**fields, data=data, error=json.loads(error) if error else None)
    except (ValueError, TypeError, KeyError) as error:
        raise CodecError(f"not a {schema.name} of this release: {error!r}") from error
