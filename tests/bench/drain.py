"""`drain`: 100,000 jobs wait, and one worker process does them; beside raw claims and settles, and beside other queues."""

from __future__ import annotations

from functools import partial

from tests.bench.backlog import drained, fill
from tests.bench.figures import Figure, beside
from tests.bench.limits import drain as raw_drain
from tests.bench.rivals import installed
from tests.bench.stage import Measure, Stage

JOBS = 100_000
CONNECTIONS = 4
"""Of the raw limit: as many as a worker has for claims and settles."""
GOALS = {"graphile-worker": ">= 1.5", "pgqueuer": ">= 3"}
FEWER = {"procrastinate": 2_000}
"""Peers that get fewer jobs: all of them would take minutes."""


async def run(stage: Stage) -> list[Figure]:
    """Jobs a second, from the first claim to the last settle."""
    peers = await installed()
    with stage.system() as system:
        _, address = system.gateway()

        async def ours() -> float:
            await fill(system, address, JOBS)
            return JOBS / await drained(system, JOBS)

        async def raw() -> float:
            return await raw_drain(system.dsn, count=JOBS, connections=CONNECTIONS)

        async def theirs(name: str) -> float:
            each, jobs = peers[name], FEWER.get(name, JOBS)
            dsn = await each.empty(system)
            await each.filled(dsn, jobs)
            return jobs / await each.peer.drain(dsn, jobs)

        measures: dict[str, Measure] = {"ours": ours, "raw": raw, **{name: partial(theirs, name) for name in peers}}
        found = await stage.in_turn(**measures)
    settings = {**stage.told, "jobs": f"{JOBS:,}"}
    raw_name = f"raw claim and settle, {CONNECTIONS} connections"
    return [
        beside(
            "drain", found["ours"], "jobs/s", against=raw_name, theirs=found["raw"], goal=">= 0.7", settings=settings
        ),
        *(
            beside(
                "drain",
                found["ours"],
                "jobs/s",
                against=name,
                theirs=found[name],
                goal=GOALS.get(name, ""),
                settings={**settings, "their jobs": f"{FEWER.get(name, JOBS):,}"},
                versions={name: peers[name].version},
            )
            for name in peers
        ),
    ]
