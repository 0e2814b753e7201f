"""SSH keys of people who may approve, and of one who may not."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from reshelve.approval.decision import Given
from reshelve.approval.payload import NAMESPACE, Payload
from reshelve.signatures import Signers, sign, verify

OWNER, DELEGATE = "alice@example.com", "bob@example.com"


@dataclass(frozen=True)
class Keys:
    """A folder with the keys `alice` (the owner), `bob` (a delegate) and `mallory`, whom the signers' file does not
    know."""

    folder: Path

    def key(self, name: str) -> Path:
        return self.folder / name

    def public(self, name: str) -> str:
        return " ".join((self.folder / f"{name}.pub").read_text().split()[:2])

    @property
    def signers(self) -> Signers:
        return Signers(self.folder / "allowed")

    def given(
        self, payload: Payload, key: str = "alice", namespace: str = NAMESPACE, signers: Signers | None = None
    ) -> Given:
        """An approval signed with that key, as it is judged."""
        data = payload.encode()
        signature = sign(data, self.key(key), namespace)
        used = signers or self.signers
        return Given(
            "2026-01-02T03:04:05+00:00",
            data,
            verify(data, signature, principal=payload.approver, namespace=NAMESPACE, signers=used),
        )


def make_keys(folder: Path) -> Keys:
    """Without ssh-keygen the test is skipped, but fails where CI is set."""
    if shutil.which("ssh-keygen") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("there is no ssh-keygen")
    made = Keys(folder)
    for name in ("alice", "bob", "mallory"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(made.key(name))], check=True)
    made.signers.allowed.write_text(f"{OWNER} {made.public('alice')}\n{DELEGATE} {made.public('bob')}\n")
    made.signers.allowed.chmod(0o644)
    return made
