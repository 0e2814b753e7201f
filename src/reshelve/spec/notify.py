"""The section `notify`: who is told when a run has come to an end."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

from reshelve.spec.fields import Section, Text, http_url, setting_texts
from reshelve.spec.secrets import MASK

_TOPIC: Final = r"^[a-zA-Z0-9._-]{1,249}$"
_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def _headers(value: dict[str, str]) -> dict[str, str]:
    for name, text in value.items():
        if _HEADER.fullmatch(name) is None:
            raise ValueError(f"{name!r} is no name of a header")
        if any(ord(letter) < 32 for letter in text):
            raise ValueError(f"the value of header {name} has a line break or a control character in it")
    return value


class Webhook(Section):
    """An address that gets the event by POST."""

    url: Annotated[Text, AfterValidator(http_url)] = Field(
        description="http:// or https:// URL. Where it holds a secret, by `${NAME}`: only its host is shown and kept.",
        repr=False,
    )
    headers: Annotated[dict[str, Text], BeforeValidator(setting_texts), AfterValidator(_headers)] = Field(
        default_factory=dict,
        description="Headers to send, e.g. `Authorization: Bearer ${TOKEN}`. Secrets by `${NAME}`. Empty: none but "
        "those of the event.",
        repr=False,
    )

    @property
    def shown(self) -> str:
        """The address without what may be secret."""
        return shown_url(self.url)


class Notify(Section):
    """Who is told when a run is completed, Blocked, Aborted or has failed: by a CloudEvent."""

    topic: Annotated[str, Field(pattern=_TOPIC)] | None = Field(
        default=None, description="Topic of the run's Kafka cluster that gets the event; made when missing. Null: none."
    )
    webhooks: tuple[Webhook, ...] = Field(default=(), description="Addresses that get the event by POST. Empty: none.")
    commands: tuple[Annotated[tuple[Text, ...], Field(min_length=1)], ...] = Field(
        default=(),
        description="Programs with their arguments, one list each, that get the event on standard input; no shell is "
        "in between. Where an approval is required they are started only once it is given. Empty: none.",
    )

    @property
    def anybody(self) -> bool:
        """Whether somebody is to be told."""
        return bool(self.topic or self.webhooks or self.commands)


def shown_url(url: str) -> str:
    """`url` with its scheme and host alone: what follows is often a token."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    rest = f"/{MASK}" if parts.path not in ("", "/") or parts.query else parts.path
    return f"{parts.scheme}://{host}{rest}"


def public_notify(data: dict[str, Any]) -> dict[str, Any]:
    """The section's data without secrets."""
    hooks = [
        {"url": shown_url(hook["url"]), "headers": dict.fromkeys(hook["headers"], MASK)} for hook in data["webhooks"]
    ]
    return data | {"webhooks": hooks}
