"""`submit`: calls that are acknowledged with their operation, beside an echo that does nothing at all."""

from __future__ import annotations

from tests.bench import load, requests
from tests.bench.bare import echo_server
from tests.bench.figures import Figure, beside
from tests.bench.stage import Stage, Used, count

IN_FLIGHT = 64


async def run(stage: Stage) -> list[Figure]:
    """Acknowledged calls a second: rows durable, the load's and Postgres's part on the same cores."""
    answered = 0
    told: dict[str, str] = {}
    with stage.system() as system, echo_server() as bare:
        gateway, address = system.gateway()

        async def ours() -> float:
            nonlocal answered, told
            used = Used(gateway=gateway.process.pid)
            found = await load.apart(
                system.asked(requests.submit(address, in_flight=IN_FLIGHT, seconds=stage.seconds, tokens=system.tokens))
            )
            told = used.told()
            answered += found.ok
            count("submit: calls answered with OK", sum(found.statuses.values()), found.ok)
            return found.rate

        async def echo() -> float:
            found = await load.apart(requests.submit(bare, in_flight=IN_FLIGHT, seconds=stage.seconds))
            return found.rate

        await load.apart(requests.submit(address, in_flight=IN_FLIGHT, seconds=1, tokens=system.tokens))
        system.fresh()
        found = await stage.in_turn(ours=ours, echo=echo)
        count("submit: rows", answered, system.waiting())
    return [
        beside(
            f"submit, {IN_FLIGHT} in flight",
            found["ours"],
            "calls/s",
            against="bare grpc.aio echo",
            theirs=found["echo"],
            goal=">= 0.8",
            settings={**stage.told, "in flight": str(IN_FLIGHT), "seconds": f"{stage.seconds:g}", **told},
        )
    ]
