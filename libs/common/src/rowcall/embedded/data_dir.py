"""The directory an embedded Postgres lives in: its layout, its one owner at a time, its superuser's password.

    DIR/cluster/             the data of Postgres itself, owned by the account that runs the server
    DIR/superuser_password   readable by the caller alone: other local users cannot connect
    DIR/owner.lock           locked as long as a process owns the directory, and holds its id
    DIR/postgres.log         the server's log since its last start; the one before is postgres.log.1

Called by `server` and `cluster`.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from rowcall.embedded.errors import DataDirError, DataDirInUseError

_LOG_TAIL_LINES = 15


@dataclass(frozen=True, slots=True)
class DataDir:
    """The paths of a data directory. Made by `prepare`."""

    path: Path
    """Absolute, without symbolic links."""

    @property
    def cluster(self) -> Path:
        """The data of Postgres itself ("data directory" in its manual)."""
        return self.path / "cluster"

    @property
    def unfinished_cluster(self) -> Path:
        """Where a new cluster is made: it gets its name when it is whole."""
        return self.path / "cluster.unfinished"

    @property
    def log(self) -> Path:
        """The server's log since its last start."""
        return self.path / "postgres.log"

    @property
    def _earlier_log(self) -> Path:
        return self.path / "postgres.log.1"

    @property
    def _lock_file(self) -> Path:
        return self.path / "owner.lock"

    @property
    def _password_file(self) -> Path:
        return self.path / "superuser_password"

    def password(self) -> str:
        """The superuser's password, made with the cluster.

        Raises DataDirError when there is a cluster and its password is gone.
        """
        try:
            return self._password_file.read_text()
        except PermissionError as error:
            raise DataDirError(
                f"{self._password_file} may not be read by this user: start as the user who made it, or choose another "
                "directory."
            ) from error
        except FileNotFoundError:
            if self.cluster.exists():
                raise DataDirError(
                    f"{self._password_file} is missing, so nobody can log in to the database beside it: put it back, "
                    f"or remove {self.path} to begin with an empty one."
                ) from None
        password = secrets.token_urlsafe(32)
        # Whole or absent: a half-written password would lock everybody out.
        unfinished = self._password_file.with_suffix(".unfinished")
        unfinished.unlink(missing_ok=True)
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(password)
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(self._password_file)
        return password

    def fresh_log(self) -> int:
        """Put the earlier log aside and open a new one; returns a descriptor the caller closes."""
        if self.log.exists():
            self.log.replace(self._earlier_log)
        return os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def log_tail(self) -> str:
        """The last lines of the log, indented."""
        lines = self.log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
        return "\n".join(f"    {line}" for line in lines) or "    (empty)"

    def lock(self) -> OwnerLock:
        """Become the directory's owner until the lock is released or this process ends, however it ends.

        Raises DataDirInUseError when another live process, or this one, owns it; DataDirError when this user may not.
        """
        try:
            descriptor = os.open(self._lock_file, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise DataDirError(
                f"{self._lock_file} cannot be written: {error.strerror}. Start as the user who made it, or choose "
                "another directory."
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            if owner == str(os.getpid()):
                raise DataDirInUseError(
                    f"This process (pid {owner}) already runs the Postgres in {self.path}: use that one, or stop it "
                    "first."
                ) from None
            raise DataDirInUseError(
                f"The Postgres in {self.path} belongs to another running process (pid {owner}): stop that process, or "
                "use another data directory."
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        return OwnerLock(descriptor)


@dataclass(frozen=True, slots=True)
class OwnerLock:
    """Held by the process that owns a data directory."""

    _descriptor: int

    def release(self) -> None:
        """Give the directory up. Call once."""
        os.close(self._descriptor)


def prepare(path: Path) -> DataDir:
    """Make the directory, or see that what is there is ours.

    Raises DataDirError when it cannot be made, holds something else, or belongs to another user.
    """
    data_dir = DataDir(path.expanduser().resolve())
    try:
        data_dir.path.mkdir(parents=True, exist_ok=True)
        entries = {entry.name for entry in data_dir.path.iterdir()}
        _refuse_foreign(data_dir, entries)
    except OSError as error:
        raise DataDirError(
            f"{error.filename or data_dir.path} cannot be used as a data directory: {error.strerror}. "
            "Choose a directory that this user can write to."
        ) from error
    return data_dir


def _refuse_foreign(data_dir: DataDir, entries: set[str]) -> None:
    if "PG_VERSION" in entries:
        raise DataDirError(
            f"{data_dir.path} is the data directory of a Postgres that Rowcall did not make: choose a new directory."
        )
    # The lock is the first thing made, so it is there whenever anything of ours is.
    if entries and "owner.lock" not in entries:
        raise DataDirError(
            f"{data_dir.path} is not empty and holds no embedded Postgres: choose an empty or a new directory."
        )
    uid = os.geteuid()
    if data_dir.cluster.exists() and uid not in (0, data_dir.cluster.stat().st_uid):
        raise DataDirError(
            f"The database in {data_dir.path} belongs to another user (uid {data_dir.cluster.stat().st_uid}; this is "
            f"uid {uid}): start it as that user or as root, or choose another directory."
        )
