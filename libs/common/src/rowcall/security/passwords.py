"""Passwords that lie in a file of their own, and may be exchanged while the program runs. Called wherever a connection to Postgres
is made.

libpq reads a `passfile`, a service file, certificates and keys anew for each connection. A file with nothing but a password in it,
as Kubernetes and Docker mount secrets, it does not know, and a `passfile` that its owner's group may read it ignores. So such a
file is read here, for each connection too.

File and server are not exchanged in the same instant: on a cluster a mounted secret reaches its pods a minute or two after it was
changed. So the password that a server last took stays known, and is tried where the file's is refused: if the file comes first and
`alter role` when every process can see it, no connection fails in between.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import psycopg
import structlog

from rowcall.apart import in_thread
from rowcall.settings import redact

C = TypeVar("C")

LONGEST: Final = 4096
"""Bytes of a password file: tokens of cloud providers, which are passwords to Postgres, have some two thousand."""

_REFUSED: Final = "authentication failed for user"
"""A connection that fails has no SQLSTATE in libpq, only the server's text. A server that speaks another language is one
whose earlier password is not tried."""

_log = structlog.get_logger(__name__)

_taken: dict[tuple[Path, str], str] = {}
"""By file, and by who logs in where: the password that was taken last."""


class UnreadablePassword(psycopg.OperationalError):
    """The file of a password is not there, may not be read, or holds none: no connection for now, as if the server were away."""


async def connect(open_one: Callable[..., Awaitable[C]], dsn: str, **parameters: Any) -> C:
    """A new connection, with the password as its file has it now, where the connection string is one of those with a file.

    Args:
        open_one: Such as `psycopg.AsyncConnection.connect`.
        dsn: The connection string, a `Dsn` where it has a file.
        parameters: Passed on; those that are libpq's are stronger than the string.

    Raises:
        psycopg.Error: As `open_one`; UnreadablePassword.
    """
    file = getattr(dsn, "password_file", None)
    if file is None:
        return await open_one(dsn, **parameters)
    password = await in_thread(read, file)
    login = _Login(file, dsn, password)
    try:
        made = await open_one(dsn, **parameters, password=password)
    except psycopg.OperationalError as error:
        earlier = login.earlier(error)
        if earlier is None:
            raise
        made = await open_one(dsn, **parameters, password=earlier)
        login.behind()
        return made
    login.taken()
    return made


def connect_blocking(dsn: str, **parameters: Any) -> psycopg.Connection[Any]:
    """The same for a thread: `psycopg.connect`. Raises psycopg.Error."""
    file = getattr(dsn, "password_file", None)
    if file is None:
        return psycopg.connect(dsn, **parameters)
    password = read(file)
    login = _Login(file, dsn, password)
    try:
        made = psycopg.connect(dsn, **parameters, password=password)
    except psycopg.OperationalError as error:
        earlier = login.earlier(error)
        if earlier is None:
            raise
        made = psycopg.connect(dsn, **parameters, password=earlier)
        login.behind()
        return made
    login.taken()
    return made


def read(file: Path) -> str:
    """The password that a file holds: what is in it, without the end of its line.

    Raises:
        UnreadablePassword: With the file and what is wrong, never with what is in it.
    """
    try:
        with file.open("rb") as opened:
            content = opened.read(LONGEST + 1)
    except OSError as error:
        raise UnreadablePassword(f"the password file {str(file)!r} cannot be read: {error.strerror}") from error
    if len(content) > LONGEST:
        raise UnreadablePassword(f"the password file {str(file)!r} holds more than {LONGEST} bytes, hence no password")
    try:
        password = content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        # From None: the error has the bytes in it.
        raise UnreadablePassword(f"the password file {str(file)!r} is not text in UTF-8") from None
    if not password or any(each in password for each in "\n\r\0"):
        what = "holds several lines" if password else "is empty"
        raise UnreadablePassword(f"the password file {str(file)!r} {what}; it must hold the password and nothing else")
    return password


class _Login:
    """One attempt to log in with a file's password."""

    __slots__ = ("_file", "_key", "_password")

    def __init__(self, file: Path, dsn: str, password: str) -> None:
        self._file = file
        self._key = (file, redact(dsn))
        self._password = password

    def taken(self) -> None:
        _taken[self._key] = self._password

    def earlier(self, error: psycopg.OperationalError) -> str | None:
        """The password to try where this one was refused; None where there is no other, or it is something else."""
        found = _taken.get(self._key)
        return found if found != self._password and _REFUSED in str(error) else None

    def behind(self) -> None:
        # Said for each such connection: it is what an operator must end before the next process starts.
        _log.warning(
            "the database takes the earlier password still; what the file has now is to be set there (alter role)",
            file=str(self._file),
            database=self._key[1],
        )
