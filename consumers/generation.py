"""A generation: the physical index that a run builds, from its creation to the swap of the alias.

While it is built it differs from its definition: no replicas and no refresh (each document is analysed
and written once), deletes remembered for longer (`index.gc_deletes`, so that a late write can't bring a
deleted document back), and every write durable before it is acknowledged (offsets are committed on that).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from opensearchpy import OpenSearch
from opensearchpy.exceptions import ConnectionError, NotFoundError, RequestError, TransportError

from reshelve.consumers.alias import Alias, index_uuid, obstacle, read_alias
from reshelve.consumers.opensearch import reason, refusal
from reshelve.errors import ReshelveError, TargetRefused, Unreachable

BUILDING: Final[Mapping[str, str]] = {
    "index.number_of_replicas": "0",
    "index.auto_expand_replicas": "false",
    "index.refresh_interval": "-1",
    "index.gc_deletes": "1h",
    "index.translog.durability": "request",
}
# What stays as it was for building while changes are followed: an index that forgets deletes, or acknowledges what
# its disk does not have, would make the applied clock untrue.
_FOLLOWED: Final = ("index.gc_deletes", "index.translog.durability")
_POLL_S: Final = 0.5
HEALTH_TIMEOUT_S: Final = 1800.0
_UNKNOWN_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Health:
    """The copies of an index that search. `note` says what is less than asked for; empty when nothing is."""

    primaries: int
    active: int
    wanted: int
    note: str = ""


def flat_settings(definition: Mapping[str, Any]) -> dict[str, Any]:
    """The definition's settings with full dotted names: {"index.number_of_replicas": 1}."""
    flat: dict[str, Any] = {}

    def walk(prefix: str, value: object) -> None:
        if isinstance(value, Mapping):
            for name, inner in value.items():
                walk(f"{prefix}.{name}" if prefix else str(name), inner)
        else:
            flat[prefix if prefix.startswith("index.") else f"index.{prefix}"] = value

    walk("", definition.get("settings") or {})
    return flat


def create(client: OpenSearch, index: str, write_alias: str, definition: Mapping[str, Any]) -> str:
    """Create the index with its private write alias in one request; returns its UUID.

    The alias is the mark by which an index that is there already is known as this run's. Aliases in the
    definition are not created: searches would see a half-built index. Raises TargetRefused, Unreachable."""
    body = {
        "settings": flat_settings(definition) | dict(BUILDING),
        "mappings": definition.get("mappings") or {},
        "aliases": {write_alias: {"is_write_index": True}},
    }
    created, lost = False, None
    try:
        client.indices.create(index=index, body=body)
        created = True
    except RequestError as error:
        if error.error != "resource_already_exists_exception":
            raise TargetRefused(
                f"cannot create index {index}",
                where=index,
                why=reason(error),
                remedy="correct the index definition (target.opensearch.index in the spec)",
            ) from error
    except ConnectionError as error:  # the answer is lost, perhaps not the request: what is there is looked at
        lost = error
    except TransportError as error:
        raise refusal(error, f"cannot create index {index}", index) from error
    try:
        return _inspect(client, index, write_alias, created)
    except TransportError as error:
        raise refusal(lost or error, f"cannot create index {index}", index) from error


def _inspect(client: OpenSearch, index: str, write_alias: str, created: bool) -> str:
    """Read back what was created. Raises TargetRefused when it is not what was asked for."""
    found = client.indices.get(index=index, params={"flat_settings": "true"})[index]
    if write_alias not in found["aliases"]:
        raise TargetRefused(
            f"index {index} exists already and is not of this run",
            where=index,
            why=f"it has no alias {write_alias}",
            remedy="find out whose it is; a new run gets a name of its own",
        )
    settings: dict[str, str] = found["settings"]
    others = sorted(set(found["aliases"]) - {write_alias})
    wrong = {n: settings.get(n) for n, wanted in BUILDING.items() if settings.get(n) != wanted}
    if created and (others or wrong):
        uuid = settings["index.uuid"]
        client.indices.delete(index=index)
        raise TargetRefused(
            f"index {index} was not created as asked for; it is deleted again",
            where=f"{index} {uuid}",
            why=f"aliases {others}, settings {wrong}",
            remedy="an index template interferes: exclude the run's index from its pattern",
        )
    return settings["index.uuid"]


