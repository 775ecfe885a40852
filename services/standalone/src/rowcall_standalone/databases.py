"""The databases of a system on one embedded Postgres: a catalogue and shards "a", "b", …, all migrated.

    DIR/postgres/       the embedded Postgres (see rowcall.embedded), with the databases catalogue, shard_a, shard_b, …

Gateway and worker log in as in production, each with its own role and no more; their passwords are made anew at every start.
Which shards there are is read from the server itself: a shard that is there holds tenants. Called by `dev` and `demo`,
which therefore can be started on one another's directories.
"""

from __future__ import annotations

import asyncio
import shlex
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rowcall import embedded
from rowcall.embedded import Login, Postgres
from rowcall.migrations import MigrationError, migrate
from rowcall_standalone.errors import StandaloneError

_CATALOGUE = "catalogue"
_SHARD_PREFIX = "shard_"
_MAX_CONNECTIONS = "400"


def is_reserved(name: str) -> bool:
    """Whether a database's name is one that the system itself uses."""
    return name == _CATALOGUE or name.startswith(_SHARD_PREFIX)


Say = Callable[[str], None]
"""Tells the person at the terminal what is being done."""


@dataclass(frozen=True, slots=True)
class Reached:
    """The databases, as one service reaches them."""

    catalogue: str
    """The catalogue's connection string; carries a password."""
    shards: Mapping[str, str]
    """The shards' connection strings by name."""


@dataclass(frozen=True, slots=True)
class Databases:
    """A running embedded Postgres with its databases."""

    postgres: Postgres
    """Stopped by whoever holds this."""
    shards: Sequence[str]
    """The shards' names."""
    gateway: Reached
    """As gateways do."""
    worker: Reached
    """As workers do."""
    servicers: Login
    """Whose databases are those that servicers have of their own; may not connect to the others."""

    def create(self, name: str) -> str:
        """One more database on the same server, the servicers', unless it is there; returns its connection string. Blocks."""
        self.postgres.create_database(name, owner=self.servicers.name)
        return self.postgres.dsn(name, self.servicers)

    def psql(self, shard: str) -> str:
        """A shell command that opens a shard; the password is read from its file when the command is run."""
        bundled = self.postgres.binaries.program("psql")
        psql = shlex.quote(str(bundled)) if bundled.is_file() else "psql"
        password = shlex.quote(str(self.postgres.data_dir / "superuser_password"))
        return f"PGPASSWORD=$(cat {password}) {psql} -h 127.0.0.1 -p {self.postgres.port} -U postgres -d {_SHARD_PREFIX}{shard}"


def start_postgres(directory: Path, *, binaries: Path | None = None) -> Postgres:
    """Start the embedded Postgres of a directory. Blocks.

    Raises StandaloneError with what to do.
    """
    try:
        # Every commit outlives a crash of the machine too: a developer's data is data.
        return embedded.start(directory / "postgres", settings={"max_connections": _MAX_CONNECTIONS}, binaries=binaries)
    except embedded.EmbeddedPostgresError as error:
        raise StandaloneError(str(error)) from error


async def prepare(postgres: Postgres, count: int | None, say: Say) -> Databases:
    """Make the catalogue and the shards that are not there yet, and migrate all of them.

    Args:
        postgres: The running server.
        count: How many shards there shall be, 26 at most; more than there are adds some. None: as many as there are,
            one at first.
        say: Hears about each migration.

    Raises StandaloneError when there are more shards already, or one cannot be migrated.
    """
    there = await asyncio.to_thread(postgres.databases)
    present = sorted(name.removeprefix(_SHARD_PREFIX) for name in there if name.startswith(_SHARD_PREFIX))
    names = list(string.ascii_lowercase[: count or len(present) or 1])
    stranded = [name for name in present if name not in names]
    if stranded:
        raise StandaloneError(
            f"{postgres.data_dir.parent} holds {len(present)} shards ({', '.join(present)}), and {count} were asked for: "
            f"tenants live on {', '.join(stranded)} and would be out of reach. Ask for {len(present)} shards, or use "
            "another data directory."
        )
    for name in (_CATALOGUE, *(_SHARD_PREFIX + shard for shard in names)):
        await asyncio.to_thread(postgres.create_database, name, public=False)
    # One after the other: the roles are the server's, and two databases that make them at once collide.
    await _migrate(postgres, postgres.dsn(_CATALOGUE), None, say)
    for shard in names:
        await _migrate(postgres, postgres.dsn(_SHARD_PREFIX + shard), shard, say)

    async def reached(role: str) -> Reached:
        login = await asyncio.to_thread(postgres.create_login, f"{role}_login", roles=[role])
        shards = {shard: postgres.dsn(_SHARD_PREFIX + shard, login) for shard in names}
        return Reached(postgres.dsn(_CATALOGUE, login), shards)

    servicers = await asyncio.to_thread(postgres.create_login, "rowcall_servicers_login")
    return Databases(postgres, names, await reached("rowcall_gateway"), await reached("rowcall_worker"), servicers)


async def _migrate(postgres: Postgres, dsn: str, shard: str | None, say: Say) -> None:
    directory = postgres.data_dir.parent
    database = "the catalogue" if shard is None else f"shard {shard}"
    try:
        applied = await migrate(dsn, "catalogue" if shard is None else "shard", shard=shard)
    except MigrationError as error:
        raise StandaloneError(
            f"Of the databases in {directory}, {database} cannot be migrated: {error} Or remove that directory, to begin "
            "with empty ones."
        ) from error
    if applied:
        say(f"migrated {database}: {len(applied)} files, up to {applied[-1]}")
