"""What is there before a run: the index that the alias points to now. Nothing is written."""

from __future__ import annotations

from typing import Any

from opensearchpy.exceptions import TransportError

from reshelve.consumers.alias import index_mapping, index_uuid, obstacle, read_alias
from reshelve.consumers.opensearch import connect, refusal
from reshelve.errors import TargetRefused
from reshelve.spec import Spec


def survey_target(spec: Spec) -> tuple[str | None, str | None, dict[str, Any]]:
    """The index that the alias points to, its UUID and its mapping. Raises TargetRefused, Unreachable."""
    target = spec.target.opensearch
    client = connect(target, timeout=30)
    try:
        alias = read_alias(client, target.alias)
        if found := obstacle(alias):
            raise TargetRefused(found[0], where=spec.place("target.opensearch.alias"), remedy=found[1])
        if not alias.indexes:
            return None, None, {}
        (index,) = alias.indexes
        return index, index_uuid(client, index), index_mapping(client, index)
    except TransportError as error:
        raise refusal(error, f"cannot read alias {target.alias}", target.alias) from None
    finally:
        client.close()
