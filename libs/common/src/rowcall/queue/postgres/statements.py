"""The queue's SQL, one statement a file in `queue/postgres/sql`, loaded by name. Called by the modules that run it."""

from __future__ import annotations

from functools import cache
from importlib.resources import files


@cache
def statement(name: str) -> bytes:
    """The text of `queue/postgres/sql/{name}.sql`, read once. Bytes, which psycopg takes as a query that was not put together."""
    return files("rowcall.queue.postgres").joinpath("sql", f"{name}.sql").read_bytes().strip()
