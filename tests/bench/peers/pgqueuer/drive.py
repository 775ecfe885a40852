"""Drives pgqueuer for the benchmarks: drive.py prepare|fill|drain|starts|stream DSN [COUNT or SECONDS]. Prints a JSON line.

Its asyncpg driver, which its documentation calls the fastest, under uvloop, durable tables and its own autovacuum settings.
To drain: two managers in the process, with batches of 200, the best of several; to start: one with its default batch. In bulk: enqueue
with lists, one statement for each 1,000.
Runs in an environment of its own.
"""

import asyncio
import json
import random
import sys
import time

import asyncpg
import uvloop
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.qm import QueueManager
from pgqueuer.queries import Queries
from pgqueuer.types import QueueExecutionMode

PAYLOAD = b"x" * 200
MANAGERS, BATCH = 2, 200
BULK = 1_000
PRODUCERS = 8
"""In bulk, as many as ours."""
BACKLOG = 5_000


def tell(what: object) -> None:
    print(json.dumps(what), flush=True)


async def queries(dsn: str) -> Queries:
    return Queries(AsyncpgDriver(await asyncpg.connect(dsn)))


async def prepare(dsn: str, count: int) -> None:
    found = await queries(dsn)
    if not await found.has_table("pgqueuer"):
        await found.install()
        await found.optimize_autovacuum()
    tell({})


async def enqueue(to: Queries, many: int) -> None:
    await to.enqueue(["noop"] * many, [PAYLOAD] * many, [0] * many)


async def fill(dsn: str, count: int) -> None:
    look = await asyncpg.connect(dsn)
    to = [await queries(dsn) for _ in range(PRODUCERS)]
    begins = iter(range(0, count, BULK))

    async def produce(each: Queries) -> None:
        for begin in begins:
            await enqueue(each, min(BULK, count - begin))

    before = await rows(look)
    began = time.perf_counter()
    await asyncio.gather(*(produce(each) for each in to))
    seconds = time.perf_counter() - began
    tell({"seconds": seconds, "rows": await rows(look) - before})


async def rows(look: asyncpg.Connection) -> int:
    return await look.fetchval("select count(*) from pgqueuer")


async def drain(dsn: str, count: int) -> None:
    look = await asyncpg.connect(dsn)
    done, began = 0, 0.0
    managers = []
    for _ in range(MANAGERS):
        manager = QueueManager(await queries(dsn))

        @manager.entrypoint("noop")
        async def noop(job: Job) -> None:
            nonlocal done, began
            began = began or time.perf_counter()
            done += 1

        managers.append(manager)
    # Ends when the queue is empty, its log of finished jobs written.
    await asyncio.gather(*(each.run(batch_size=BATCH, mode=QueueExecutionMode.drain) for each in managers))
    seconds = time.perf_counter() - began
    left = await rows(look)
    if done != count or left:
        raise RuntimeError(f"{done} of {count} jobs were run, {left} rows are left")
    tell({"seconds": seconds})


async def stream(dsn: str, seconds: int) -> None:
    look, to = await asyncpg.connect(dsn), await queries(dsn)
    done = enqueued = 0
    managers = []
    for _ in range(MANAGERS):
        manager = QueueManager(await queries(dsn))

        @manager.entrypoint("noop")
        async def noop(job: Job) -> None:
            nonlocal done
            done += 1

        managers.append(manager)
    working = [asyncio.create_task(each.run(batch_size=BATCH)) for each in managers]
    began = time.perf_counter()
    while time.perf_counter() < began + seconds:
        if enqueued - done >= BACKLOG:
            await asyncio.sleep(0.001)
            continue
        await enqueue(to, BULK)
        enqueued += BULK
    while done < enqueued:
        await asyncio.sleep(0.005)
    while (left := await rows(look)) > 0:
        await asyncio.sleep(0.005)
    took = time.perf_counter() - began
    for each in managers:
        each.shutdown.set()
    await asyncio.gather(*working)
    tell({"seconds": took, "enqueued": enqueued, "done": done, "left": left})


async def work(dsn: str, count: int) -> None:
    manager = QueueManager(await queries(dsn))

    @manager.entrypoint("noop")
    async def noop(job: Job) -> None:
        tell({"at": time.monotonic()})

    tell({"ready": True})
    await manager.run(batch_size=10)


async def starts(dsn: str, count: int) -> None:
    found = await queries(dsn)
    # What the round before had in hand when its worker was killed would be answered for what is enqueued now.
    await found.clear_queue()
    worker = await asyncio.create_subprocess_exec(sys.executable, __file__, "work", dsn, stdout=asyncio.subprocess.PIPE)
    assert worker.stdout is not None
    await worker.stdout.readline()
    await asyncio.sleep(1)
    milliseconds = []
    for number in range(-10, count):
        await asyncio.sleep(random.uniform(0.005, 0.03))
        before = time.monotonic()
        await found.enqueue("noop", PAYLOAD)
        at = json.loads(await worker.stdout.readline())["at"]
        if number >= 0:
            milliseconds.append((at - before) * 1000)
    worker.kill()
    tell({"milliseconds": milliseconds})


if __name__ == "__main__":
    action, dsn, *rest = sys.argv[1:]
    actions = {"prepare": prepare, "fill": fill, "drain": drain, "stream": stream, "work": work, "starts": starts}
    uvloop.run(actions[action](dsn, int(rest[0]) if rest else 0))
