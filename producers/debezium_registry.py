"""Avro schemas from a schema registry, by the one call of its interface that readers need."""

from __future__ import annotations

from typing import Final

import orjson
import urllib3
from urllib3.exceptions import HTTPError
from urllib3.util import Retry, Timeout, make_headers, parse_url

from reshelve.errors import AccessRefused, BlockedError, ReshelveError, Unreachable

_TIMEOUT: Final = Timeout(connect=5, read=10)
# About half a minute altogether: a registry that is restarted passes by.
_RETRY: Final = Retry(
    total=6,
    backoff_factor=0.5,
    status_forcelist=(429, 500, 502, 503, 504),
    allowed_methods=["GET"],
    raise_on_status=False,
)


class SchemaRegistry:
    """`GET {url}/schemas/ids/{id}`, as Confluent's registry, Karapace and Apicurio's compatible interface answer it.
    A number means the same schema for ever, so that the caller may keep what it got.

    url  may have a user and password in it"""

    def __init__(self, url: str) -> None:
        parts = parse_url(url)
        self._headers = {"accept": "application/vnd.schemaregistry.v1+json, application/json"}
        if parts.auth is not None:
            self._headers |= make_headers(basic_auth=parts.auth)
        self._url = parts._replace(auth=None).url.rstrip("/")
        self._pool = urllib3.PoolManager(timeout=_TIMEOUT, retries=_RETRY)

    @property
    def where(self) -> str:
        """Without user and password."""
        return self._url

    def schema(self, number: int) -> str:
        """The text of an Avro schema. Raises Unreachable, AccessRefused, BlockedError."""
        what = f"cannot get schema {number} from the schema registry"
        try:
            answer = self._pool.request("GET", f"{self._url}/schemas/ids/{number}", headers=self._headers)
        except HTTPError as error:
            raise self._unreachable(what, error) from None
        if answer.status != 200:
            raise self._refusal(what, answer.status, answer.data)
        try:
            body = orjson.loads(answer.data)
            text, kind, references = body["schema"], body.get("schemaType", "AVRO"), body.get("references")
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            raise self._odd(what, "its answer is not a schema registry's") from None
        if kind != "AVRO" or references or not isinstance(text, str):
            raise self._odd(what, f"it is of kind {kind}{' and refers to others' if references else ''}")
        return text

    def probe(self) -> None:
        """See whether it answers, without patience. Raises Unreachable, AccessRefused."""
        what = "the schema registry does not answer"
        try:
            answer = self._pool.request("GET", f"{self._url}/schemas/types", headers=self._headers, retries=False)
        except HTTPError as error:
            raise self._unreachable(what, error) from None
        if answer.status not in (200, 404):  # an old one does not know this call
            raise self._refusal(what, answer.status, answer.data)

    def _unreachable(self, what: str, error: HTTPError) -> Unreachable:
        remedy = "see that it runs and changes.debezium.registry names it"
        return Unreachable(what, where=self._url, why=str(error), remedy=remedy)

    def _refusal(self, what: str, status: int, body: bytes) -> ReshelveError:
        why = f"HTTP {status}: {body[:300].decode(errors='replace')}"
        if status in (401, 403):
            remedy = "correct the user and password in changes.debezium.registry"
            return AccessRefused(what, where=self._url, why=why, remedy=remedy)
        if status >= 500 or status == 429:
            return Unreachable(what, where=self._url, why=why, remedy="see what the registry's log says")
        return BlockedError(
            what,
            where=self._url,
            why=why,
            remedy="name the registry that the connector uses, and its path prefix if any",
        )

    def _odd(self, what: str, why: str) -> BlockedError:
        return BlockedError(
            what, where=self._url, why=why, remedy="have the connector write plain Avro (io.confluent.connect.avro)"
        )
