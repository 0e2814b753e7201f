from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from reshelve import redaction
from reshelve.errors import BlockedError
from reshelve.redaction import redact, redact_facts, remember_secret


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test remembers is forgotten after it."""
    monkeypatch.setattr(redaction, "_known", set())
    yield


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://me:hunter2@host/db", "postgresql://me:***@host/db"),
        ("see https://u:p%40ss@host:9200/x and http://h/", "see https://u:***@host:9200/x and http://h/"),
        ("host=h password=hunter2 dbname=d", "host=h password=*** dbname=d"),
        ("host=h password='it is' dbname=d", "host=h password=*** dbname=d"),
        ("sasl.password: hunter2", "sasl.password: ***"),
        ("PASSWORD = hunter2;", "PASSWORD = ***;"),
        ("no user: postgresql://host/db", "no user: postgresql://host/db"),
        ('FATAL: password authentication failed for user "u"', 'FATAL: password authentication failed for user "u"'),
        # References are no secrets, and a run could not go on without them.
        ("url: postgresql://me:${PW}@host/db", "url: postgresql://me:${PW}@host/db"),
        ("password: ${OS_PASSWORD}\n    ca_certs: x", "password: ${OS_PASSWORD}\n    ca_certs: x"),
        ("sasl.password: ${P}", "sasl.password: ${P}"),
    ],
)
def test_passwords_are_masked_where_they_stand(text: str, expected: str) -> None:
    assert redact(text) == expected
    assert redact(redact(text)) == expected


def test_a_remembered_secret_is_masked_anywhere() -> None:
    remember_secret("sesame")
    remember_secret("sesame-street")
    assert redact("open sesame-street, sesame!") == "open ***, ***!"
    error = BlockedError("open sesame", where="at sesame", why="sesame", remedy="try sesame")
    assert "sesame" not in str(error) and "sesame" not in json.dumps(error.as_dict())


def test_what_is_too_short_to_be_a_secret_is_left() -> None:
    remember_secret("abc")
    remember_secret("")
    assert redact("abcdef") == "abcdef"


def test_facts_stay_json_whatever_is_masked() -> None:
    remember_secret('quo"te')
    remember_secret("1234")
    facts = {
        "said": 'he said "password=abc"',
        "quoted": 'x quo"te x',
        "number": 5123456,
        "deep": [{"url": "amqp://u:secret@h"}, ("1234", None, True)],
    }
    assert json.loads(json.dumps(redact_facts(facts))) == {
        "said": 'he said "password=***"',
        "quoted": "x *** x",
        "number": 5123456,
        "deep": [{"url": "amqp://u:***@h"}, ["***", None, True]],
    }
