"""`memory`: what a job in flight costs a worker, and a waiting call a gateway: 10,000 of each."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from pathlib import Path

from tests.bench import load, requests
from tests.bench.figures import Figure, beside
from tests.bench.stage import Stage, count, say

MANY = 10_000
WORK = timedelta(seconds=40)
RATE = 500.0
"""Calls begun a second."""
_PATIENCE = 120.0


async def run(stage: Stage) -> list[Figure]:
    """Kilobytes each: resident memory with all of them, less resident memory before."""
    with stage.system() as system:
        gateway, address = system.gateway(ROWCALL_MAX_WAITERS=str(MANY + 100))
        worker = system.worker(ROWCALL_SLOTS=str(MANY))
        # What is made once, by the first ones, is not theirs alone.
        await load.apart(requests.echo(address, in_flight=64, calls=2_000))
        before = {"gateway": resident(gateway.process.pid), "worker": resident(worker.process.pid)}
        calling = asyncio.create_task(load.apart(requests.waiting(address, calls=MANY, work=WORK, rate=RATE)))
        until = time.monotonic() + _PATIENCE
        running = 0.0
        while running < MANY and time.monotonic() < until and not calling.done():
            await asyncio.sleep(0.2)
            running = await asyncio.to_thread(system.value, "select count(*) from rowcall.job where state = 3")
        after = {"gateway": resident(gateway.process.pid), "worker": resident(worker.process.pid)}
        count("memory: jobs in flight", MANY, int(running))
        say("all are in flight; waiting until they are done")
        answered = await calling
        count("memory: calls answered with OK", MANY, answered.ok)
    each = {name: (after[name] - before[name]) / MANY / 1024 for name in before}
    settings = {**stage.told, "rounds": "1", "in flight": f"{MANY:,}"}
    return [
        beside("memory of a job in flight", [each["worker"]], "kB", goal="<= 10", settings=settings),
        beside("memory of a waiting call", [each["gateway"]], "kB", goal="<= 25", settings=settings),
    ]


def resident(pid: int) -> int:
    """Bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/{pid}/status has no VmRSS")
