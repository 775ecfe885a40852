"""`call`: typed calls, answered with their response: alone, beside what cannot be avoided; and many, beside an echo."""

from __future__ import annotations

from tests.bench import load, requests
from tests.bench.bare import echo_server
from tests.bench.figures import Figure, beside
from tests.bench.limits import commit, wakeup
from tests.bench.stage import Stage, Used, count, median, say

IN_FLIGHT = 64


async def run(stage: Stage) -> list[Figure]:
    """Milliseconds of a lone call; calls a second of many."""
    answered = 0
    told: dict[str, str] = {}
    parts: dict[str, list[float]] = {"echo": [], "commit": [], "wake-up": []}
    with stage.system() as system, echo_server() as bare:
        gateway, address = system.gateway()
        worker = system.worker()

        async def called(where: str, in_flight: int) -> load.Answered:
            nonlocal answered
            # The echo knows nobody.
            tokens = system.tokens if where == address else None
            calls = requests.echo(where, in_flight=in_flight, seconds=stage.seconds, tokens=tokens)
            found = await load.apart(system.asked(calls) if where == address else calls)
            count("call: calls answered with OK", sum(found.statuses.values()), found.ok)
            answered += found.ok if where == address else 0
            return found

        async def alone() -> float:
            return (await called(address, 1)).times.p50

        async def unavoidable() -> float:
            parts["echo"].append((await called(bare, 1)).times.p50)
            parts["commit"].append(await commit(system.dsn))
            parts["wake-up"].append(await wakeup(system.dsn))
            return parts["echo"][-1] + 2 * parts["commit"][-1] + 2 * parts["wake-up"][-1]

        async def many() -> float:
            nonlocal told
            used = Used(gateway=gateway.process.pid, worker=worker.process.pid)
            found = await called(address, IN_FLIGHT)
            told = used.told()
            return found.rate

        async def echoes() -> float:
            return (await called(bare, IN_FLIGHT)).rate

        await load.apart(requests.echo(address, in_flight=IN_FLIGHT, seconds=1, tokens=system.tokens))
        system.fresh()
        lone = await stage.in_turn(alone=alone, unavoidable=unavoidable)
        say("unavoidable: " + ", ".join(f"{name} {median(values):.2f} ms" for name, values in parts.items()))
        crowd = await stage.in_turn(many=many, echoes=echoes)
        count("call: jobs done", answered, system.finished())
        count("call: jobs left", 0, system.waiting())
    return [
        beside(
            "call, 1 in flight, p50",
            lone["alone"],
            "ms",
            against="echo + 2 commits + 2 wake-ups",
            theirs=lone["unavoidable"],
            goal="<= 1.5",
            settings={**stage.told, **{name: f"{median(values):.2f} ms" for name, values in parts.items()}},
        ),
        beside(
            f"call, {IN_FLIGHT} in flight",
            crowd["many"],
            "calls/s",
            against="bare grpc.aio echo",
            theirs=crowd["echoes"],
            goal=">= 0.45",
            settings={**stage.told, "in flight": str(IN_FLIGHT), **told},
        ),
    ]
