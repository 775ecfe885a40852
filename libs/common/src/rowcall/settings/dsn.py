"""Connection strings of Postgres whose passwords cannot be printed by accident.

Used by the settings, by the pools, and by whatever names a database in a log line or an error.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final, Self

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import AfterValidator, PlainSerializer

from rowcall.settings.values import unreadable

HINT: Final = 'a connection string is postgresql://user@host:5432/database or "host=… dbname=…"'

_PORTS: Final = 2**16

_FOREIGN: Final = ("jdbc:", "postgresql+", "postgres+")

_FILES: Final = ("passfile", "sslrootcert", "sslcert", "sslkey", "sslcrl")
"""Parameters that name a file, each read by libpq when it connects. One that is not there is better told of at the start."""

_NO_FILE: Final[Mapping[str, tuple[str, ...]]] = {"sslrootcert": ("system",)}

_VERIFIED: Final = "verify-full"


class Dsn(str):
    """A connection string that prints without its password.

    To psycopg, to `encode` and to comparison it is the whole text; `str`, `repr`, `format` and f-strings, hence logs
    and messages, get `redact`'s form.
    """

    __slots__ = ("password_file",)

    password_file: Path | None
    """Whose content is the login's password, looked at by each new connection (`rowcall.security.passwords`)."""

    def __new__(cls, text: str, password_file: Path | None = None) -> Self:
        """
        Args:
            text: The connection string.
            password_file: For a string that says nothing of a password; None: as `text` has it, if that is one of ours.
        """
        made = super().__new__(cls, text.encode().decode())
        made.password_file = getattr(text, "password_file", None) if password_file is None else password_file
        return made

    def with_parameters(self, parameters: Mapping[str, str]) -> Self:
        """The same with more or other parameters, as `psycopg.conninfo.make_conninfo` takes them."""
        return type(self)(make_conninfo(self, **parameters), self.password_file)

    def __str__(self) -> str:
        return redact(self)

    def __repr__(self) -> str:
        return f"Dsn({redact(self)!r})"

    def __format__(self, spec: str) -> str:
        return format(redact(self), spec)


def redact(dsn: str) -> str:
    """Where a connection string leads and as whom, without secrets: "postgresql://user@host:port/database"."""
    try:
        parts = conninfo_to_dict(dsn)
    except psycopg.Error:
        return "(an unreadable connection string)"
    user = f"{parts['user']}@" if parts.get("user") else ""
    hosts = str(parts.get("host") or parts.get("hostaddr") or "").split(",")
    ports = str(parts.get("port") or "").split(",")
    places = [
        host + (f":{port}" if port else "")
        for host, port in zip(hosts, ports * len(hosts) if len(ports) == 1 else ports, strict=False)
    ]
    # The file of a service says the rest.
    service = f"?service={parts['service']}" if parts.get("service") else ""
    return f"postgresql://{user}{','.join(places)}/{parts.get('dbname') or ''}{service}"


def parse_dsn(text: str) -> Dsn:
    """A connection string as libpq reads it.

    Raises:
        ValueError: It is none. The message does not repeat it: it may hold a password.
    """
    stripped = text.encode().decode().strip()
    if not stripped:
        raise ValueError(f"is empty; {HINT}")
    if stripped.lower().startswith(_FOREIGN):
        scheme = stripped.split(":")[0]
        raise ValueError(f"begins with {scheme}:, the notation of another library; {HINT}")
    try:
        parts = conninfo_to_dict(stripped)
    except psycopg.Error:
        # libpq's own message may quote a piece of the password.
        raise ValueError(
            f"cannot be read as a connection string; {HINT}, and in a URL %, @, : and / of a password are "
            "percent-encoded"
        ) from None
    for port in str(parts.get("port") or "").split(","):
        # libpq finds it out at the first connection only. Empty: the default's.
        if port.strip() and not (port.strip().isascii() and port.strip().isdigit() and 0 < int(port) < _PORTS):
            raise ValueError(f"has the port {port.strip()[:10]!r}; a port is a number from 1 to {_PORTS - 1}")
    for key in _FILES:
        file = str(parts.get(key) or "")
        if file and file not in _NO_FILE.get(key, ()):
            why = unreadable(Path(file))
            if why is not None:
                raise ValueError(f"names what cannot be read: {key}={file!r} ({why})")
    passfile = parts.get("passfile")
    if passfile and Path(str(passfile)).stat().st_mode & 0o077:
        # libpq says so on stderr, goes on without a password, and the server then asks for one.
        raise ValueError(
            f"names passfile={str(passfile)!r}, which libpq ignores, for others than its owner may read it: chmod 600, or "
            "put the password alone into a file and name that in ROWCALL_PASSWORD_FILE, whose rights are yours to set"
        )
    return Dsn(stripped)


def with_password_file(dsn: str, file: Path | None) -> Dsn:
    """A connection string whose password is in a file, unless it says itself what the password is or where."""
    parts = conninfo_to_dict(dsn)
    return Dsn(dsn, None if parts.get("password") or parts.get("passfile") else file)


def same_database(one: str, other: str) -> bool:
    """Whether two connection strings name the same database of the same server, by what they say."""
    keys = ("service", "host", "hostaddr", "port", "dbname")
    left, right = conninfo_to_dict(one), conninfo_to_dict(other)
    return [left.get(key) for key in keys] == [right.get(key) for key in keys]


def unverified_hosts(dsn: str, environment: Mapping[str, str]) -> Sequence[str]:
    """The hosts that are connected to over a network without holding their certificates against their names: whoever is on the
    way can read, or play the server. None where nothing leaves the machine: a Unix socket, a loopback address.

    Args:
        dsn: As in the settings.
        environment: Where libpq finds what the string does not say (PGSSLMODE, PGHOST).
    """
    parts = conninfo_to_dict(dsn)

    def said(key: str, variable: str) -> str:
        return str(parts.get(key) or environment.get(variable) or "")

    # Where the system's roots are trusted, verify-full is what libpq takes where nothing is said.
    unsaid = _VERIFIED if said("sslrootcert", "PGSSLROOTCERT") == "system" else ""
    if (said("sslmode", "PGSSLMODE") or unsaid) == _VERIFIED:
        return ()
    hosts = said("hostaddr", "PGHOSTADDR") or said("host", "PGHOST")
    if not hosts and parts.get("service"):
        return (f"service {parts['service']}",)
    return [host for host in hosts.split(",") if not _stays(host)]


def _stays(host: str) -> bool:
    """Whether what is sent to a host stays on the machine. Nothing is the default socket's."""
    if not host or host.startswith(("/", "@")) or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


DsnText = Annotated[str, AfterValidator(parse_dsn), PlainSerializer(redact, when_used="json")]
"""The type of a setting that is a connection string: a `str` to whoever passes it on, a `Dsn` at run time."""
