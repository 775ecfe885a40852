"""`processes`: two gateway processes and two worker processes, beside one; and what then has no more to give."""

from __future__ import annotations

from tests.bench import load, requests
from tests.bench.backlog import drained, fill
from tests.bench.figures import Figure, beside
from tests.bench.stage import Stage, Used, count

IN_FLIGHT = 64
JOBS = 100_000


async def run(stage: Stage) -> list[Figure]:
    """Calls and jobs a second, of two by one."""
    submits: list[Figure] = []
    with stage.system() as system:
        one, address_of_one = system.gateway()
        two, address_of_two = system.gateway("--processes", "2")
        postgres = system.postmaster()
        rows = 0
        used: dict[str, dict[str, str]] = {}

        async def submitted(name: str, pid: int, address: str) -> float:
            nonlocal rows
            looked = Used(gateway=pid, postgres=postgres)
            found = await load.apart(requests.submit(address, in_flight=IN_FLIGHT, seconds=stage.seconds))
            used[name] = {**looked.told(), "load": f"{found.cpu_us * found.rate / 1e6:.2f} of a core"}
            rows += found.ok
            return found.rate

        async def by_one() -> float:
            return await submitted("one", one.process.pid, address_of_one)

        async def by_two() -> float:
            return await submitted("two", two.process.pid, address_of_two)

        found = await stage.in_turn(two=by_two, one=by_one)
        count("processes: rows", rows, system.waiting())
        submits.append(
            beside(
                "processes: submit, gateway x 2",
                found["two"],
                "calls/s",
                against="gateway x 1",
                theirs=found["one"],
                settings={**stage.told, **{f"{k}, x 2": v for k, v in used["two"].items()}},
            )
        )

        async def drained_by(workers: int) -> float:
            await fill(system, address_of_one, JOBS)
            return JOBS / await drained(system, JOBS, ROWCALL_PROCESSES=str(workers))

        async def worker_one() -> float:
            return await drained_by(1)

        async def worker_two() -> float:
            return await drained_by(2)

        drains = await stage.in_turn(two=worker_two, one=worker_one)
    return [
        *submits,
        beside(
            "processes: drain, worker x 2",
            drains["two"],
            "jobs/s",
            against="worker x 1",
            theirs=drains["one"],
            settings={**stage.told, "jobs": f"{JOBS:,}"},
        ),
    ]
