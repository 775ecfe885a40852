"""Connection strings of Postgres whose passwords cannot be printed by accident.

Used by the settings, by the pools, and by whatever names a database in a log line or an error.
"""

from __future__ import annotations

from typing import Annotated, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict
from pydantic import AfterValidator, PlainSerializer

HINT: Final = 'a connection string is postgresql://user@host:5432/database or "host=… dbname=…"'

_PORTS: Final = 2**16

_FOREIGN: Final = ("jdbc:", "postgresql+", "postgres+")


class Dsn(str):
    """A connection string that prints without its password.

    To psycopg, to `encode` and to comparison it is the whole text; `str`, `repr`, `format` and f-strings, hence logs
    and messages, get `redact`'s form.
    """

    __slots__ = ()

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
    return f"postgresql://{user}{','.join(places)}/{parts.get('dbname') or ''}"


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
    return Dsn(stripped)


def same_database(one: str, other: str) -> bool:
    """Whether two connection strings name the same database of the same server, by what they say."""
    keys = ("host", "hostaddr", "port", "dbname")
    left, right = conninfo_to_dict(one), conninfo_to_dict(other)
    return [left.get(key) for key in keys] == [right.get(key) for key in keys]


DsnText = Annotated[str, AfterValidator(parse_dsn), PlainSerializer(redact, when_used="json")]
"""The type of a setting that is a connection string: a `str` to whoever passes it on, a `Dsn` at run time."""
