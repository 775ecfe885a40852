"""`tail` (long): half an hour at half of what it can; whether anything grows with time."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from statistics import linear_regression

from tests.bench import load, requests
from tests.bench.figures import Figure, beside
from tests.bench.memory import resident
from tests.bench.stage import Stage, count, median, say

MINUTES = int(os.environ.get("ROWCALL_TAIL_MINUTES", "30"))
IN_FLIGHT = 64
TABLES = "select pg_table_size('rowcall.job') + pg_indexes_size('rowcall.job')"


async def run(stage: Stage) -> list[Figure]:
    """Typed calls in an open loop; each minute its p99, the memory of gateway and worker, the size of the live table."""
    with stage.system() as system:
        gateway, address = system.gateway()
        worker = system.worker()
        peak = (await load.apart(requests.echo(address, in_flight=IN_FLIGHT, seconds=10))).rate
        system.fresh()
        say(f"{MINUTES} minutes at {peak / 2:,.0f} calls/s, half of {peak:,.0f}")
        calls = replace(requests.echo(address, in_flight=2_000, seconds=MINUTES * 60.0), rate=peak / 2, window=60.0)
        loading = asyncio.create_task(load.apart(calls))
        memory: list[float] = []
        table: list[float] = []
        while not loading.done():
            done, _ = await asyncio.wait({loading}, timeout=60)
            if not done:
                memory.append((resident(gateway.process.pid) + resident(worker.process.pid)) / 2**20)
                table.append(await asyncio.to_thread(system.value, TABLES) / 2**20)
                say(f"minute {len(memory)}: {memory[-1]:.0f} MiB resident, live table {table[-1]:.1f} MiB")
        found = await loading
        count("tail: calls answered with OK", sum(found.statuses.values()), found.ok)
        count("tail: jobs done", found.ok, system.finished())
    p99 = [each.p99 for each in found.windows if each.calls]
    settings = {**stage.told, "rounds": "1", "minutes": str(MINUTES), "rate": f"{peak / 2:,.0f}/s"}
    return [
        beside(
            "tail, p99 of the last ten minutes",
            [median(p99[-10:])],
            "ms",
            against="the first minute",
            theirs=[p99[0]],
            goal="<= 1.5",
            settings={**settings, "p99 of each minute": ", ".join(f"{each:.1f}" for each in p99)},
        ),
        *(
            beside(f"tail, slope of {name}", [_slope(values)], unit, settings=settings)
            for name, values, unit in (
                ("p99", p99, "ms/minute"),
                ("memory", memory, "MiB/minute"),
                ("the live table", table, "MiB/minute"),
            )
            if len(values) > 1
        ),
    ]


def _slope(values: list[float]) -> float:
    return linear_regression(range(len(values)), values).slope
