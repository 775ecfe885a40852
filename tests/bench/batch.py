"""`batch`: BatchSubmit of 100 jobs, beside raw inserts of 100 rows over as many connections, and beside other queues in bulk."""

from __future__ import annotations

from functools import partial

from tests.bench import load, requests
from tests.bench.figures import Figure, beside
from tests.bench.limits import insert
from tests.bench.rivals import installed
from tests.bench.stage import Measure, Stage, count

SIZE = 100
IN_FLIGHT = 8
CONNECTIONS = 8
"""Of both: what the gateway's pool for submits is set to."""
JOBS = 100_000
"""Of other queues, each round into a new database."""
FEWER = {"procrastinate": 20_000}


async def run(stage: Stage) -> list[Figure]:
    """Jobs a second."""
    peers = await installed()
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

        async def theirs(name: str) -> float:
            each = peers[name]
            return await each.filled(await each.empty(system), FEWER.get(name, JOBS))

        await load.apart(requests.batch(address, size=SIZE, in_flight=IN_FLIGHT, seconds=1))
        system.fresh()
        measures: dict[str, Measure] = {"ours": ours, "raw": raw, **{name: partial(theirs, name) for name in peers}}
        found = await stage.in_turn(**measures)
        count("batch: rows", answered * SIZE, system.waiting())
    settings = {**stage.told, "in flight": str(IN_FLIGHT), "connections": str(CONNECTIONS)}
    return [
        beside(
            f"batch of {SIZE}, {IN_FLIGHT} in flight",
            found["ours"],
            "jobs/s",
            against=f"raw unnest inserts of {SIZE}, {CONNECTIONS} connections",
            theirs=found["raw"],
            goal=">= 0.5",
            settings=settings,
        ),
        *(
            beside(
                f"batch of {SIZE}, {IN_FLIGHT} in flight",
                found["ours"],
                "jobs/s",
                against=f"{name}, in bulk",
                theirs=found[name],
                settings={**settings, "their jobs": f"{FEWER.get(name, JOBS):,}"},
                versions={name: peers[name].version},
            )
            for name in peers
        ),
    ]
