"""The SQL of routing, one statement a file in `sharding/sql`, loaded by name. Called by the modules that run it."""

from __future__ import annotations

from functools import cache
from importlib.resources import files


@cache
def statement(name: str) -> bytes:
    """The text of `sharding/sql/{name}.sql`, read once."""
    return files("rowcall.sharding").joinpath("sql", f"{name}.sql").read_bytes().strip()
