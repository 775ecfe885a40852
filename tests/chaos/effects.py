"""What handlers leave in the shards and in the notes of their starts, to be counted: prepared before a run, read after it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import psycopg

from tests.chaos.receipts import Receipt

# No key of any kind: were an effect written twice, there would be two rows.
_CREATE_TABLE: Final = "create table public.effect (call bigint not null, run text not null, lease bigint not null)"
_GRANT: Final = "grant insert on public.effect to rowcall_worker"
INSERT_EFFECT: Final = "insert into public.effect (call, run, lease) values (%s, %s, %s)"
_NOTE_BYTES: Final = 64
_READ: Final = "select call, run, lease from public.effect"


def prepare(dsns: Iterable[str]) -> None:
    """Makes the table in each shard."""
    for dsn in dsns:
        with psycopg.connect(dsn) as connection:
            connection.execute(_CREATE_TABLE)
            connection.execute(_GRANT)


def read(dsns: Iterable[str]) -> list[Receipt]:
    """Every effect that was committed."""
    found: list[Receipt] = []
    for dsn in dsns:
        with psycopg.connect(dsn) as connection:
            found += [Receipt(*row) for row in connection.execute(_READ).fetchall()]
    return found


def note(receipt: Receipt) -> bytes:
    """A start of a handler as it is noted, in one write to the end of a file of such notes.

    Its length divides a page: a write that goes over two pages can be cut between them by a kill -9.
    """
    return receipt.encode().ljust(_NOTE_BYTES - 1) + b"\n"


def starts(folder: Path) -> list[Receipt]:
    """Every start of a handler."""
    return [
        Receipt.decode(line.rstrip()) for file in folder.glob("*.starts") for line in file.read_bytes().splitlines()
    ]
