"""OpenSearch, as far as external versions, bulk requests and what they leave behind go.

What is like the real one, because a protection exists on account of it:

- requests that are under way at once are applied in any order, an item at a time; a dead sender's go on
- the version of a deleted document is remembered for a while (`index.gc_deletes`) and not after a restart
- an item is applied first and flushed to disk before the answer, but only if the request wrote something: a conflict
  flushes nothing, so it is no proof that what it conflicts with survives a restart
- an answer may be lost, an item may be refused for now (429)

Assumed: no request stays in the server for longer than deletes are remembered (of a generation that is built,
`index.gc_deletes` is an hour). Restarted, the server forgets its requests too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, NamedTuple

NO_ERROR = None
CONFLICT = {"type": "version_conflict_engine_exception"}
BUSY = {"type": "rejected_execution_exception"}


class Document(NamedTuple):
    """A record of `documents`: a row, or (value None) a tombstone. `moment` is for the oracle."""

    key: bytes
    version: int
    value: int | None
    moment: int


class Answer(NamedTuple):
    status: int
    error: dict[str, Any] | None


class Request:
    """A bulk request. `again`: an equal version is written again (`external_gte`); `orphan`: its sender is dead."""

    __slots__ = ("again", "answered", "answers", "items", "lost", "orphan", "slow", "wrote")

    def __init__(self, items: Sequence[Document], *, again: bool) -> None:
        self.items, self.again = items, again
        self.answers: list[Answer | None] = [None] * len(items)
        self.slow = False
        self.answered = self.lost = self.orphan = self.wrote = False


class _Undo(NamedTuple):
    key: bytes
    document: tuple[int, int] | None
    deleted: int | None
    version: int


class Index:
    """changed     is told of every key whose document changed
    check_versions  False is the seeded bug: the last write wins"""

    def __init__(self, rng: Random, changed: Callable[[bytes], None], *, check_versions: bool) -> None:
        self._rng, self._changed, self._check_versions = rng, changed, check_versions
        self._documents: dict[bytes, tuple[int, int]] = {}
        self._deleted: dict[bytes, int] = {}
        self._unflushed: list[_Undo] = []
        self.requests: list[Request] = []
        self.durable: dict[bytes, int] = {}
        self.forgetful = False

    def value(self, key: bytes) -> int | None:
        """What a search finds."""
        found = self._documents.get(key)
        return None if found is None else found[1]

    def remembers(self, key: bytes) -> bool:
        """Whether it has a version to compare with."""
        return key in self._documents or key in self._deleted

    def contents(self) -> dict[bytes, int]:
        return {key: value for key, (_, value) in self._documents.items()}

    def receive(self, request: Request) -> None:
        request.slow = self._rng.random() < 0.25
        self.requests.append(request)

    def work(self, *, busy: bool = False) -> str:
        """Some request goes one item on, or is answered."""
        if not self.requests:
            return ""
        request = self._rng.choice(self.requests)
        if request.slow and self._rng.random() < 0.9:
            return ""
        left = [number for number, answer in enumerate(request.answers) if answer is None]
        if not left:
            return self._answer(request)
        number = self._rng.choice(left)
        item = request.items[number]
        answer = Answer(429, BUSY) if busy else self.apply(item, again=request.again)
        request.wrote |= answer.error is None
        request.answers[number] = answer
        if request.orphan:
            self.flush()  # assumed: see docs/decisions/0015
        what = "delete" if item.value is None else f"index {item.value}"
        return f"the index: {what} {show(item)} -> {answer.status}" + (" (from a dead indexer)" * request.orphan)

    def _answer(self, request: Request) -> str:
        if request.wrote:
            self.flush()
        self.requests.remove(request)
        request.answered = True
        return f"the index answers about {', '.join(map(show, request.items))}"

    def apply(self, item: Document, *, again: bool) -> Answer:
        """One item, not flushed."""
        key, version, value, _ = item
        document, deleted = self._documents.get(key), self._deleted.get(key)
        stored = document[0] if document is not None else deleted
        if self._check_versions and stored is not None and (version < stored or (version == stored and not again)):
            return Answer(409, CONFLICT)
        self._unflushed.append(_Undo(key, document, deleted, version))
        if value is None:
            self._documents.pop(key, None)
            self._deleted[key] = version
        else:
            self._documents[key] = (version, value)
            self._deleted.pop(key, None)
        if value != (None if document is None else document[1]):
            self._changed(key)
        return Answer(404 if value is None and document is None else 200, NO_ERROR)

    def flush(self) -> None:
        for undo in self._unflushed:
            self.durable[undo.key] = max(self.durable.get(undo.key, 0), undo.version)
        self._unflushed.clear()

    def lose(self) -> str:
        """A sender hears nothing of its request, which goes on all the same."""
        for request in self.requests:
            if not request.lost and not request.orphan:
                request.lost = True
                return f"the answer about {', '.join(map(show, request.items))} is lost"
        return ""

    def forget_deletes(self) -> str:
        """Time passes `index.gc_deletes`: by then every request has ended that came before the delete."""
        old = {key for key in self._deleted if all(item.key != key for r in self.requests for item in r.items)}
        for key in old:
            del self._deleted[key]
        self.forgetful |= bool(old)
        return f"the index forgets the deletes of {', '.join(sorted(k.decode() for k in old))}" if old else ""

    def restart(self) -> str:
        """What is not flushed is lost, and every request, and the versions of deletes."""
        undone = list(reversed(self._unflushed))
        for undo in undone:
            if undo.document is None:
                self._documents.pop(undo.key, None)
            else:
                self._documents[undo.key] = undo.document
        self._unflushed.clear()
        self.forgetful |= bool(self._deleted)
        self._deleted.clear()
        for request in self.requests:
            request.lost = True
        self.requests.clear()
        for undo in undone:
            self._changed(undo.key)
        return "the index restarts" + (f", {len(undone)} items undone" if undone else "")


def show(item: Document) -> str:
    return f"{item.key.decode()}@{clock(item.version)}"


def clock(version: int) -> int:
    return version & ((1 << 48) - 1)
