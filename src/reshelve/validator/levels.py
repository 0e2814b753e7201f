"""What a check is asked to look at."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from reshelve.errors import UsageError
from reshelve.spec.validation import Validation as Asked

Level: TypeAlias = Literal["counts", "checksums", "samples", "full", "queries"]
LEVELS: Final[tuple[Level, ...]] = ("counts", "checksums", "samples", "full", "queries")


@dataclass(frozen=True, slots=True)
class Levels:
    """samples: whole documents compared for each partition of the topic; 0: the level is not asked for."""

    counts: bool
    checksums: bool
    samples: int
    full: bool = False
    queries: bool = False

    @classmethod
    def of(cls, asked: Asked) -> Levels:
        """What the spec asks for."""
        return cls(
            counts=asked.counts == "exact",
            checksums=asked.checksums,
            samples=asked.samples_per_partition,
            full=asked.full,
            queries=asked.queries is not None,
        )

    @classmethod
    def chosen(cls, names: Collection[str], asked: Asked, *, adopted: bool) -> Levels:
        """The levels of these names; without any those of the spec, of an adopted index "full". Raises UsageError.

        The topic of an adopted index holds what was repaired, and nothing else: what compares with it says nothing."""
        if not adopted:
            return cls.named(names, asked) if names else cls.of(asked)
        if pointless := [name for name in names if name in LEVELS and name != "full"]:
            raise UsageError(
                f"level {pointless[0]} says nothing of an index that was adopted",
                why="no run has built it, so neither the topic nor a previous index tells what it should hold",
                remedy="compare whole documents, source against index: --level full",
            )
        return cls.named(names or ("full",), asked)

    @classmethod
    def named(cls, names: Collection[str], asked: Asked) -> Levels:
        """The levels of these names, and no other; how much each does, the spec says. Raises UsageError."""
        if unknown := [name for name in names if name not in LEVELS]:
            raise UsageError(
                f"there is no level {unknown[0]!r} of validation", remedy=f"choose among {', '.join(LEVELS)}"
            )
        if "queries" in names and asked.queries is None:
            raise UsageError("the spec names no queries", remedy="set validation.queries.file in the spec")
        usual = type(asked).model_fields["samples_per_partition"].default
        return cls(
            counts="counts" in names,
            checksums="checksums" in names,
            samples=(asked.samples_per_partition or int(usual)) if "samples" in names else 0,
            full="full" in names,
            queries="queries" in names,
        )

    @property
    def names(self) -> tuple[Level, ...]:
        """In their order."""
        wanted = (self.counts, self.checksums, self.samples > 0, self.full, self.queries)
        return tuple(name for name, wants in zip(LEVELS, wanted, strict=True) if wants)

    @property
    def topic(self) -> bool:
        """Whether the topic has to be read."""
        return self.counts or self.checksums or self.samples > 0
