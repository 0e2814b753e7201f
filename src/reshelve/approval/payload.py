"""What is signed: canonical bytes that say everything the approval is bound to."""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from typing import Any, Final, Literal

NAMESPACE: Final = "reshelve-approval@1"
"""Of the signatures (`ssh-keygen -n`): one made for anything else does not count."""

Action = Literal["run", "cutover"]
ACTIONS: Final[tuple[Action, ...]] = ("run", "cutover")
_NONCE_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Payload:
    """An approval, as it is signed.

    action           "run": the plan may be run; "cutover": what was validated may be swapped in
    plan             hash of the plan
    kafka, opensearch  identifiers of the clusters, so that an approval for staging is none for production
    previous_uuid    of the index that the alias points to, and leaves; None: there is none
    nonce            128 random bits in hexadecimal; good for one run, or one swap
    expires          what is approved begins before that (ISO 8601, UTC)
    approver         who approves: the signers' file has to know the key by this name
    run, index_uuid  the run and the index that it built; None but for a cut-over
    validation       hash of the journal's entry with the validation; clock: the version that is the validation's clock,
                     None where changes are not followed. None but for a cut-over
    """

    action: Action
    approver: str
    reindex: str
    alias: str
    plan: str
    kafka: str
    opensearch: str
    previous_uuid: str | None
    nonce: str
    expires: str
    run: str | None = None
    index_uuid: str | None = None
    validation: str | None = None
    clock: int | None = None

    def encode(self) -> bytes:
        """Canonical JSON: sorted names, no spaces, UTF-8, a newline at the end."""
        text = json.dumps({"v": 1, **asdict(self)}, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        return text.encode() + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> Payload:
        """The inverse of `encode`. Raises ValueError when these are not the canonical bytes of an approval."""
        values: Any = json.loads(data)
        if not isinstance(values, dict) or values.pop("v", None) != 1:
            raise ValueError("it is no approval of this version")
        if values.keys() != {field.name for field in fields(cls)} or values["action"] not in ACTIONS:
            raise ValueError("its fields are not those of an approval")
        clock = values["clock"]
        texts = [value for name, value in values.items() if name != "clock"]
        if not all(value is None or isinstance(value, str) for value in texts) or not isinstance(clock, int | None):
            raise ValueError("its fields are not those of an approval")
        payload = cls(**values)
        if datetime.fromisoformat(payload.expires).tzinfo is None:
            raise ValueError("it does not say in which time zone it expires")
        if payload.encode() != data:
            raise ValueError("its bytes are not canonical")
        return payload

    @property
    def expires_at(self) -> datetime:
        return datetime.fromisoformat(self.expires)


def new_nonce() -> str:
    """128 random bits in hexadecimal."""
    return secrets.token_hex(_NONCE_BYTES)


def expiry(now: datetime, hours: float) -> str:
    """When an approval that is given now ends; ISO 8601 with its zone, to the second."""
    return (now + timedelta(hours=hours)).isoformat(timespec="seconds")
