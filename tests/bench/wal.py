"""`wal`: bytes of Postgres's log that a job costs over its whole life, beside other queues."""

from __future__ import annotations

import asyncio

from tests.bench import load, requests
from tests.bench.backlog import drained, fill
from tests.bench.figures import Figure, beside
from tests.bench.rivals import installed
from tests.bench.stage import Stage, System, count, say

JOBS = 20_000
FEWER = {"procrastinate": 2_000}
BATCHED, LONE = "submitted by 100", "submitted by single calls"


async def run(stage: Stage) -> list[Figure]:
    """Bytes a job: request of 200 bytes, response of 100; keys and finished rows are kept."""
    peers = await installed()
    ours: dict[str, float] = {}
    theirs: dict[str, float] = {}
    with stage.system() as system:
        _, address = system.gateway()
        before = await _position(system)
        await fill(system, address, JOBS, method="Run")
        ours[BATCHED] = await _since(system, before, JOBS)
        await drained(system, JOBS)
        ours[BATCHED] = await _since(system, before, JOBS)
        system.fresh()
        before = await _position(system)
        found = await load.apart(requests.submit(address, in_flight=64, calls=JOBS))
        count("wal: calls answered with OK", JOBS, found.ok)
        await drained(system, JOBS)
        ours[LONE] = await _since(system, before, JOBS)
        for name, each in peers.items():
            jobs = FEWER.get(name, JOBS)
            dsn = await each.empty(system)
            before = await _position(system)
            await each.filled(dsn, jobs)
            await each.peer.drain(dsn, jobs)
            theirs[name] = await _since(system, before, jobs)
            say(f"{name}: {theirs[name]:,.0f} bytes a job")
    settings = {**stage.told, "rounds": "1", "jobs": f"{JOBS:,}"}
    return [
        *(beside(f"wal, {how}", [value], "bytes/job", settings=settings) for how, value in ours.items()),
        *(
            beside(
                f"wal, {BATCHED}",
                [ours[BATCHED]],
                "bytes/job",
                against=name,
                theirs=[value],
                settings={**settings, "their jobs": f"{FEWER.get(name, JOBS):,}"},
                versions={name: peers[name].version},
            )
            for name, value in theirs.items()
        ),
    ]


async def _position(system: System) -> float:
    # From a checkpoint on, every page is written whole once: each begins with that behind it or before it alike.
    await asyncio.to_thread(system.do, "checkpoint")
    return await asyncio.to_thread(system.value, "select pg_current_wal_insert_lsn() - '0/0'::pg_lsn")


async def _since(system: System, before: float, jobs: int) -> float:
    now = await asyncio.to_thread(system.value, "select pg_current_wal_insert_lsn() - '0/0'::pg_lsn")
    return (now - before) / jobs
