"""Sessions at the source, and what its errors mean to an operator."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

import psycopg

from reshelve.errors import AccessRefused, ReshelveError, SourceRefused, Unreachable

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

# A reader's session: nothing in the text of a value may depend on the server's or the role's settings.
SESSION: Final = {
    "search_path": "",
    "row_security": "off",
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "iso_8601",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "xmloption": "content",
    "lc_monetary": "C",
    "default_transaction_read_only": "on",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "60s",
    "lock_timeout": "5s",
    # A page's limit and bounds are parameters; a generic plan would not know how few rows they mean.
    "plan_cache_mode": "force_custom_plan",
}

# A server that vanishes without a word is noticed within half a minute: by default it takes two hours.
KEEPALIVE: Final[dict[str, Any]] = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}

# What a server says, or TLS about it, that starts, stops or is full: it passes by itself.
_PASSING: Final = (
    "starting up",
    "shutting down",
    "terminating connection",
    "not yet accepting connections",
    "recovery",
    "too many clients",
    "too many connections",
    "remaining connection slots",
    "SSL SYSCALL error",
    "closed unexpectedly",
    "unexpected eof",
)


def open_session(url: str, name: str) -> tuple[Connection, str]:
    """A connection set up for reading, and the token that proves the session to be ours.

    Raises AccessRefused for a refused login or TLS, psycopg.OperationalError when the server does not answer."""
    try:
        connection = psycopg.connect(
            url, autocommit=True, connect_timeout=10, application_name=name, client_encoding="utf8", **KEEPALIVE
        )
    except psycopg.OperationalError as error:
        raise access_refusal(error, url) or error from None
    token = secrets.token_hex(8)
    settings = SESSION | {"reshelve.session": token}
    with connection.cursor() as cursor:
        cursor.execute(
            "select " + ", ".join(["set_config(%s, %s, false)"] * len(settings)),
            [text for pair in settings.items() for text in pair],
        )
    return connection, token


@contextmanager
def source_session(url: str, name: str) -> Iterator[Connection]:
    """A session to ask a few things in. Raises AccessRefused, Unreachable, SourceRefused, also for what is asked."""
    try:
        connection, _ = open_session(url, name)
        with connection:
            yield connection
    except psycopg.Error as error:
        raise source_lost(error, url) from None


def source_lost(error: psycopg.Error, url: str) -> ReshelveError:
    """What an error of the source's means to whoever can't wait for it: AccessRefused, Unreachable or SourceRefused."""
    refused = access_refusal(error, url)
    if refused is not None:
        return refused
    where, why = server_of(url), " ".join(str(error).split())
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return Unreachable(
            "PostgreSQL does not answer",
            where=where,
            why=why,
            remedy="see that it runs and that the URL names it, then do the same again: it goes on where it was",
        )
    return SourceRefused(
        "PostgreSQL refused what it was asked", where=where, why=why, remedy="`reshelve check` shows what is wrong"
    )


def access_refusal(error: psycopg.Error, url: str) -> AccessRefused | None:
    """AccessRefused when the server refused who we are or how we speak; None when it is something else."""
    text = str(error)
    refused = (error.sqlstate or "")[:2] == "28" or error.sqlstate in ("42501", "3D000")
    if not refused and not any(word in text for word in ("FATAL:", "SSL", "certificate")):
        return None
    if any(words in text for words in _PASSING):
        return None
    return AccessRefused(
        "PostgreSQL refused the connection or the privilege",
        where=server_of(url),
        why=" ".join(text.split()),
        remedy="correct the user, password, sslmode or grants (`source.postgres.url` in the spec)",
    )


def server_of(url: str) -> str:
    """host:port/database of a connection string, for messages."""
    try:
        parts = psycopg.conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        return "source.postgres.url"
    return f"{parts.get('host', 'localhost')}:{parts.get('port', 5432)}/{parts.get('dbname', '')}"
