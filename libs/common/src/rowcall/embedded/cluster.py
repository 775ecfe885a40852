"""Making a database cluster with `initdb`, and seeing that an existing one fits the binaries. Called by `server`."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from rowcall.embedded.account import Account
from rowcall.embedded.binaries import Binaries
from rowcall.embedded.data_dir import DataDir
from rowcall.embedded.errors import AccountError, DataDirError, StartError

SUPERUSER = "postgres"
"""The role that owns everything in an embedded Postgres."""


def ensure(data_dir: DataDir, binaries: Binaries, account: Account, *, durable: bool) -> None:
    """Make the cluster unless it is there; the caller holds the directory's lock.

    Raises DataDirError for a cluster of another major version, AccountError and StartError when one cannot be made.
    """
    if data_dir.cluster.exists():
        _refuse_other_version(data_dir, binaries)
        return
    new = data_dir.unfinished_cluster
    if new.exists():  # an earlier process was killed here
        shutil.rmtree(new)
    if account.name is None:
        raise AccountError(
            f"This user (uid {account.uid}) has no entry in the user database, and initdb needs one: add it to "
            "/etc/passwd, or run as another user or as root."
        )
    new.mkdir(mode=0o700)
    try:
        if account.switched:
            os.chown(new, account.uid, account.gid)
        _initdb(data_dir.password(), new, binaries, account, durable=durable)
        new.rename(data_dir.cluster)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _initdb(password: str, new: Path, binaries: Binaries, account: Account, *, durable: bool) -> None:
    with account.reaching(new) as (path, fds), tempfile.TemporaryFile() as password_file:
        # A file without a name, its descriptor passed on: the password is on no command line and in no directory.
        password_file.write(password.encode())
        password_file.seek(0)
        if account.switched:
            os.fchown(password_file.fileno(), account.uid, account.gid)
        command: list[str | Path] = [
            binaries.program("initdb"),
            f"--pgdata={path}",
            f"--username={SUPERUSER}",
            f"--pwfile=/dev/fd/{password_file.fileno()}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            *_locale(binaries),
        ]
        if binaries.major >= 16:
            # Stretching protects weak passwords. This one has 256 random bits, and at the default of 4096 rounds it
            # costs a client 4.7 ms to connect instead of 2.2. `server` puts the default back for other roles.
            command += ["--set", "scram_iterations=1"]
        if not durable:
            command.append("--no-sync")
        try:
            done = account.run(command, pass_fds=(*fds, password_file.fileno()))
        except OSError as error:
            raise StartError(f"{binaries.program('initdb')} cannot be executed: {error.strerror}.") from error
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip().splitlines()[-10:]
        raise StartError(
            f"initdb could not make a database in {new.parent} (exit code {done.returncode}). It said:\n"
            + "\n".join(f"    {line}" for line in said)
            + "\nPut right what it names and start again; nothing was left behind."
        )


def _locale(binaries: Binaries) -> list[str]:
    """Unicode rules for letters, sorting by code point: the same everywhere, whatever the machine's locales."""
    if binaries.major >= 17:
        return ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    return ["--locale=C.UTF-8" if sys.platform == "linux" else "--locale=C"]


def _refuse_other_version(data_dir: DataDir, binaries: Binaries) -> None:
    try:
        made_by = (data_dir.cluster / "PG_VERSION").read_text().strip()
    except OSError as error:
        raise DataDirError(
            f"{data_dir.cluster} is not a Postgres data directory ({error.strerror}: PG_VERSION): restore it, or remove "
            f"{data_dir.path} to begin with an empty one."
        ) from error
    if made_by != str(binaries.major):
        raise DataDirError(
            f"The database in {data_dir.path} was made by Postgres {made_by}, and {binaries.directory} is Postgres "
            f"{binaries.version}: name the binaries of a Postgres {made_by}, choose another data directory, or move the "
            "data with pg_dump or pg_upgrade."
        )