def uuid(client: OpenSearch, index: str) -> str | None:
    """The index's identity; None when there is none of that name. Raises ReshelveError."""
    try:
        return index_uuid(client, index)
    except NotFoundError:
        return None
    except KeyError:  # the name is an alias: the answer names the index behind it
        return None
    except TransportError as error:
        raise refusal(error, f"cannot look at index {index}", index) from error


def alias_targets(client: OpenSearch, alias: str) -> Alias:
    """What the alias' name stands for. Raises ReshelveError."""
    try:
        return read_alias(client, alias)
    except TransportError as error:
        raise refusal(error, f"cannot look at alias {alias}", alias) from error


def finish(
    client: OpenSearch,
    index: str,
    definition: Mapping[str, Any],
    *,
    followed: bool = False,
    timeout: float = HEALTH_TIMEOUT_S,
    report: Callable[[str], None] = lambda text: None,
) -> Health:
    """Make the index what its definition says, ready for searches. Idempotent. In this order:

    1. the definition's settings, or the cluster's defaults (null), in place of those for building; but for those on
       which live changes rely, as long as the index is `followed`
    2. every primary is active: flush and refresh would hang on one that is not
    3. flush, so that replicas copy segments instead of replaying the translog, and refresh, so that
       everything written is found
    4. each replica that there is a data node for is active

    Raises TargetRefused when the copies are not active within `timeout` seconds, Unreachable."""
    asked = flat_settings(definition)
    deadline = time.monotonic() + timeout
    try:
        restored = [name for name in BUILDING if not (followed and name in _FOLLOWED)]
        client.indices.put_settings(index=index, body={name: asked.get(name) for name in restored})
        _await_copies(client, index, deadline, report, replicas_too=False)
        client.indices.flush(index=index, params={"wait_if_ongoing": "true"})
        client.indices.refresh(index=index)
        return _await_copies(client, index, deadline, report, replicas_too=True)
    except TransportError as error:
        raise refusal(error, f"cannot finish index {index}", index) from error


def release(client: OpenSearch, index: str, definition: Mapping[str, Any]) -> None:
    """Nobody follows the index any more: it gets the rest of its definition's settings. One that is gone is no error.

    Raises ReshelveError."""
    asked = flat_settings(definition)
    try:
        client.indices.put_settings(index=index, body={name: asked.get(name) for name in _FOLLOWED})
    except NotFoundError:
        return
    except TransportError as error:
        raise refusal(error, f"cannot restore the settings of index {index}", index) from error


def _await_copies(
    client: OpenSearch, index: str, deadline: float, report: Callable[[str], None], *, replicas_too: bool
) -> Health:
    told = time.monotonic()
    while True:
        settings = client.indices.get_settings(index=index, params={"flat_settings": "true"})[index]["settings"]
        replicas = int(settings["index.number_of_replicas"])
        health = client.cluster.health(index=index)
        primaries, nodes = int(settings["index.number_of_shards"]), int(health["number_of_data_nodes"])
        placeable = primaries * min(replicas + 1, nodes) if replicas_too else primaries
        active = int(health["active_shards"])
        if health["active_primary_shards"] == primaries and active >= placeable:
            return Health(primaries, active, primaries * (replicas + 1), _shortage(replicas, nodes))
        if time.monotonic() > deadline:
            short = f"{active} of {placeable} copies of shards are active"
            raise TargetRefused(
                f"index {index} is not ready for searches",
                where=index,
                why=f"{short}: {_obstacle(client, index)}",
                remedy="let the cluster place the shards (disk, allocation rules), then run the cut-over again",
            )
        if time.monotonic() - told > 10:
            told = time.monotonic()
            report(f"waiting for copies of {index}: {active} of {placeable} active")
        time.sleep(_POLL_S)


def _shortage(replicas: int, nodes: int) -> str:
    if replicas < nodes:
        return ""
    return (
        f"{replicas} replica{'s' if replicas != 1 else ''} asked for, but the cluster has {nodes} data "
        f"node{'s' if nodes != 1 else ''}: {replicas - nodes + 1} can't be placed, the index stays yellow"
    )


