"""The tables in docs/architecture.md, "The rows", are those of a shard: every table, every column of a job, and no function that is gone."""

from __future__ import annotations

import re
from pathlib import Path

from tests.fix_queue import PostgresQueue

PAGE = Path(__file__).resolve().parents[4] / "docs" / "architecture.md"

_COLUMNS = """
select attname
from pg_attribute
where attrelid = %s::regclass and attnum > 0 and not attisdropped
"""
# Days of history are made and dropped; the classes above them are named.
_TABLES = """
select c.relname
from pg_class c
where c.relnamespace = 'rowcall'::regnamespace and c.relkind in ('r', 'p') and c.relname !~ '_[0-9]{8}$'
"""
_NAMES = """
select proname from pg_proc where pronamespace = 'rowcall'::regnamespace
union all
select relname from pg_class where relnamespace = 'rowcall'::regnamespace
union all
select a.attname
from pg_attribute a
join pg_class c on c.oid = a.attrelid
where c.relnamespace = 'rowcall'::regnamespace
"""


def rows(heading: str) -> list[tuple[str, str]]:
    """The rows of the table under a heading: the first cell, and the others."""
    text = PAGE.read_text("utf-8")
    [part] = re.findall(rf"^### {re.escape(heading)}.*?\n(.*?)(?=^##)", text, re.MULTILINE | re.DOTALL)
    lines = [line.strip("| ") for line in part.splitlines() if line.startswith("|")]
    found = [line.split(" | ", 1) for line in lines[2:]]
    assert found, f"no table under {heading!r}"
    return [(first, rest) for first, rest in found]


def named(cell: str) -> list[str]:
    """The names in backticks."""
    return re.findall(r"`([a-z][a-z0-9_]*)(?:\(\))?`", cell)


async def names(queue: PostgresQueue, query: str, *parameters: object) -> list[str]:
    cursor = await queue.admin.execute(query.encode(), parameters)
    return [row[0] for row in await cursor.fetchall()]


async def test_every_column_of_a_job_is_told_of(queue: PostgresQueue) -> None:
    told = [(name, first) for first, _ in rows("A job: `job` while it lives") for name in named(first)]
    live = [name for name, first in told if not first.endswith("(history)")]
    kept = [name for name, first in told if not first.endswith("(live)")]
    assert sorted(live) == sorted(await names(queue, _COLUMNS, "rowcall.job"))
    assert sorted(kept) == sorted(await names(queue, _COLUMNS, "rowcall.job_history"))


async def test_every_table_is_told_of(queue: PostgresQueue) -> None:
    told = [name for first, _ in rows("The other tables") for name in named(first)]
    assert sorted([*told, "job", "job_history"]) == sorted(await names(queue, _TABLES))


async def test_what_is_said_to_write_and_read_them_is_there(queue: PostgresQueue) -> None:
    known = set(await names(queue, _NAMES))
    for heading in ("A job: `job` while it lives", "The other tables"):
        for first, rest in rows(heading):
            missing = [name for name in named(rest) if name not in known]
            assert not missing, f"{first}: {', '.join(missing)}"
