"""What the demo leaves on servers that are not its own, and that it takes nothing that isn't its own."""

from __future__ import annotations

from opensearchpy import OpenSearch
from opensearchpy.exceptions import TransportError

from reshelve.consumers.generation import alias_targets
from reshelve.consumers.opensearch import refusal
from reshelve.demo.commands import Commands
from reshelve.errors import UsageError
from reshelve.journal import read_journal
from reshelve.kafka import KafkaCluster
from reshelve.spec import Spec
from reshelve.state import RunState, fold


def require_free(spec: Spec, client: OpenSearch) -> None:
    """Raises UsageError when the alias stands for something, or the reindex has a run that is not at its end."""
    alias = alias_targets(client, spec.target.opensearch.alias)
    other = "name other servers, or none: the demo then starts servers of its own"
    if alias.indexes:
        deletions = ", ".join(f"DELETE /{index}" for index in alias.indexes)
        raise UsageError(
            f"alias {alias.name!r} is in use, and the demo would take it over",
            where=spec.target.opensearch.url,
            why=f"it points to {', '.join(alias.indexes)}",
            remedy=f"{other}; if it is an earlier demo's, remove it: {deletions}",
        )
    if alias.is_index or alias.is_data_stream:
        kind = "an index" if alias.is_index else "a data stream"
        raise UsageError(f"there is {kind} {alias.name!r} already", where=spec.target.opensearch.url, remedy=other)
    unfinished = [state for state in known_runs(spec).values() if not state.ended and not state.cleaned]
    if unfinished:
        raise UsageError(
            f"run {unfinished[0].run} is not at its end",
            where=spec.kafka.bootstrap,
            remedy=f"{other}; if it is an earlier demo's: `reshelve clean {unfinished[0].run}`",
        )


def known_runs(spec: Spec) -> dict[str, RunState]:
    """The runs of this reindex that the journal holds, by name, oldest first."""
    cluster = KafkaCluster(spec.kafka.bootstrap, spec.kafka.config)
    return fold(read_journal(cluster, reindex=spec.reindex))


def remove_runs(spec: Spec, client: OpenSearch, before: dict[str, RunState], command: Commands) -> None:
    """Remove what the runs since `before` have made: slots, topics, groups, indexes, the alias.

    The journal keeps their entries."""
    ours = [state for name, state in known_runs(spec).items() if name not in before and not state.cleaned]
    for state in reversed(ours):  # the newest first: it knows the index before it
        if state.following:
            command("retire", str(state.run), "--yes")
        command("clean", str(state.run), "--yes")
    for state in ours:
        try:
            if state.index_uuid and client.indices.exists(index=state.plan.index):
                client.indices.delete(index=state.plan.index)  # the one that the alias points to
        except TransportError as error:
            raise refusal(error, f"cannot delete index {state.plan.index}", spec.target.opensearch.url) from error
