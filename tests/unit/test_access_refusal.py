from __future__ import annotations

import psycopg
import pytest

from reshelve.producers.source import access_refusal

_AT = 'connection to server at "db" (10.0.0.7), port 5432 failed: '


@pytest.mark.parametrize(
    "words",
    [
        'FATAL:  password authentication failed for user "reader"',
        'FATAL:  database "shop" does not exist',
        "SSL error: certificate verify failed",
        "server does not support SSL, but SSL was required",
    ],
)
def test_who_we_are_or_how_we_speak_is_refused(words: str) -> None:
    assert access_refusal(psycopg.OperationalError(_AT + words), "host=db") is not None


@pytest.mark.parametrize(
    "words",
    [
        "FATAL:  the database system is starting up",
        "FATAL:  terminating connection due to administrator command",
        'FATAL:  too many connections for role "reader"',
        "SSL SYSCALL error: EOF detected",
        "SSL connection has been closed unexpectedly",
        "SSL error: unexpected eof while reading",
        "Connection refused",
    ],
)
def test_what_passes_by_itself_is_waited_for(words: str) -> None:
    assert access_refusal(psycopg.OperationalError(_AT + words), "host=db") is None
