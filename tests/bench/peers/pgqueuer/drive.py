"""Drives pgqueuer for the benchmarks: drive.py prepare|fill|drain|starts DSN [COUNT]. Prints a JSON line.

Its asyncpg driver, which its documentation calls the fastest, under uvloop, durable tables and its own autovacuum settings.
To drain: two managers in the process, with batches of 200, the best of several; to start: one with its default batch.
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


async def fill(dsn: str, count: int) -> None:
    found = await queries(dsn)
    for begin in range(0, count, 1000):
        many = min(1000, count - begin)
        await found.enqueue(["noop"] * many, [PAYLOAD] * many, [0] * many)
    tell({})


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
    left = await look.fetchval("select count(*) from pgqueuer")
    if done != count or left:
        raise RuntimeError(f"{done} of {count} jobs were run, {left} rows are left")
    tell({"seconds": seconds})


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
    actions = {"prepare": prepare, "fill": fill, "drain": drain, "work": work, "starts": starts}
    uvloop.run(actions[action](dsn, int(rest[0]) if rest else 0))
