"""What a run leaves behind, and its removal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from confluent_kafka import KafkaException

from reshelve.consumers import generation
from reshelve.consumers.adoption import take_private_alias
from reshelve.context import RunContext
from reshelve.errors import AccessRefused, Unreachable, UsageError
from reshelve.journal import read_journal
from reshelve.kafka import KafkaCluster, kafka_error, refusal
from reshelve.model import RunId
from reshelve.producers.slot import drop_publication, drop_slot, find_publications, slot_state
from reshelve.producers.source import source_session
from reshelve.state import RunState, fold


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What `clean` removes.

    index        the generation that nobody searches: the previous one after a cut-over, this run's otherwise;
                 empty when there is none
    uuid         of that, or of the adopted index which `alias` is taken from
    kept         why there is none, where there would be one
    alias        the private alias of an adopted index, which stays without it
    slot         the run's replication slot, as long as it is there; empty: none
    publication  the same of a publication that the run made
    source_away  why the source could not be looked at, where a slot may have been left there
    """

    topics: tuple[str, ...]
    groups: tuple[str, ...]
    index: str
    uuid: str
    kept: str = ""
    slot: str = ""
    publication: str = ""
    source_away: str = ""
    alias: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {
            "topics": list(self.topics),
            "groups": list(self.groups),
            "index": self.index or None,
            "alias": self.alias or None,
            "slot": self.slot or None,
            "publication": self.publication or None,
            "source_away": self.source_away or None,
        }


def find_leftovers(context: RunContext, state: RunState) -> Leftovers:
    """Look at what there is. The index that the alias points to is never among it. Raises ReshelveError; a source
    that does not answer is a fact."""
    return _with_source(context, state, _in_kafka_and_target(context, state))


def _with_source(context: RunContext, state: RunState, leftovers: Leftovers) -> Leftovers:
    changes = context.plan.changes
    if changes.mode != "replication":
        return leftovers
    try:
        with source_session(context.spec.source.postgres.url, "reshelve clean") as connection:
            slot = changes.slot if slot_state(connection, changes.slot).exists else ""
            publications = find_publications(connection) if changes.owns_publication else []
    except (AccessRefused, Unreachable) as error:
        # Where the journal says that the slot is dropped, a publication is the most that is left: it costs nothing.
        away = "" if "slot_dropped" in state.facts else f"{error.where}: {error.why or error.what}"
        return replace(leftovers, source_away=away)
    return replace(leftovers, slot=slot, publication=changes.publication if changes.publication in publications else "")


def _in_kafka_and_target(context: RunContext, state: RunState) -> Leftovers:
    plan, client = context.plan, context.opensearch
    searched = generation.alias_targets(client, plan.alias).indexes
    topics = tuple(sorted(context.cluster.topics(context.run.prefix)))
    groups = tuple(sorted(_groups(context.cluster, context.run.prefix)))
    if plan.adopted:
        return _of_adopted(context, state, topics, groups)
    candidates = [(plan.index, state.index_uuid)]
    if state.swapped and plan.previous_index and plan.previous_uuid:
        candidates.append((plan.previous_index, plan.previous_uuid))
    for index, uuid in candidates:
        if index not in searched and generation.uuid(client, index) == uuid and uuid:
            newer = rollback_target_of(uuid, context.run, fold(read_journal(context.cluster)).values())
            if newer is not None:
                kept = f"index {index} is kept: run {newer} rolls back to it, and `reshelve clean {newer}` removes it"
                return Leftovers(topics, groups, "", "", kept)
            return Leftovers(topics, groups, index, uuid)
    return Leftovers(topics, groups, "", "")


def _of_adopted(context: RunContext, state: RunState, topics: tuple[str, ...], groups: tuple[str, ...]) -> Leftovers:
    """The index was there before the run: it is never removed."""
    plan = context.plan
    there = generation.uuid(context.opensearch, plan.index) == state.index_uuid
    kept = f"index {plan.index} is kept: it was adopted" if there else ""
    pointed = there and generation.alias_targets(context.opensearch, plan.write_alias).indexes
    shared = adopted_by_others(state, fold(read_journal(context.cluster)).values())
    alias = plan.write_alias if pointed and not shared else ""
    return Leftovers(topics, groups, "", state.index_uuid, kept, alias=alias)


def adopted_by_others(state: RunState, states: Iterable[RunState]) -> bool:
    """Whether another run that is not cleaned up stands for the same index, and writes through the same alias. Pure."""
    return any(
        other.adopted and other.run != state.run and not other.cleaned and other.index_uuid == state.index_uuid
        for other in states
    )


def rollback_target_of(uuid: str, run: RunId, states: Iterable[RunState]) -> RunId | None:
    """The other run that took the alias over from the index of that UUID, and may still give it back. Pure."""
    for state in states:
        plan = state.facts.get("planned", {}).get("plan", {})
        may_roll_back = state.swapped and not state.rolled_back and not state.cleaned
        if state.run != run and may_roll_back and plan.get("previous_uuid") == uuid:
            return state.run
    return None


def remove(context: RunContext, leftovers: Leftovers) -> None:
    """Groups first, so that no worker writes on; then the slot, which keeps the source's WAL; then the index, or its
    private alias where it stays; then the topics. Raises ReshelveError."""
    _delete_groups(context.cluster, leftovers.groups)
    if leftovers.slot or leftovers.publication:
        with source_session(context.spec.source.postgres.url, "reshelve clean") as connection:
            if leftovers.slot:
                drop_slot(connection, leftovers.slot)
            if leftovers.publication:
                drop_publication(connection, leftovers.publication)
    if leftovers.index:
        generation.drop(context.opensearch, leftovers.index, leftovers.uuid)
    if leftovers.alias:
        take_private_alias(context.opensearch, context.plan.index, leftovers.alias, leftovers.uuid)
    context.cluster.delete_topics(leftovers.topics)


def _groups(cluster: KafkaCluster, prefix: str) -> list[str]:
    try:
        found = cluster.admin.list_consumer_groups(request_timeout=30).result().valid
    except KafkaException as error:
        raise refusal(error, "cannot list consumer groups", cluster.bootstrap) from None
    return [group.group_id for group in found if group.group_id.startswith(prefix)]


def _delete_groups(cluster: KafkaCluster, groups: tuple[str, ...]) -> None:
    if not groups:
        return
    for group, future in cluster.admin.delete_consumer_groups(list(groups), request_timeout=30).items():
        try:
            future.result()
        except KafkaException as error:
            name = kafka_error(error).name()
            if name == "NON_EMPTY_GROUP":
                raise UsageError(
                    f"workers of group {group} still run", where=cluster.bootstrap, remedy="stop them, then clean again"
                ) from None
            if name != "GROUP_ID_NOT_FOUND":
                raise refusal(error, f"cannot delete group {group}", cluster.bootstrap) from None
