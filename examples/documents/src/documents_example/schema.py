"""The index's tables: made by the index when it first connects, or ahead by `python -m documents_example.schema`."""

import asyncio
import sys
from importlib.resources import files

import psycopg

from documents_example.settings import Settings, SettingsError


async def ensure(connection: psycopg.AsyncConnection) -> None:
    """Makes what is not there, in one transaction; many may do so at once.

    Raises:
        psycopg.Error: the role may not, or the connection broke.
    """
    async with connection.transaction():
        await connection.execute(files("documents_example").joinpath("sql", "schema.sql").read_bytes())


async def _ensure_at(dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        await ensure(connection)


def main() -> int:
    """Makes the tables in the database that DOCUMENTS_DSN names; returns the exit status."""
    try:
        asyncio.run(_ensure_at(Settings.from_environment().dsn))
    except (SettingsError, psycopg.Error) as error:
        sys.stderr.write(f"documents_example.schema: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
