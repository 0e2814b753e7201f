"""The connection to OpenSearch, and how its refusals read."""

from __future__ import annotations

import logging
from typing import Any, Protocol

from opensearchpy import OpenSearch
from opensearchpy.exceptions import (
    AuthenticationException,
    AuthorizationException,
    ConnectionError,
    ConnectionTimeout,
    SSLError,
    TransportError,
)

from reshelve.errors import AccessRefused, BlockedError, ReshelveError, Unreachable
from reshelve.redaction import redact

# The client logs every failed request by itself; our own messages say more, and once.
logging.getLogger("opensearch").setLevel(logging.CRITICAL)

# A node that starts, a shard that is being recovered, a proxy before a cluster that is away, one that is too busy.
_AWAY = frozenset({429, 502, 503, 504})

# What TLS says of a server that is not who it should be, or speaks no TLS or another one. Everything else, such as
# an end in the middle of the handshake, is what a node that restarts does.
_TLS_REFUSALS = (
    "certificate",
    "hostname",
    "unknown ca",
    "wrong version number",
    "http request",
    "record layer failure",
    "packet length too long",
    "unsupported protocol",
    "protocol version",
    "handshake failure",
)


class Target(Protocol):
    """The part of the spec's target that a connection needs."""

    @property
    def url(self) -> str: ...
    @property
    def username(self) -> str | None: ...
    @property
    def password(self) -> str | None: ...
    @property
    def ca_certs(self) -> str | None: ...
    @property
    def verify_certs(self) -> bool: ...


def connect(target: Target, *, connections: int = 10, timeout: float = 60.0) -> OpenSearch:
    """A client that never retries by itself: what a lost answer means is decided where it is known."""
    options: dict[str, Any] = {}
    if target.username is not None:
        options["http_auth"] = (target.username, target.password or "")
    if target.url.startswith("https"):
        options |= {
            "verify_certs": target.verify_certs,
            "ca_certs": target.ca_certs,
            "ssl_show_warn": False,
            "ssl_assert_hostname": target.verify_certs,
        }
    return OpenSearch(
        target.url,
        maxsize=connections,
        timeout=timeout,
        max_retries=0,
        retry_on_timeout=False,
        retry_on_status=(),
        **options,
    )


def reason(error: TransportError) -> str:
    """The server's own words, on one line."""
    info: Any = error.info
    if isinstance(info, dict):
        cause = info.get("error", info)
        if isinstance(cause, dict):
            roots = cause.get("root_cause") or [cause]
            texts = [f"{c.get('type')}: {c.get('reason')}" for c in [cause, *roots]]
            nested = cause.get("caused_by")
            while isinstance(nested, dict):
                texts.append(f"{nested.get('type')}: {nested.get('reason')}")
                nested = nested.get("caused_by")
            return redact("; ".join(dict.fromkeys(texts)))
        return redact(str(cause))
    return redact(str(info or error.error))


def is_tls_refusal(error: Exception) -> bool:
    """Whether TLS itself was refused, by us or by the server; a connection that was cut passes by itself."""
    return isinstance(error, SSLError) and any(words in str(error.error).lower() for words in _TLS_REFUSALS)


def refusal(error: TransportError, what: str, where: str) -> ReshelveError:
    """The ReshelveError that a failed request means to an operator."""
    if is_tls_refusal(error):
        return AccessRefused(
            what,
            where=where,
            why=reason(error),
            remedy="correct the URL's scheme, or ca_certs and verify_certs in the spec",
        )
    if isinstance(error, (ConnectionTimeout, ConnectionError)) or error.status_code in _AWAY:
        return Unreachable(
            what,
            where=where,
            why=reason(error),
            remedy="see that the cluster runs and the spec's url names it",
        )
    if isinstance(error, (AuthenticationException, AuthorizationException)) and not is_cluster_block(error):
        return AccessRefused(
            what,
            where=where,
            why=f"{error.status_code}: {reason(error)}",
            remedy="correct the user, the password or the user's roles",
        )
    return BlockedError(
        what,
        where=where,
        why=f"{error.status_code}: {reason(error)}",
        remedy="see the reason, and the cluster's log",
    )


def is_cluster_block(error: TransportError) -> bool:
    """A block on the index or cluster (read-only, disk flood stage): also a 403, but not about who we are."""
    return "cluster_block_exception" in reason(error)
