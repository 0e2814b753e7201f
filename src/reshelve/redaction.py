"""Secrets never appear in output, logs or records: every text that leaves the process passes `redact`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

_MASK: Final = "***"
# user:password@host in a URL, and password=… in a libpq keyword string. A reference (`${NAME}`) is no secret.
_URL_PASSWORD: Final = re.compile(
    r"(?P<head>[a-z][a-z0-9+.-]*://[^\s/:@]*:)(?!\$\{)(?P<secret>[^\s/@]+)(?=@)", re.IGNORECASE
)
_KEYWORD_PASSWORD: Final = re.compile(
    r"(?P<head>\b(?:password|sslpassword|sasl\.password|ssl\.key\.password)\s*[=:]\s*)(?!\$\{)(?P<secret>'[^']*'|[^\s,;&'\"]+)",
    re.IGNORECASE,
)
_known: set[str] = set()


def remember_secret(value: str) -> None:
    """Mask `value` from now on wherever it stands. Values under four characters are ignored:
    masking them would garble every message and protect nothing."""
    if len(value) >= 4:
        _known.add(value)


def redact(text: str) -> str:
    """`text` without passwords in URLs and keyword strings, and without remembered secrets."""
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, _MASK)
    text = _URL_PASSWORD.sub(rf"\g<head>{_MASK}", text)
    return _KEYWORD_PASSWORD.sub(rf"\g<head>{_MASK}", text)


def redact_facts(value: Any) -> Any:
    """JSON-able data with every text in it redacted. To be used before the data becomes JSON: in the JSON's
    text a secret may be escaped, and masking could break it."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {name: redact_facts(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact_facts(inner) for inner in value]
    return value
