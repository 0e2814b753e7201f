"""Checks of what an approval takes: that a signature can be verified here, and that somebody can sign."""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from reshelve.check.findings import Findings
from reshelve.errors import BlockedError
from reshelve.signatures import Signers, principals, require_usable

_SIGNERS: Final = "approval.allowed_signers"


def check_approval(findings: Findings) -> None:
    """Whether the signers' file is there for `ssh-keygen`, and knows who may approve."""
    spec = findings.spec
    approval = spec.approval
    if approval.required != "signed" or approval.allowed_signers is None:
        return
    allowed = Path(approval.allowed_signers)
    try:
        require_usable(Signers(allowed, None if approval.revoked_keys is None else Path(approval.revoked_keys)))
    except BlockedError as error:
        findings.add(_SIGNERS, error)
        return
    known = principals(allowed.read_text(encoding="utf-8", errors="replace"))
    people = [name for name in (spec.owner, *spec.delegates) if name is not None]
    if not any(fnmatchcase(name, pattern) for name in people for pattern in known):
        what = f"{allowed} has no key of {' or '.join(people)}: nobody can approve"
        findings.error(_SIGNERS, what, "add a line with that very name, or name the owner in the spec as the file does")
    if os.geteuid() != 0 and os.access(allowed, os.W_OK):
        what = f"whoever runs this may write to {allowed}, and so approve for everybody in it"
        findings.warning(_SIGNERS, what, "have somebody else own it, such as root")
