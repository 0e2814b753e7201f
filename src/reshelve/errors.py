"""Every error that Reshelve raises on purpose.

    ReshelveError                  exit 1   something failed; the message says what to do
    ├── UsageError                 exit 2   the command line or a file named on it is wrong
    │   └── SpecError              exit 2   the spec has problems; all of them are listed
    ├── BlockedError               exit 3   the run cannot go on until somebody does something
    │   ├── AccessRefused          exit 3   a server refused the credentials, TLS or the privilege
    │   ├── Unreachable            exit 3   a server does not answer
    │   ├── SourceRefused          exit 3   the snapshot clock would not hold on this source
    │   ├── TargetRefused          exit 3   the index, its alias or its cluster is not as planned
    │   ├── LeaseHeld              exit 3   another process runs the same reindex
    │   ├── ApprovalMissing        exit 3   nobody who may has approved this plan, or this swap
    │   └── GateClosed             exit 3   the cut-over has a gate that is not open
    ├── AbortedError               exit 4   somebody cancelled the run
    └── Interrupted                exit 130 Ctrl-C or SIGTERM; running it again resumes

An error carries what failed, where, why, and the remedy: the operator at three in the morning
reads those four and nothing else. `code` is stable and is the anchor in docs/errors.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from reshelve.redaction import redact


class ReshelveError(Exception):
    """Something failed.

    what    what was being done, in the operator's words ("cannot read page of segment 3")
    where   server, topic, index, file:line:column
    why     the cause, in the words of the server where there are any
    remedy  what to do next, a command where there is one
    """

    code: ClassVar[str] = "failure"
    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str = "", why: str = "", remedy: str = "") -> None:
        self.what, self.where, self.why, self.remedy = (redact(text) for text in (what, where, why, remedy))
        super().__init__(self.what)

    def __str__(self) -> str:
        text = self.what
        if self.where:
            text += f" ({self.where})"
        if self.why:
            text += f": {self.why}"
        if self.remedy:
            text += f". To remedy: {self.remedy}"
        return text

    def as_dict(self) -> dict[str, str]:
        """The error as facts, for `--json`, the journal and the report."""
        return {
            "code": self.code,
            "what": self.what,
            "where": self.where,
            "why": self.why,
            "remedy": self.remedy,
        }


class UsageError(ReshelveError):
    """The command line, or a file named on it, is wrong."""

    code = "usage"
    exit_code = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a spec or with what it names.

    place   `file:line:column` in the spec
    what    what is wrong, in one line
    remedy  how to fix it
    level   "error" stops a run; "warning" is shown and does not
    """

    place: str
    what: str
    remedy: str
    level: str = "error"


class SpecError(UsageError):
    """The spec has problems; all of them are listed, not only the first."""

    code = "spec"

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(
            f"the spec has {len(self.problems)} problem{'s' if len(self.problems) != 1 else ''}",
            why="; ".join(f"{p.place}: {p.what}" for p in self.problems),
            remedy="fix them and run `reshelve check` on the spec",
        )


class BlockedError(ReshelveError):
    """The run cannot go on until somebody does something; it can be resumed then."""

    code = "blocked"
    exit_code = 3


class AccessRefused(BlockedError):
    """A server refused the credentials, the TLS handshake or the privilege."""

    code = "access"


class Unreachable(BlockedError):
    """A server does not answer."""

    code = "unreachable"


class SourceRefused(BlockedError):
    """The snapshot clock would not hold on this source, so nothing may be read from it."""

    code = "source"


class TargetRefused(BlockedError):
    """The index, its alias or its cluster is not as the plan says, so nothing may be written to it."""

    code = "target"


class LeaseHeld(BlockedError):
    """Another process runs the same reindex."""

    code = "lease"


class ApprovalMissing(BlockedError):
    """Nobody who may has approved what is about to be done."""

    code = "approval"


class GateClosed(BlockedError):
    """The cut-over has a gate that is not open. `passing`: each that is closed opens again by waiting."""

    code = "gate"
    passing = False


class AbortedError(ReshelveError):
    """Somebody cancelled the run."""

    code = "aborted"
    exit_code = 4


class Interrupted(ReshelveError):
    """Ctrl-C or SIGTERM; running the same command again resumes."""

    code = "interrupted"
    exit_code = 130