def _obstacle(client: OpenSearch, index: str) -> str:
    """Why a shard is not placed, in the cluster's words."""
    shards = client.cat.shards(index=index, params={"format": "json", "h": "shard,prirep,state"})
    for shard in shards:
        if shard["state"] == "UNASSIGNED":
            body = {"index": index, "shard": int(shard["shard"]), "primary": shard["prirep"] == "p"}
            try:
                explained = client.cluster.allocation_explain(body=body)
            except RequestError:  # placed since
                continue
            reasons = [
                decider["explanation"]
                for node in explained.get("node_allocation_decisions", ())
                for decider in node.get("deciders", ())
            ]
            return "; ".join(dict.fromkeys([explained.get("allocate_explanation", ""), *reasons]))
    return "copies are still being made"


def swap(client: OpenSearch, alias: str, index: str, previous: str | None) -> None:
    """Point the alias from `previous` (None: it does not exist yet) to `index`, in one atomic request.

    The alias' filter and routing go along. When the answer is lost the outcome is unknown, not failed: the
    alias is read back until it can be read. Returns when it is where it is wanted, also when it was before.
    Raises TargetRefused when it is anywhere else, Unreachable when it can't be known."""
    now = alias_targets(client, alias)
    if now.indexes == (index,):
        return
    _require_at(now, previous)
    options: dict[str, Any] = {}
    actions: list[dict[str, Any]] = []
    try:
        if previous is not None:
            options = client.indices.get_alias(index=previous, name=alias)[previous]["aliases"][alias]
            actions.append({"remove": {"index": previous, "alias": alias, "must_exist": True}})
        actions.append({"add": {"index": index, "alias": alias} | options})
        client.indices.update_aliases(body={"actions": actions})
    except ConnectionError as error:
        _read_back(client, alias, index, error)
        return
    except TransportError as error:
        raise TargetRefused(
            f"cannot swap alias {alias}",
            where=alias,
            why=reason(error),
            remedy="the alias is where it was; see the reason, then run the cut-over again",
        ) from error
    _read_back(client, alias, index, None)


def _read_back(client: OpenSearch, alias: str, index: str, lost: TransportError | None) -> None:
    """Return when the alias points to `index` alone. With a lost answer the request may still be on its way,
    so an alias that has not moved is looked at until the time is over."""
    deadline = time.monotonic() + _UNKNOWN_TIMEOUT_S
    while True:
        unreadable: ReshelveError | None = None
        try:
            now = alias_targets(client, alias)
            if now.indexes == (index,):
                return
        except Unreachable as error:
            unreadable = error
        if time.monotonic() > deadline or (lost is None and unreadable is None):
            break
        time.sleep(_POLL_S)
    if unreadable is not None:
        raise Unreachable(
            f"it is unknown whether alias {alias} was swapped",
            where=alias,
            why=unreadable.why,
            remedy="see that the cluster runs, then run the cut-over again: it looks first",
        )
    raise TargetRefused(
        f"alias {alias} is not where it was to be put",
        where=alias,
        why=f"it points to {', '.join(now.indexes) or 'nothing'}, not to {index}"
        + (f"; the answer to the request was lost: {reason(lost)}" if lost else ""),
        remedy="find out who else moves it, then run the cut-over again",
    )


def _require_at(now: Alias, previous: str | None) -> None:
    found = obstacle(now)
    if found is not None:
        raise TargetRefused(found[0], where=now.name, remedy=found[1])
    if now.indexes != (() if previous is None else (previous,)):
        raise TargetRefused(
            f"alias {now.name} is not where it was planned to be",
            where=now.name,
            why=f"it points to {', '.join(now.indexes) or 'nothing'}, not to {previous or 'nothing'}",
            remedy="find out who moved it; start a new run from where it is now",
        )


def drop(client: OpenSearch, index: str, expected_uuid: str) -> bool:
    """Delete the index if it is the one meant and nothing but its write alias points to it; False when it is
    gone already. Raises TargetRefused, Unreachable."""
    try:
        found = client.indices.get(index=index, params={"flat_settings": "true"}).get(index)
        if found is None:
            return False
        public = sorted(name for name in found["aliases"] if name != f"{index}.write")
        if found["settings"]["index.uuid"] != expected_uuid or public:
            raise TargetRefused(
                f"index {index} is not deleted",
                where=index,
                why=f"alias {', '.join(public)} points to it" if public else "it is another index of the same name",
                remedy="roll back first" if public else "find out whose it is",
            )
        client.indices.delete(index=index)
    except NotFoundError:
        return False
    except TransportError as error:
        raise refusal(error, f"cannot delete index {index}", index) from error
    return True
