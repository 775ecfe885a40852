"""`start`: from the submit to the handler's first line, on an idle system, by both ways; beside other queues."""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from itertools import count as counting
from pathlib import Path

from rowcall.probe.v1.probe_pb2 import EchoResponse
from tests.bench.by_sql import WARMING
from tests.bench.figures import Figure, beside
from tests.bench.first_line import SOCKET, read
from tests.bench.requests import echo
from tests.bench.rivals import installed
from tests.bench.stage import Stage, System, count, say
from tests.bench.wire import Tally, Wire, template
from tests.support.places import ROOT

JOBS = 200
"""Of each round, one after the other; before those, some to warm up."""
WAYS = {"by SQL": "start by SQL", "by SQL with a key": "start by SQL with a key", "by gateway": "start"}
"""Ours: a client that writes the row itself, as that of every other queue does, without an idempotency key as theirs
and with one; and a call."""
GOALS = {"p50": "< 1", "p99": "<= 1.2"}
"""By SQL beside each of the others, in five of seven rounds."""


async def run(stage: Stage) -> list[Figure]:
    """Milliseconds: the median, and what one in a hundred takes."""
    peers = await installed()
    found: dict[str, dict[str, list[float]]] = {"p50": {}, "p99": {}}
    done = 0
    with stage.system() as system, tempfile.TemporaryDirectory() as folder:
        socket = str(Path(folder) / "first-line")
        _, address = system.gateway()
        system.worker(ROWCALL_SERVICERS='["tests.bench.first_line:register"]', **{SOCKET: socket})
        for name, each in peers.items():
            await each.peer.prepare(system.database(name))

        async def theirs(name: str) -> list[float]:
            return await peers[name].peer.starts(system.database(name), JOBS)

        measures: dict[str, Callable[[], Awaitable[list[float]]]] = {
            "by gateway": partial(starts, address),
            "by SQL": partial(starts_by_sql, system, socket),
            "by SQL with a key": partial(starts_by_sql, system, socket, "key"),
            **{name: partial(theirs, name) for name in peers},
        }
        for number in range(stage.rounds):
            for name, measure in measures.items():
                times = sorted(await measure())
                done += WARMING + len(times) if name in WAYS else 0
                found["p50"].setdefault(name, []).append(times[len(times) // 2])
                found["p99"].setdefault(name, []).append(times[int(len(times) * 0.99)])
                say(
                    f"round {number + 1} of {stage.rounds}: {name}: "
                    f"p50 {found['p50'][name][-1]:.2f} ms, p99 {found['p99'][name][-1]:.2f} ms"
                )
        count("start: jobs done", done, system.finished())
    return [
        _figure(stage, way, share, values, name, version=peers[name].version)
        for way in WAYS
        for share, values in found.items()
        for name in peers
    ]


def _figure(stage: Stage, way: str, share: str, values: dict[str, list[float]], name: str, *, version: str) -> Figure:
    """One way of ours beside one of the others: in how many rounds the goal was reached is told with it."""
    figure = beside(
        f"{WAYS[way]}, {share}",
        values[way],
        "ms",
        against=name,
        theirs=values[name],
        goal=GOALS[share] if way == "by SQL" else "",
        settings={**stage.told, "jobs": str(JOBS)},
        versions={name: version},
    )
    if not figure.goal:
        return figure
    held = sum(
        bool(replace(figure, ratio=ours / theirs).reached)
        for ours, theirs in zip(values[way], values[name], strict=True)
    )
    return replace(figure, goal=f"{figure.goal} ({held} of {stage.rounds} rounds)")


async def starts_by_sql(system: System, socket: str, *key: str) -> list[float]:
    """Milliseconds of each of some jobs that a client submits in SQL, in a process of its own as other queues' are."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.bench.by_sql",
        system.dsn,
        socket,
        str(JOBS),
        *key,
        cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"by SQL: ended with {process.returncode}: {errors.decode()[-2000:]}")
    found: list[float] = json.loads(out)["milliseconds"]
    return found


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
        at = read(EchoResponse.FromString(messages.pop()).payload)
        if number >= 0:
            found.append((at - before) * 1000)
    wire.close()
    return found
