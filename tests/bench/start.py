"""`start`: from the submit to the handler's first line, on an idle system; beside other queues."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import count as counting

from rowcall.probe.v1.probe_pb2 import EchoResponse
from tests.bench.figures import Figure, beside
from tests.bench.first_line import read
from tests.bench.requests import echo
from tests.bench.rivals import installed
from tests.bench.stage import Stage, count, say
from tests.bench.wire import Tally, Wire, template

JOBS = 200
"""Of each round, one after the other."""
WARMING = 10
"""Before those."""


async def run(stage: Stage) -> list[Figure]:
    """Milliseconds: the median, and what one in a hundred takes."""
    peers = await installed()
    medians: dict[str, list[float]] = {}
    tails: dict[str, list[float]] = {}
    done = 0
    with stage.system() as system:
        _, address = system.gateway()
        system.worker(ROWCALL_SERVICERS='["tests.bench.first_line:register"]')
        for name, each in peers.items():
            await each.peer.prepare(system.database(name))

        async def ours() -> list[float]:
            nonlocal done
            found = await starts(address)
            done += WARMING + len(found)
            return found

        async def theirs(name: str) -> list[float]:
            return await peers[name].peer.starts(system.database(name), JOBS)

        measures: dict[str, Callable[[], Awaitable[list[float]]]] = {
            "ours": ours,
            **{name: partial(theirs, name) for name in peers},
        }
        for number in range(stage.rounds):
            for name, measure in measures.items():
                found = sorted(await measure())
                medians.setdefault(name, []).append(found[len(found) // 2])
                tails.setdefault(name, []).append(found[int(len(found) * 0.99)])
                say(
                    f"round {number + 1} of {stage.rounds}: {name}: "
                    f"p50 {medians[name][-1]:.2f} ms, p99 {tails[name][-1]:.2f} ms"
                )
        count("start: jobs done", done, system.finished())
    return [
        beside(
            f"start, {share}",
            values["ours"],
            "ms",
            against=name,
            theirs=values[name],
            goal="< 1" if name in ("graphile-worker", "pgqueuer") else "",
            settings={**stage.told, "jobs": str(JOBS)},
            versions={name: peers[name].version},
        )
        for share, values in (("p50", medians), ("p99", tails))
        for name in peers
    ]


async def starts(address: str) -> list[float]:
    """Milliseconds of each of some calls, one after the other, with a pause between.

    By the load's own connection: a stock client's time is neither the gateway's nor the worker's.
    """
    found = []
    messages: list[bytes] = []
    answered = asyncio.Event()
    load = echo(address, in_flight=1)
    host, _, port = address.rpartition(":")
    headers = template(load.path, load.metadata, address)
    tally = Tally(messages=messages)
    _, wire = await asyncio.get_running_loop().create_connection(
        lambda: Wire(headers, load.body, tally, lambda *_: answered.set()), host, int(port)
    )
    await wire.ready()
    numbers = counting(secrets.randbits(40) << 24)
    # The first ones connect, or meet what is not warm yet: as with the peers.
    for number in range(-WARMING, JOBS):
        await asyncio.sleep(random.uniform(0.005, 0.03))
        answered.clear()
        before = time.monotonic()
        wire.call(next(numbers))
        wire.flush()
        await answered.wait()
        # The answer brings the handler's time along.
        at = read(EchoResponse.FromString(messages.pop()))
        if number >= 0:
            found.append((at - before) * 1000)
    wire.close()
    return found
