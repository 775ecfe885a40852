"""`start`: from the submit to the handler's first line, on an idle system; beside other queues."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from functools import partial

import grpc.aio

from rowcall.probe.v1.probe_pb2 import EchoRequest
from rowcall.probe.v1.probe_pb2_grpc import ProbeServiceStub
from tests.bench.figures import Figure, beside
from tests.bench.first_line import read
from tests.bench.rivals import installed
from tests.bench.stage import TENANT, Stage, count, say

JOBS = 200
"""Of each round, one after the other."""


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
            done += len(found)
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
    """Milliseconds of each of some calls, one after the other, with a pause between."""
    found = []
    async with grpc.aio.insecure_channel(address) as channel:
        stub = ProbeServiceStub(channel)
        for _ in range(JOBS):
            await asyncio.sleep(random.uniform(0.005, 0.03))
            before = time.monotonic()
            # No deadline and no wait of its own: the answer brings the handler's time along.
            response = await stub.Echo(EchoRequest(payload=bytes(200)), metadata=[("rowcall-tenant", TENANT)])
            found.append((read(response) - before) * 1000)
    return found
