"""Raw limits: what psycopg and Postgres can do at all, on a reference schema that is not ours. Used by the benchmarks.

Each is measured by a process of its own (`python -m tests.bench.limits NAME`), as services are processes of their own.
"""

from __future__ import annotations

import asyncio
import json
import sys


async def insert(dsn: str, *, connections: int, batch: int, seconds: float) -> float:
    """Rows a second of raw inserts from unnest, in so many rows each, over so many connections."""
    return await _measure("insert", dsn, connections=connections, batch=batch, seconds=seconds)


async def drain(dsn: str, *, count: int, connections: int) -> float:
    """Rows a second of raw claims and settles until so many rows that wait are all in the history."""
    return await _measure("drain", dsn, count=count, connections=connections)


async def commit(dsn: str) -> float:
    """Milliseconds: the median of inserts of one row, alone, each with its commit."""
    return await _measure("commit", dsn)


async def wakeup(dsn: str) -> float:
    """Milliseconds: the median from the return of a NOTIFY until another process has it, and is awake."""
    return await _measure("wakeup", dsn)


async def _measure(name: str, dsn: str, **options: float) -> float:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.bench.limits",
        name,
        f"--dsn={dsn}",
        *(f"--{option}={value}" for option, value in options.items()),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"the limit {name} ended with {process.returncode}: {errors.decode()[-2000:]}")
    found: float = json.loads(out)["value"]
    return found
