"""`held` (long): a minute at full rate beside a held snapshot by what it is without, the whole system beside other queues.

`snapshot` is the same of our store alone. What is compared is the part of its own rate that each keeps: in that way a
gateway on the way, or a job that costs more, is on neither side.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from tests.bench import load, requests
from tests.bench.backlog import BATCH, until_done
from tests.bench.figures import Figure, beside
from tests.bench.rivals import Installed, installed
from tests.bench.stage import Stage, System, count, say
from tests.proofs.engine import held_snapshot

SECONDS = 60.0
IN_FLIGHT = 8
ANY_ROW = "select count(*) from pg_class"
"""What the snapshot is of: it holds back the whole database, whatever it has read."""
_ELAPSED = "select extract(epoch from max(finished_at) - min(created_at)) from rowcall.job_history where state = 11"

Beside = Callable[[str], AbstractContextManager[None]]


async def run(stage: Stage) -> list[Figure]:
    """The part of its rate that each keeps, and ours in jobs a second."""
    peers = await installed()
    rates: dict[str, list[tuple[float, float]]] = {}
    with stage.system() as system:
        _, address = system.gateway()

        async def ours(beside: Beside) -> float:
            return await stream(system, address, SECONDS, beside)

        def theirs(each: Installed) -> Callable[[Beside], Awaitable[float]]:
            async def measure(beside: Beside) -> float:
                dsn = await each.empty(system)
                with beside(dsn):
                    return await each.peer.stream(dsn, SECONDS)

            return measure

        measures = {"ours": ours, **{name: theirs(each) for name, each in peers.items()}}
        for number in range(stage.rounds):
            for name, measure in measures.items():
                held, free = await measure(holding), await measure(lambda _: nullcontext())
                rates.setdefault(name, []).append((held, free))
                say(f"round {number + 1} of {stage.rounds}: {name}: {held:,.4g} held, {free:,.4g} without")
    settings = {**stage.told, "seconds": f"{SECONDS:g}"}
    kept = {name: [held / free for held, free in found] for name, found in rates.items()}
    return [
        beside(
            "snapshot held, whole system",
            [held for held, _ in rates["ours"]],
            "jobs/s",
            against="none",
            theirs=[free for _, free in rates["ours"]],
            goal=">= 0.9",
            settings=settings,
        ),
        *(
            beside(
                "snapshot held, part of its own rate",
                kept["ours"],
                "",
                against=name,
                theirs=kept[name],
                settings={
                    **settings,
                    "their rates": "; ".join(f"{held:,.0f} held, {free:,.0f} without" for held, free in rates[name]),
                },
                versions={name: peers[name].version},
            )
            for name in peers
        ),
    ]


@contextmanager
def holding(dsn: str) -> Iterator[None]:
    """A snapshot of that database, held while the block runs."""
    with held_snapshot(dsn, ANY_ROW):
        yield


async def stream(system: System, address: str, seconds: float, beside: Beside) -> float:
    """Submits as fast as the gateway takes jobs, beside one worker; jobs a second, until all are done. Raises NotCounted."""
    await asyncio.to_thread(system.fresh)
    worker = await asyncio.to_thread(system.worker)
    with beside(system.dsn):
        found = await load.apart(
            requests.batch(address, size=BATCH, in_flight=IN_FLIGHT, seconds=seconds, method="Echo")
        )
        count("held: calls answered with OK", sum(found.statuses.values()), found.ok)
        # A look walks the dead entries that the snapshot keeps: seldom, and the end is told by the database's clock.
        await until_done(system, every=2)
    elapsed = await asyncio.to_thread(system.value, _ELAPSED)
    await asyncio.to_thread(worker.end)
    count("held: jobs done", found.ok * BATCH, await asyncio.to_thread(system.finished))
    return found.ok * BATCH / elapsed
