"""`batch`: BatchSubmit of 100 jobs, beside raw inserts of 100 rows over as many connections."""

from __future__ import annotations

from tests.bench import load, requests
from tests.bench.figures import Figure, beside
from tests.bench.limits import insert
from tests.bench.stage import Stage, count

SIZE = 100
IN_FLIGHT = 8
CONNECTIONS = 8
"""Of both: what the gateway's pool for submits is set to."""


async def run(stage: Stage) -> list[Figure]:
    """Jobs a second."""
    answered = 0
    with stage.system() as system:
        _, address = system.gateway(ROWCALL_POOL_SUBMIT=str(CONNECTIONS))

        async def ours() -> float:
            nonlocal answered
            found = await load.apart(requests.batch(address, size=SIZE, in_flight=IN_FLIGHT, seconds=stage.seconds))
            count("batch: calls answered with OK", sum(found.statuses.values()), found.ok)
            answered += found.ok
            return found.rate * SIZE

        async def raw() -> float:
            return await insert(system.dsn, connections=CONNECTIONS, batch=SIZE, seconds=stage.seconds)

        await load.apart(requests.batch(address, size=SIZE, in_flight=IN_FLIGHT, seconds=1))
        system.fresh()
        found = await stage.in_turn(ours=ours, raw=raw)
        count("batch: rows", answered * SIZE, system.waiting())
    return [
        beside(
            f"batch of {SIZE}, {IN_FLIGHT} in flight",
            found["ours"],
            "jobs/s",
            against=f"raw unnest inserts of {SIZE}, {CONNECTIONS} connections",
            theirs=found["raw"],
            goal=">= 0.5",
            settings={**stage.told, "in flight": str(IN_FLIGHT), "connections": str(CONNECTIONS)},
        )
    ]
