"""The release after this one, which there is not: its schema, and its code to run services of. See its README.

What it does otherwise than this one is what a release does that adds a column to the job: a field more of what is
submitted and of how an attempt ended, which is written by functions of its own, where they are there.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rowcall.migrations import Migration, discover
from rowcall.migrations.discovery import VERSIONS
from tests.support.places import ROOT

HERE: Final = ROOT / "tests/integration/migrations/next_release"
PACKAGE: Final = ROOT / "libs/common/src/rowcall"
SUBMITTED: Final = "submitted by the next release"
"""The note of a job that the next release's gateway has submitted."""
SETTLED: Final = "settled by the next release"
"""The same, and its worker has settled it."""

_LAST: Final = 9010
"""The number of its last file."""

_EXECUTE: Final = """
    Raises psycopg.Error.
    \"""
    if connection.prepare_threshold is not None:
"""


def _with_note(name: str, note: str) -> str:
    noted = f'"{name}_2": RowArray([*columns, TextArray(["{note}"] * len(batch))])'
    return f'return {{{noted}, "{name}": RowArray(columns), '


_CHANGES: Final[Sequence[tuple[str, str, str]]] = (
    (
        "queue/postgres/wire/connection.py",
        _EXECUTE,
        _EXECUTE.replace("    if ", "    name = await _way(connection, name)\n    if "),
    ),
    (
        "queue/postgres/wire/connection.py",
        "async def again_on_collision(",
        '''_SECOND = ("submit_jobs", "settle_jobs", "claim_jobs")


async def _way(connection: Connection, name: str) -> str:
    """As this release does it where its schema is there, else as the one before. Asked until it is, on each connection."""
    if name not in _SECOND:
        return name
    known: set[str] = connection.__dict__.setdefault("_known_ways", set())
    second = f"{name}_2"
    if second not in known:
        cursor = await connection.execute(
            "select to_regproc(%s) is not null and has_function_privilege(to_regproc(%s), 'execute')",
            [f"rowcall.{second}", f"rowcall.{second}"],
        )
        row = await cursor.fetchone()
        if row is None or not row[0]:
            return name
        known.add(second)
    return second


async def again_on_collision(''',
    ),
    (
        "queue/postgres/submitting.py",
        'return {"submission": RowArray(columns), ',
        _with_note("submission", SUBMITTED),
    ),
    (
        "queue/postgres/settling.py",
        'return {"settlement": RowArray(columns), ',
        _with_note("settlement", SETTLED),
    ),
)


def lay_over(schema: Path) -> Path:
    """Makes a folder of migrations the next release's: this one's, and what comes behind them. Returns the folder."""
    shutil.copytree(HERE / "shard", schema / "shard", dirs_exist_ok=True)
    versions = schema / "shard" / VERSIONS
    versions.write_text(f"{versions.read_text()}{_LAST}\n")
    return schema


def schema_of(folder: Path) -> list[Migration]:
    """The next release's migrations of a shard, put together in an empty folder."""
    for kind in ("catalogue", "shard"):
        shutil.copytree(PACKAGE / "migrations" / kind, folder / kind)
    return discover("shard", lay_over(folder))


def package_in(folder: Path) -> Path:
    """Writes the next release's common library into an empty folder, which is to be first on PYTHONPATH."""
    package = folder / "rowcall"
    shutil.copytree(PACKAGE, package)
    lay_over(package / "migrations")
    for file in (HERE / "statements").iterdir():
        shutil.copy(file, package / "queue/postgres/sql")
    for name, old, new in _CHANGES:
        path = package / name
        text = path.read_text()
        assert text.count(old) == 1, f"the next release of the tests does not fit {name} any more: {old!r}"
        path.write_text(text.replace(old, new))
    return folder
