"""The indexer as a small machine of steps around the shipped deciding code: between two steps anything may happen.
A comment `fault` marks where a seeded bug takes a protection away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from protections import Protection
from simulated_index import Document, Request, clock, show

from reshelve.applied import Applied
from reshelve.consumers.in_flight import Batch, InFlight
from reshelve.consumers.outcome import Outcome, item_outcome
from reshelve.model import Watermark

if TYPE_CHECKING:
    from live_world import World


class _Careless(InFlight["_Sent"]):
    """The seeded bug: batches with a key in common are under way together."""

    def may_submit(self, batch: _Sent) -> bool:
        return len(self) < 4


class _Sent(Batch[Document]):
    """A batch and its request."""

    pending: Sequence[Document] = ()
    request: Request | None = None
    done = False


class Indexer:
    """Reads `documents`, sends bulk requests, several at once, and commits what is durable."""

    def __init__(self, world: World, name: str) -> None:
        self._world, self.name = world, name
        self.partitions: list[int] = []
        self._place: dict[int, int] = {}
        self._ready: _Sent | None = None
        self._sent: list[_Sent] = []
        self._in_flight: InFlight[_Sent] = (
            _Careless(4) if world.without(Protection.ONE_REQUEST_A_KEY) else InFlight(3)
        )  # fault

    @property
    def idle(self) -> bool:
        """Whether there is nothing left to read and nothing under way."""
        documents = self._world.documents
        return self._ready is None and not self._sent and all(self._place[p] == len(documents[p]) for p in self._place)

    def take(self, number: int) -> None:
        """A partition becomes its own: it reads on from what is committed."""
        self.partitions.append(number)
        self._place[number] = self._world.indexed[number].offset

    def work(self) -> str:
        roll = self._world.rng.random()
        if roll < 0.4:
            return self._consume() or self._submit()
        if roll < 0.8:
            return self._hear() or self._submit()
        return self._commit()

    def die(self) -> str:
        """Its requests go on without it: what they have written so far is flushed, as what they will write."""
        for sent in self._sent:
            if sent.request is not None:
                sent.request.orphan = True
        self._world.index.flush()
        return self._world.replace_indexer(self)

    def hand_over(self) -> str:
        """Another one gets a partition, in good order: nothing is under way, and what is done is committed."""
        if self._sent or self._ready is not None or not self.partitions:
            return ""
        self._commit()
        number = self.partitions.pop()
        del self._place[number]
        self._in_flight.forget([number])
        return self._world.give_away(number, self)

    def _consume(self) -> str:
        if self._ready is not None:
            return ""
        world, batch = self._world, _Sent()
        for number in self.partitions:
            found, end = world.documents[number].read(self._place[number], world.rng.randrange(5))
            if end != self._place[number]:
                self._place[number] = batch.offsets[number] = end
            for record in found:
                if isinstance(record.value, Watermark):
                    batch.mark(number, record.value)
                else:
                    batch.add(record.key, record.value)
        if not batch.offsets:
            return ""
        self._ready = batch
        return f"indexer {self.name} takes {', '.join(map(show, batch.items.values())) or 'no document'}"

    def _submit(self) -> str:
        batch = self._ready
        if batch is None or not self._in_flight.may_submit(batch):
            return ""
        self._in_flight.submit(batch)
        self._sent.append(batch)
        self._ready = None
        if self._world.without(Protection.COMMIT_BEHIND_DURABLE):  # fault
            self._in_flight.finish()
        self._send(batch, list(batch.items.values()))
        return f"indexer {self.name} sends {', '.join(map(show, batch.items.values())) or 'nothing'}"

    def _send(self, batch: _Sent, items: Sequence[Document]) -> None:
        batch.pending, batch.done = items, not items
        if items:
            batch.request = Request(items, again=not self._world.without(Protection.EXTERNAL_GTE))  # fault
            self._world.index.receive(batch.request)
        else:
            batch.request = None

    def _hear(self) -> str:
        """What became of the requests; then the batches that are done leave, the oldest first."""
        told = ""
        for batch in self._sent:
            request = batch.request
            if request is None:
                continue
            if request.lost:
                self._send(batch, batch.pending)
                told = f"indexer {self.name} sends {', '.join(map(show, batch.pending))} again"
            elif request.answered:
                answers = zip(batch.pending, request.answers, strict=True)
                left = [item for item, a in answers if a and item_outcome(a.status, a.error) is Outcome.RETRY]
                self._send(batch, left)
                told = f"indexer {self.name} hears of {', '.join(map(show, request.items))}, {len(left)} left"
        while self._sent and self._sent[0].done:
            batch = self._sent.pop(0)
            if len(self._in_flight) and batch is self._in_flight.oldest:
                self._in_flight.finish()
        return told

    def _commit(self) -> str:
        world, in_flight = self._world, self._in_flight
        for number in in_flight.unrecalled():
            applied = None if world.without(Protection.CLOCK_RECALLED) else world.indexed[number].applied  # fault
            in_flight.recall(number, applied)
        places = in_flight.to_commit()
        if not places:
            return ""
        for number, place in places.items():
            world.commit_index(number, place.offset, place.applied)
        in_flight.committed()
        return f"indexer {self.name} commits " + ", ".join(
            f"{number}: {place.offset} (applied clock {_applied(place.applied)})" for number, place in places.items()
        )


def _applied(applied: Applied | None) -> str:
    return "none" if applied is None else str(clock(applied.version))
