"""Whether something is approved: approvals judged against what is about to be done. Pure: no I/O, no clock.

An approval counts when all of this holds, as it is found now, whatever the journal says of it:

1. its bytes are those of an approval, for this action of this reindex
2. its signature is good (where signatures are required), made by who is named in it: the spec's owner or a delegate
3. it names the plan's hash, the alias, both clusters and the index that the alias leaves; for a cut-over also the run,
   its index, and a validation of it that found no difference and that none has contradicted since
4. no other run has used its nonce
5. what it is for began before it expired, and it was not given for longer than the spec allows
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from reshelve.approval.payload import Action, Payload
from reshelve.signatures import Verdict

Level = Literal["named", "signed"]
_TOLD: Final = 3
_SKEW: Final = timedelta(minutes=15)  # between the clocks of who wrote what was signed, and who recorded it
_OTHER_PLAN: Final = "it is for another plan"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is about to be done, and who may agree to it.

    validations  that count, by the hash of their entry in the journal: their clocks; None without live changes
    people       the spec's owner and delegates
    longest      for which an approval may be given
    """

    action: Action
    level: Level
    run: str
    reindex: str
    alias: str
    plan: str
    kafka: str
    opensearch: str
    previous_uuid: str | None
    index_uuid: str | None
    validations: Mapping[str, int | None]
    people: frozenset[str]
    longest: timedelta


@dataclass(frozen=True, slots=True)
class Given:
    """An approval as the journal holds it.

    at       when it was recorded (ISO 8601, UTC)
    payload  its bytes
    verdict  what ssh-keygen says of it now; None: it is not signed, or for another plan
    """

    at: str
    payload: bytes
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True)
class Use:
    """A nonce that a run has used, and when."""

    run: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Decision:
    """What came of it.

    accepted   the approval that counts; None: there is none, and `reasons` say why, newest approval first
    key        fingerprint of the key that signed it; empty: it is not signed
    other_plan number (in what was given) of the newest approval that only names another plan; None: there is none
    """

    accepted: Payload | None
    key: str = ""
    given: int | None = None
    reasons: tuple[str, ...] = ()
    other_plan: int | None = None

    def summary(self) -> str:
        """Who approved, or why nobody has, in a line."""
        key = f" ({self.key})" if self.key else ""
        return self.why if self.accepted is None else f"by {self.accepted.approver}{key}"

    @property
    def why(self) -> str:
        """Why nothing is accepted, in a line."""
        told = list(dict.fromkeys(self.reasons))
        older = [f"and {len(told) - _TOLD} older ones"] if len(told) > _TOLD else []
        return "; ".join([*told[:_TOLD], *older]) or "nobody has approved it"


def decide(wanted: Wanted, given: Sequence[Given], now: datetime, used: Mapping[str, Use]) -> Decision:
    """The newest approval that counts, or why none does. used: by nonce."""
    reasons: list[str] = []
    other_plan: int | None = None
    for number, one in reversed(list(enumerate(given))):
        try:
            payload = Payload.decode(one.payload)
        except ValueError as error:
            reasons.append(f"what was recorded at {one.at} can't be read: {error}")
            continue
        if (payload.action, payload.reindex) != (wanted.action, wanted.reindex):
            continue  # of another step: no fault of it
        faults = list(_faults(wanted, payload, one, now, used))
        if not faults:
            return Decision(payload, one.verdict.key if one.verdict else "", number)
        if other_plan is None and _OTHER_PLAN in faults:
            other_plan = number
        reasons.append(f"that of {payload.approver} ({one.at}): {', '.join(faults)}")
    return Decision(None, reasons=tuple(reasons), other_plan=other_plan)


def _faults(wanted: Wanted, payload: Payload, one: Given, now: datetime, used: Mapping[str, Use]) -> Iterator[str]:
    """Everything that keeps an approval from counting; of one for another plan no more than that."""
    if payload.plan != wanted.plan:
        yield _OTHER_PLAN
        return
    if payload.approver not in wanted.people:
        yield f"{payload.approver} is neither the spec's owner nor a delegate"
    if wanted.level == "signed":
        if one.verdict is None:
            yield "it is not signed"
        elif not one.verdict.good:
            yield f"its signature is not good ({one.verdict.why})"
    if payload.alias != wanted.alias:
        yield f"it is for alias {payload.alias}"
    if payload.kafka != wanted.kafka:
        yield f"it is for another Kafka cluster ({payload.kafka})"
    if payload.opensearch != wanted.opensearch:
        yield f"it is for another OpenSearch cluster ({payload.opensearch})"
    if payload.previous_uuid != wanted.previous_uuid:
        yield "the alias pointed to another index"
    if wanted.action == "cutover":
        yield from _cutover_faults(wanted, payload)
    use = used.get(payload.nonce)
    if use is not None and use.run != wanted.run:
        yield f"it was used by run {use.run}"
    elif (now if use is None else use.at) > payload.expires_at:
        yield f"it expired at {payload.expires}"
    if payload.expires_at > datetime.fromisoformat(one.at) + wanted.longest + _SKEW:
        yield "it was given for longer than approval.valid_hours"


def _cutover_faults(wanted: Wanted, payload: Payload) -> Iterator[str]:
    if payload.run != wanted.run:
        yield f"it is for run {payload.run}"
    elif payload.index_uuid != wanted.index_uuid:
        yield "it is for another index"
    elif payload.validation is None or payload.validation not in wanted.validations:
        yield "the validation that it names was not clean, or one after it was not"
    elif payload.clock != wanted.validations[payload.validation]:
        yield "it names another clock than the validation's"
