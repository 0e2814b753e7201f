"""SSH signatures, made and verified by `ssh-keygen -Y`.

A signature is verified as git verifies those of its commits: the signers' file names the keys of each principal, may
bind a key to namespaces and to a time (`valid-after`, `valid-before`), or trust an authority for it (`cert-authority`);
exit code and answer must both say that it is good. Mismatch is a result; that it can't be checked is an error."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from reshelve.errors import BlockedError, UsageError

PROGRAM: Final = "ssh-keygen"
_TIMEOUT_S: Final = 30.0
_GOOD: Final = re.compile(r'^Good "[^"]*" signature for .* key (?P<key>SHA256:\S+)', re.MULTILINE)
_TOO_OLD: Final = re.compile(r"(unknown|illegal|invalid) option", re.IGNORECASE)
_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, slots=True)
class Signers:
    """Whose signatures count. allowed, revoked: files as `ssh-keygen -Y verify` takes them; revoked None: none."""

    allowed: Path
    revoked: Path | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """key: fingerprint of the key that signed, where the signature is good. why: why it is not; empty where it is."""

    key: str
    why: str = ""

    @property
    def good(self) -> bool:
        return not self.why


def sign(payload: bytes, key: Path, namespace: str) -> str:
    """The armored signature of `payload`. ssh-keygen asks for a passphrase, or for a touch, by itself; where `key` is a
    public key, the agent signs. Raises UsageError when it can't sign, BlockedError without ssh-keygen."""
    what, command = f"cannot sign with {key}", [_program(), "-Y", "sign", "-f", str(key), "-n", namespace]
    try:
        done = subprocess.run(command, input=payload, capture_output=True, check=False, env=_environment())
    except OSError as error:
        raise UsageError(what, why=str(error), remedy="see that ssh-keygen can be run") from error
    if done.returncode != 0:
        remedy = "name a private key, or a public key whose private one the SSH agent holds"
        raise UsageError(what, where=str(key), why=_last_line(done.stderr), remedy=remedy)
    return done.stdout.decode()


def verify(payload: bytes, signature: str, *, principal: str, namespace: str, signers: Signers) -> Verdict:
    """Whether `principal` has signed `payload` in `namespace`, as the signers' file is now.

    Raises BlockedError when that can't be checked."""
    require_usable(signers)
    with tempfile.TemporaryDirectory(prefix="reshelve-") as folder:
        written = Path(folder) / "signature"
        written.write_text(signature, encoding="utf-8")
        command = [_program(), "-Y", "verify", "-f", str(signers.allowed), "-I", principal, "-n", namespace]
        command += ["-s", str(written)]
        if signers.revoked is not None:
            command += ["-r", str(signers.revoked)]
        try:
            done = subprocess.run(
                command, input=payload, capture_output=True, check=False, timeout=_TIMEOUT_S, env=_environment()
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            remedy = "see that ssh-keygen can be run, then try again"
            raise BlockedError("cannot verify a signature", where=PROGRAM, why=str(error), remedy=remedy) from error
    answer = _GOOD.search(done.stdout.decode(errors="replace"))
    if done.returncode == 0 and answer is not None:
        return Verdict(answer["key"])
    # Of a key that is not listed, or revoked, ssh-keygen says no more than that.
    why = _last_line(done.stderr) or f"{signers.allowed} holds no valid key of {principal} that has made this signature"
    if _TOO_OLD.search(why):
        remedy = "install OpenSSH 8.2 or newer"
        raise BlockedError("cannot verify a signature", where=PROGRAM, why=why, remedy=remedy)
    return Verdict("", why)


def require_usable(signers: Signers) -> None:
    """Raises BlockedError when signatures can't be verified by these files, or not on this machine."""
    _program()
    for file in filter(None, (signers.allowed, signers.revoked)):
        _require_trustworthy(file)


def principals(allowed: str) -> list[str]:
    """The patterns of principals in the text of a signers' file; those that exclude somebody are left out."""
    found: list[str] = []
    for line in allowed.splitlines():
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        first = text[1:].partition('"')[0] if text.startswith('"') else text.split()[0]
        found += [pattern for pattern in first.split(",") if pattern and not pattern.startswith("!")]
    return found


def _program() -> str:
    found = shutil.which(PROGRAM)
    if found is None:
        raise BlockedError(
            "cannot sign or verify: there is no ssh-keygen",
            why="approvals are SSH signatures",
            remedy="install OpenSSH's client (Debian, Ubuntu: openssh-client; Fedora: openssh)",
        )
    return found


def _require_trustworthy(file: Path) -> None:
    """Raises BlockedError when the file can't be read, or others than its owner may write it: then anybody signs."""
    what = "cannot verify signatures"
    try:
        with file.open("rb") as opened:
            mode = os.fstat(opened.fileno()).st_mode
    except OSError as error:
        remedy = "see `approval` in the spec: the file has to be on this machine, and readable"
        raise BlockedError(what, where=str(file), why=str(error.strerror), remedy=remedy) from error
    if mode & _WRITABLE_BY_OTHERS:
        why = "its group, or anybody, may write to it, and so let anybody sign"
        raise BlockedError(what, where=str(file), why=why, remedy=f"chmod go-w {file}")


def _environment() -> dict[str, str]:
    """Ours, with answers in English: they are read."""
    return {**os.environ, "LC_ALL": "C"}


def _last_line(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else ""
