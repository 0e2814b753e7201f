"""That a plan which needs a signature can be signed, and the signature verified here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from signing import OWNER, Keys, make_keys

from reshelve.check.approval import check_approval


@dataclass
class Found:
    """In place of the findings of a spec."""

    spec: Any
    told: list[str] = field(default_factory=list)

    def add(self, _field: str, error: Exception) -> None:
        self.told.append(str(error))

    def error(self, _field: str, what: str, _remedy: str) -> None:
        self.told.append(what)

    warning = error


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("keys"))


def _told(allowed: Path, owner: str = OWNER, required: str = "signed") -> list[str]:
    approval = SimpleNamespace(required=required, allowed_signers=str(allowed), revoked_keys=None)
    found = Found(SimpleNamespace(approval=approval, owner=owner, delegates=()))
    check_approval(cast(Any, found))
    return [one for one in found.told if "may write to" not in one]  # as who runs the tests may


def test_somebody_who_may_approve_must_have_a_key(keys: Keys, tmp_path: Path) -> None:
    assert _told(keys.signers.allowed) == []
    (told,) = _told(keys.signers.allowed, owner="carol@example.com")
    assert "no key of carol@example.com" in told
    assert "cannot verify" in _told(tmp_path / "none")[0]
    assert _told(tmp_path / "none", required="named") == []
