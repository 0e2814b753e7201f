"""What checks find, each with its place in the spec."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from reshelve.check.inputs import Open
from reshelve.errors import AccessRefused, Problem, ReshelveError, SpecError, Unreachable
from reshelve.redaction import redact
from reshelve.spec import Spec


@dataclass(frozen=True, slots=True)
class Refusal(Problem):
    """A server does not answer, or refused the credentials, the TLS handshake or a privilege: the environment
    is missing something, not the spec alone."""

    unreachable: bool = False


@dataclass(frozen=True, slots=True)
class Size:
    """Estimated documents of the source, and their bytes of JSON."""

    documents: int
    bytes: int


@dataclass(slots=True)
class Findings:
    """Collects problems; `field` is the dotted path of the field concerned."""

    spec: Spec
    problems: list[Problem] = field(default_factory=list)

    def error(self, field: str, what: str, remedy: str, *, place: str | None = None) -> None:
        self.problems.append(Problem(place or self.spec.place(field), redact(what), redact(remedy)))

    def warning(self, field: str, what: str, remedy: str) -> None:
        self.problems.append(Problem(self.spec.place(field), redact(what), redact(remedy), "warning"))

    def open_input(self, found: Open) -> None:
        """What the spec leaves open."""
        (self.error if found.level == "error" else self.warning)(found.field, found.what, found.remedy)

    def refusal(self, field: str, what: str, remedy: str, *, unreachable: bool = False) -> None:
        place = self.spec.place(field)
        self.problems.append(Refusal(place, redact(what), redact(remedy), unreachable=unreachable))

    def add(self, field: str, error: ReshelveError) -> None:
        """The problem that an error of a client is."""
        what = f"{error.what}: {error.why}" if error.why else error.what
        if isinstance(error, AccessRefused | Unreachable):
            self.refusal(field, what, error.remedy, unreachable=isinstance(error, Unreachable))
        else:
            self.error(field, what, error.remedy)


def raise_for(problems: Sequence[Problem]) -> None:
    """Raise SpecError when there are errors; AccessRefused or Unreachable when all of them are a server's."""
    errors = [problem for problem in problems if problem.level == "error"]
    if not errors:
        return
    if all(isinstance(problem, Refusal) for problem in errors):
        first = errors[0]
        others = "".join(f"; {problem.place}: {problem.what}" for problem in errors[1:])
        kind = Unreachable if isinstance(first, Refusal) and first.unreachable else AccessRefused
        raise kind(first.what, where=first.place, why=others.removeprefix("; "), remedy=first.remedy)
    raise SpecError(problems)
