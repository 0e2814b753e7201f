"""What approvals are judged by: the journal's entries, the clusters' identifiers, and what ssh-keygen says now."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path

from opensearchpy.exceptions import TransportError

from reshelve.approval.decision import Given, Use, Wanted
from reshelve.approval.payload import NAMESPACE, Action, Payload
from reshelve.consumers.opensearch import refusal
from reshelve.context import RunContext
from reshelve.errors import BlockedError
from reshelve.journal import APPROVAL_USED, APPROVED, Event, chain_faults, read_journal
from reshelve.model import JOURNAL_TOPIC, approvals_of
from reshelve.signatures import Signers, Verdict, verify
from reshelve.spec import Spec
from reshelve.state import fold


@dataclass(frozen=True)
class Circumstances:
    """A plan, or a run of it, and what the journal's entries of its reindex say, read once."""

    context: RunContext
    entries: tuple[Event, ...]

    @classmethod
    def now(cls, context: RunContext) -> Circumstances:
        """Raises ReshelveError when the journal can't be read, BlockedError when it is not what was written: what was
        validated, and which nonces are spent, is known from it alone."""
        found = cls(context, tuple(read_journal(context.cluster, reindex=context.plan.reindex)))
        for key in (context.plan.run, str(approvals_of(context.plan.reindex))):
            faults = chain_faults(event for event in found.entries if event.run == key)
            if faults:
                raise BlockedError(
                    "the journal is not what was written: no approval can be judged by it",
                    where=f"{context.cluster.bootstrap}/{JOURNAL_TOPIC}",
                    why=faults[0],
                    remedy="`reshelve journal verify` lists all faults; find out who may write to the topic",
                )
        return found

    @cached_property
    def approvals(self) -> tuple[Event, ...]:
        """Entries of every approval of the reindex, oldest first."""
        key = str(approvals_of(self.context.plan.reindex))
        return tuple(event for event in self.entries if event.kind == APPROVED and event.run == key)

    @cached_property
    def uses(self) -> dict[str, Use]:
        """By nonce, its first use."""
        found: dict[str, Use] = {}
        for event in self.entries:
            if event.kind == APPROVAL_USED:
                found.setdefault(str(event.data["nonce"]), Use(event.run, datetime.fromisoformat(event.at)))
        return found

    def given(self) -> list[Given]:
        """The approvals with what is found of their signatures now, where that matters: those of other plans are as
        many as there were plans, and count for nothing."""
        return [self._given(event) for event in self.approvals]

    def _given(self, event: Event) -> Given:
        payload, spec, plan = str(event.data["payload"]).encode(), self.context.spec, self.context.plan
        ours = plan.hash.encode() in payload
        return Given(event.at, payload, verdict_of(spec, payload, event.data["signature"]) if ours else None)

    def wanted(self, action: Action) -> Wanted:
        """What is about to be done. The spec requires an approval of it. Raises ReshelveError."""
        context, plan, level = self.context, self.context.plan, self.context.spec.approval.required
        assert level != "none"
        kafka, opensearch = _clusters(context)
        own = [event for event in self.entries if event.run == plan.run]
        state = fold(own).get(plan.run)
        return Wanted(
            action=action,
            level=level,
            run=plan.run,
            reindex=plan.reindex,
            alias=plan.alias,
            plan=plan.hash,
            kafka=kafka,
            opensearch=opensearch,
            previous_uuid=plan.previous_uuid,
            index_uuid=state.index_uuid if state is not None else None,
            validations=clean_since([event for event in own if event.kind == "validated"]),
            people=people(context.spec),
            longest=timedelta(hours=context.spec.approval.valid_hours),
        )


def people(spec: Spec) -> frozenset[str]:
    """Who may approve."""
    return frozenset(filter(None, (spec.owner, *spec.delegates)))


def clean_since(validated: Iterable[Event]) -> dict[str, int | None]:
    """The validations that found no difference, and after which none did: their clocks by the hash of their entry,
    which stands for all that the run's journal said until then. Pure."""
    found: dict[str, int | None] = {}
    for event in validated:
        if not event.data["clean"]:
            found.clear()
        else:
            found[event.hash] = event.data["version"]
    return found


def verdict_of(spec: Spec, payload: bytes, signature: str | None) -> Verdict | None:
    """What ssh-keygen says of a signature; None where there is none, or the spec names nobody's keys.

    Raises ReshelveError when it can't be told."""
    if signature is None or spec.approval.allowed_signers is None:
        return None
    try:
        approver = Payload.decode(payload).approver
    except ValueError:
        return None  # the decision says what is wrong with it
    revoked = spec.approval.revoked_keys
    signers = Signers(Path(spec.approval.allowed_signers), None if revoked is None else Path(revoked))
    return verify(payload, signature, principal=approver, namespace=NAMESPACE, signers=signers)


def _clusters(context: RunContext) -> tuple[str, str]:
    """The identifiers of the Kafka and the OpenSearch cluster."""
    try:
        opensearch = context.opensearch.info()["cluster_uuid"]
    except TransportError as error:
        url = context.plan.spec["target"]["opensearch"]["url"]
        raise refusal(error, "cannot ask for the cluster's identifier", url) from error
    return context.cluster.cluster_id(), str(opensearch)
