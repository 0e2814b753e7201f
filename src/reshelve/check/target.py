"""Checks of the target: can the index be built there, and can the alias be moved to it?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

from opensearchpy import OpenSearch
from opensearchpy.exceptions import (
    AuthenticationException,
    AuthorizationException,
    ConnectionError,
    RequestError,
    TransportError,
)

from reshelve.check.findings import Findings, Size
from reshelve.consumers.alias import obstacle, read_alias
from reshelve.consumers.opensearch import connect, refusal
from reshelve.consumers.survey import look_at_disks
from reshelve.forecast import INDEX_BYTES
from reshelve.model import RunId

_URL: Final = "target.opensearch.url"
_ALIAS: Final = "target.opensearch.alias"
_INDEX: Final = "target.opensearch.index"


def check_target(findings: Findings, size: Size | None) -> None:
    """Everything about the target. `size` is what the source holds, where known."""
    client = connect(findings.spec.target.opensearch, timeout=10)
    try:
        health = client.cluster.health()
    except TransportError as error:
        client.close()
        findings.add(_URL, refusal(error, "cannot speak to OpenSearch", _address(findings)))
        return
    if health["status"] == "red":
        what = "the cluster's health is red: some index has no primary"
        findings.warning(_URL, what, "see `GET _cluster/allocation/explain`; the run may not get its shards")
    for check in (_check_alias, _check_definition, _check_disk):
        try:
            check(findings, client, size)
        except (AuthenticationException, AuthorizationException, ConnectionError) as error:
            findings.add(_URL, refusal(error, "OpenSearch refused a check", _address(findings)))
        except TransportError as error:
            findings.add(_URL, refusal(error, "OpenSearch failed a check", _address(findings)))
    client.close()


def _address(findings: Findings) -> str:
    return str(findings.spec.public()["target"]["opensearch"]["url"])


def _check_alias(findings: Findings, client: OpenSearch, size: Size | None) -> None:
    found = obstacle(read_alias(client, findings.spec.target.opensearch.alias))
    if found is not None:
        findings.error(_ALIAS, *found)


def _check_definition(findings: Findings, client: OpenSearch, size: Size | None) -> None:
    """Have the definition judged as an index template that is simulated and never stored: it goes through the
    same parsing of mappings, analyzers and settings. (Sort fields are judged only when the index is created.)"""
    spec = findings.spec
    index = RunId(spec.reindex, f"{datetime.now(UTC):%Y%m%d-%H%M%S}-aaaa").index
    body = {"index_patterns": [index], "priority": 2**31 - 1, "template": spec.definition}
    try:
        answer = client.transport.perform_request("POST", "/_index_template/_simulate", body=body)
    except RequestError as error:
        words: list[str] = []
        for cause in _causes(error.info):
            if not any(cause in word for word in words):
                words.append(cause)
        what = "; ".join(words) or str(error.error)
        findings.error(
            _INDEX,
            f"OpenSearch refuses the index definition: {what}",
            f"correct {spec.target.opensearch.index}",
            place=_place_of(findings, what),
        )
        return
    for template in answer.get("overlapping", ()):
        findings.warning(
            _INDEX,
            f"index template {template['name']!r} applies to the new index too, under the definition",
            "narrow its index_patterns, or rename the reindex, unless that is meant",
        )


def _check_disk(findings: Findings, client: OpenSearch, size: Size | None) -> None:
    room = look_at_disks(client)
    needed = int(size.bytes * INDEX_BYTES) if size else 0
    if room.bytes <= needed:
        findings.error(
            _URL,
            f"too little disk: {_gib(room.bytes)} usable on {room.nodes} data nodes before the flood stage "
            f"({room.watermark}), and the new index takes about {_gib(needed)}",
            "free disk or add a node: at the flood stage OpenSearch makes indexes read-only",
        )


def _gib(size: int) -> str:
    return f"{size / (1 << 30):,.1f} GiB"


def _causes(info: Any) -> Iterator[str]:
    """The reasons in an error, outermost first, without those that name a template nobody wrote."""
    cause = info.get("error", info) if isinstance(info, dict) else info
    if not isinstance(cause, dict):
        return
    reason = re.sub(r"^index_template \[simulate_template_[^\]]*\] invalid, cause ", "", str(cause.get("reason")))
    if "simulate_template" not in reason:
        yield reason
    for item in [*([cause["caused_by"]] if "caused_by" in cause else []), *cause.get("suppressed", [])]:
        yield from _causes(item)


def _place_of(findings: Findings, what: str) -> str | None:
    """The place in the definition's file of the first name that the message puts in brackets."""
    name = findings.spec.target.opensearch.index
    path = findings.spec.folder / name
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    for word in re.findall(r"\[([\w.-]+)", what):
        at = text.find(f'"{word}"')
        if at < 0:
            at = text.find(f'"{word.removeprefix("index.")}"')
        if at >= 0:
            return f"{name}:{text.count(chr(10), 0, at) + 1}:{at - text.rfind(chr(10), 0, at)}"
    return None
