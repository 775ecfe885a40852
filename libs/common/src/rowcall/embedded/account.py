"""The operating-system account the embedded server runs under, and running programs as that account.

Postgres refuses to run as root, so root hands it to an unprivileged account: the owner of the data when there is data
already, else `nobody`. Nobody else needs to switch. Called by `server`, `binaries`, `cluster` and `guardian`.
"""

from __future__ import annotations

import errno
import os
import pwd
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rowcall.embedded.errors import AccountError

_UNPRIVILEGED_NAMES = ("nobody", "postgres")
"""Accounts root may hand the server to, in this order. They need an entry in the user database: initdb looks its own
name up."""

_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
"""The variables the programs get. No more: the caller's secrets have no business in the environment of another
account's process, and PGPORT, PGDATA and the like would override what we ask for."""


@dataclass(frozen=True, slots=True)
class Account:
    """An operating-system account, and how to run programs as it."""

    uid: int
    """Its user id, never 0."""
    gid: int
    """Its group id."""
    switched: bool
    """Whether it is another account than this process's own."""

    @property
    def name(self) -> str | None:
        """Its name in the user database, or None when it has no entry there."""
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return None

    def run(self, command: Sequence[str | Path], *, pass_fds: Sequence[int] = ()) -> subprocess.CompletedProcess[str]:
        """Run a program to its end and return its exit code and output.

        Raises OSError when the program cannot be executed by this account, and AccountError when this process may not
        switch to the account.
        """
        with self._explaining_refusals():
            return subprocess.run(
                command,
                capture_output=True,
                check=False,
                cwd="/",
                env=_environment(),
                errors="replace",
                extra_groups=[] if self.switched else None,
                group=self.gid if self.switched else None,
                pass_fds=pass_fds,
                stdin=subprocess.DEVNULL,
                text=True,
                user=self.uid if self.switched else None,
            )

    def spawn(
        self,
        command: Sequence[str | Path],
        *,
        stdin: int = subprocess.DEVNULL,
        output: IO[bytes] | int = subprocess.DEVNULL,
        pass_fds: Sequence[int] = (),
    ) -> subprocess.Popen[bytes]:
        """Start a program in a session of its own, so that Ctrl-C in the terminal reaches the caller alone.

        Raises what `run` raises.
        """
        with self._explaining_refusals():
            return subprocess.Popen(
                command,
                cwd="/",
                env=_environment(),
                extra_groups=[] if self.switched else None,
                group=self.gid if self.switched else None,
                pass_fds=pass_fds,
                start_new_session=True,
                stderr=output,
                stdin=stdin,
                stdout=output,
                user=self.uid if self.switched else None,
            )

    @contextmanager
    def reaching(self, directory: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
        """A path by which this account reaches a directory of its own, and the descriptors to pass on for it.

        A directory below one that is closed to the account (root's home) cannot be reached by its name, and opening up
        the parents is not ours to do. The name of an open descriptor leads to the directory itself, whatever lies
        above it, in the program and in all it forks.
        """
        if not (self.switched and sys.platform == "linux"):
            yield str(directory), ()
            return
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield f"/proc/self/fd/{descriptor}", (descriptor,)
        finally:
            os.close(descriptor)

    @contextmanager
    def _explaining_refusals(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # EACCES is about the program; these two are about becoming the account (a container without CAP_SETUID,
            # or a user namespace that maps root alone).
            if self.switched and error.errno in (errno.EPERM, errno.EINVAL):
                raise AccountError(
                    f"Postgres refuses to run as root, and this process may not switch to the account {self.name} "
                    f"(uid {self.uid}): {os.strerror(error.errno)}. Run as an ordinary user instead."
                ) from error
            raise


def choose(cluster: Path) -> Account:
    """The account for the server whose data is, or will be, in the directory `cluster`.

    Raises AccountError when root finds no unprivileged account.
    """
    if os.geteuid() != 0:
        return Account(uid=os.geteuid(), gid=os.getegid(), switched=False)
    if cluster.is_dir():
        owner = cluster.stat()
        if owner.st_uid != 0:
            return Account(uid=owner.st_uid, gid=owner.st_gid, switched=True)
    for name in _UNPRIVILEGED_NAMES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(uid=entry.pw_uid, gid=entry.pw_gid, switched=True)
    raise AccountError(
        "Postgres refuses to run as root, and the user database has none of the accounts "
        f"{', '.join(_UNPRIVILEGED_NAMES)}. Add one of them to /etc/passwd, or run as an ordinary user."
    )


def _environment() -> dict[str, str]:
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    # English messages: `server` recognises a few of them.
    return {"PATH": os.defpath, **passed_on, "LC_ALL": "C"}
