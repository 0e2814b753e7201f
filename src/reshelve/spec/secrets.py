"""Which parts of a spec are secret. The raw text of a spec is kept in the journal, so a secret may be
referenced in it (`${NAME}`) and never written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote, urlsplit

from reshelve.errors import Problem
from reshelve.redaction import remember_secret
from reshelve.spec.yaml_source import Path, YamlSource

MASK: Final = "***"
_URLS: Final[tuple[Path, ...]] = (
    ("source", "postgres", "url"),
    ("target", "opensearch", "url"),
    ("changes", "debezium", "registry"),
)
_PASSWORD: Final[Path] = ("target", "opensearch", "password")
_CONFIGS: Final[tuple[Path, ...]] = (("kafka", "config"), ("changes", "debezium", "config"))
_WEBHOOKS: Final[Path] = ("notify", "webhooks")
_SECRET_HEADER: Final = re.compile(r"auth|token|secret|key|password|cookie|signature|credential", re.IGNORECASE)
_SCHEME: Final = re.compile(r"[A-Za-z]{0,10}\s*")  # what may stand before a variable: `Bearer ${TOKEN}`
_SECRET_SETTING: Final = re.compile(r"(password|secret|passphrase|key\.pem|oauthbearer\.config)$")
# user:password@ in a URL (up to the last @ before the path), and password=… as a keyword or parameter.
_URL_PASSWORD: Final = re.compile(r"(?P<head>[a-zA-Z][a-zA-Z0-9+.-]*://[^\s/:@]*:)(?P<secret>[^\s/]+)(?=@)")
_KEYWORD_PASSWORD: Final = re.compile(
    r"(?P<head>\b(?:ssl)?password\s*=\s*)(?P<secret>'(?:[^'\\]|\\.)*'|[^\s&]+)", re.IGNORECASE
)


def is_secret_setting(name: str) -> bool:
    """Whether the librdkafka setting `name` holds a secret."""
    return _SECRET_SETTING.search(name) is not None


def without_passwords(url: str) -> str:
    """`url` (or libpq keyword string) with its passwords masked."""
    return _KEYWORD_PASSWORD.sub(rf"\g<head>{MASK}", _URL_PASSWORD.sub(rf"\g<head>{MASK}", url))


def remember_secrets(source: YamlSource) -> None:
    """From now on nothing that is printed or recorded shows the secrets of this spec."""
    for path, text, whole in _secret_positions(source):
        for secret in (text,) if whole else _passwords(text):
            remember_secret(secret)
            remember_secret(unquote(secret))
        if whole:
            for value in source.variables.get(path, ()):
                remember_secret(value)
    for path, text, is_url in _webhook_positions(source):
        # A variable of an address is a token, if it is not its host.
        host = urlsplit(text).netloc if is_url else ""
        for value in (*source.variables.get(path, ()), *(() if is_url else (text,))):
            if value and value not in host:
                remember_secret(value)


def written_secrets(source: YamlSource) -> Iterator[Problem]:
    """A problem for every secret that stands in the file itself."""
    for path, _, whole in _secret_positions(source):
        literal = source.literals.get(path)
        if literal is None:  # not a string, e.g. a password of digits only
            literal = MASK
        found = [literal] if whole and literal else [] if whole else _passwords(literal)
        if found:
            for secret in found:
                remember_secret(secret)
            yield _written(source, path)
    for path, text, is_url in _webhook_positions(source):
        literal = source.literals.get(path, text)
        if not is_url and (not source.variables.get(path) or _SCHEME.fullmatch(literal) is None):
            remember_secret(text)
            yield _written(source, path)


def _written(source: YamlSource, path: Path) -> Problem:
    return Problem(
        source.place(path),
        f"{'.'.join(map(str, path))} has a secret written into the file, which the journal keeps",
        "put it in an environment variable and write `${NAME}` instead",
    )


def _passwords(text: str) -> list[str]:
    patterns = (_URL_PASSWORD, _KEYWORD_PASSWORD)
    found = [match["secret"] for pattern in patterns for match in pattern.finditer(text)]
    return [secret[1:-1] if secret.startswith("'") else secret for secret in found if secret != "''"]


def _secret_positions(source: YamlSource) -> Iterator[tuple[Path, str, bool]]:
    """(path, value, whether the whole value is secret, rather than a password within it), of every environment."""
    for path, address, is_url in _webhook_positions(source):
        if is_url:
            yield path, address, False
    for prefix in _prefixes(source):
        for path in _URLS:
            if isinstance(value := _at(source, at := prefix + path), str):
                yield at, value, False
        if (value := _at(source, at := prefix + _PASSWORD)) not in (None, ""):
            yield at, str(value), True
        for path in _CONFIGS:
            config = _at(source, prefix + path)
            for name, value in config.items() if isinstance(config, dict) else ():
                if is_secret_setting(name) and value not in (None, ""):
                    yield (*prefix, *path, name), str(value), True


def _prefixes(source: YamlSource) -> Iterator[Path]:
    """Of the spec's base, and of each of its environments."""
    environments = _at(source, ("environments",))
    yield ()
    yield from (("environments", name) for name in (environments if isinstance(environments, dict) else ()))


def _webhook_positions(source: YamlSource) -> Iterator[tuple[Path, str, bool]]:
    """(path, value, whether it is the address) of each webhook's address and of its headers that hold secrets."""
    for prefix in _prefixes(source):
        hooks = _at(source, prefix + _WEBHOOKS)
        for number, hook in enumerate(hooks if isinstance(hooks, list) else ()):
            at = (*prefix, *_WEBHOOKS, number)
            if not isinstance(hook, dict):
                continue
            if isinstance(url := hook.get("url"), str):
                yield (*at, "url"), url, True
            headers = hook.get("headers")
            for name, value in headers.items() if isinstance(headers, dict) else ():
                if _SECRET_HEADER.search(str(name)) and value not in (None, ""):
                    yield (*at, "headers", name), str(value), False


def _at(source: YamlSource, path: Path) -> object:
    value = source.value
    for step in path:
        if not isinstance(value, dict):
            return None
        value = value.get(step)
    return value
