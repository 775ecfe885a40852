"""Drives awa for the benchmarks: drive.py prepare|fill|drain|starts|stream DSN [COUNT or SECONDS]. Prints a JSON line.

By its documentation (github.com/hardbyte/awa, docs/configuration.md and docs/benchmarking.md): schema by `awa migrate`; in bulk
`enqueue_many_copy`, its direct COPY, by 1,000; for no-op jobs at a high rate 1,024 workers on one queue, with which four flush
completions, and the default claim of 512; no deadline, which skips that rescue path. Sharded heads, partitioned queues and
stripes are for many producers or processes; for one worker process none was quicker when tried. Its core is Rust, the handler
Python, under uvloop. Runs in an environment of its own.
"""

import asyncio
import json
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import uvloop
from awa import AsyncClient

WORKERS, BULK = 1_024, 1_000
PRODUCERS = 8
"""In bulk, as many as ours."""
BACKLOG = 5_000
QUEUE = {"name": "noop", "max_workers": WORKERS, "deadline_duration_ms": 0}

# Its view awa.jobs takes minutes over some ten thousand jobs. These are the rows that the view is made of.
ENQUEUED = "select count(*) as found from awa.ready_entries"
DONE = """
select (select coalesce(sum(completed_count), 0) from awa.receipt_completion_batches)::bigint
  + (select count(*) from awa.done_entries where state = 'completed')
  + (select coalesce(sum(pruned_completed_count), 0) from awa.queue_terminal_rollups)::bigint as found
"""


@dataclass
class Noop:
    payload: str


JOB = Noop("x" * 186)  # 200 bytes as JSON


def tell(what: object) -> None:
    print(json.dumps(what), flush=True)


def client(dsn: str) -> AsyncClient:
    # docs/benchmarking.md: at least 4 connections a queue, and 20.
    return AsyncClient(dsn, max_connections=24)


async def value(of: AsyncClient, query: str) -> int:
    transaction = await of.transaction()
    found = (await transaction.fetch_one(query))["found"]
    await transaction.rollback()
    return int(found)


async def prepare(dsn: str, count: int) -> None:
    command = Path(sys.executable).with_name("awa")
    migrating = await asyncio.create_subprocess_exec(
        command, "--database-url", dsn, "migrate", stdout=asyncio.subprocess.DEVNULL
    )
    if await migrating.wait():
        raise RuntimeError("awa migrate failed")
    made = client(dsn)
    # Its first worker would do this: from then on rows go where workers look.
    transaction = await made.transaction()
    await transaction.fetch_one("select awa.storage_auto_finalize_if_fresh('awa')::text as found")
    await transaction.commit()
    await made.close()
    tell({})


async def enqueue(to: AsyncClient, many: int) -> None:
    enqueued = await to.enqueue_many_copy([JOB] * many, queue="noop")
    if enqueued != many:
        raise RuntimeError(f"{enqueued} of {many} jobs were enqueued")


async def fill(dsn: str, count: int) -> None:
    made = client(dsn)
    begins = iter(range(0, count, BULK))

    async def produce() -> None:
        for begin in begins:
            await enqueue(made, min(BULK, count - begin))

    before = await value(made, ENQUEUED)
    began = time.perf_counter()
    await asyncio.gather(*(produce() for _ in range(PRODUCERS)))
    seconds = time.perf_counter() - began
    rows = await value(made, ENQUEUED) - before
    await made.close()
    tell({"seconds": seconds, "rows": rows})


class Doing:
    """A worker in this process, and what it has done."""

    def __init__(self, dsn: str) -> None:
        self.client = client(dsn)
        self.done, self.began = 0, 0.0

    async def start(self) -> None:
        @self.client.task(Noop, queue="noop")
        async def noop(job: object) -> None:
            self.began = self.began or time.perf_counter()
            self.done += 1

        self.before = await value(self.client, DONE)
        await self.client.start([QUEUE])

    async def rows(self) -> int:
        """How many more rows say that they are done."""
        return await value(self.client, DONE) - self.before

    async def until(self, count: int) -> float:
        """When all are done and their rows say so."""
        while self.done < count:
            await asyncio.sleep(0.005)
        while await self.rows() < count:
            await asyncio.sleep(0.002)
        return time.perf_counter()

    async def stop(self) -> None:
        await self.client.shutdown(timeout_ms=5000)
        await self.client.close()


async def drain(dsn: str, count: int) -> None:
    worker = Doing(dsn)
    await worker.start()
    seconds = await worker.until(count) - worker.began
    rows = await worker.rows()
    await worker.stop()
    if worker.done != count or rows != count:
        raise RuntimeError(f"{worker.done} of {count} jobs were run, {rows} rows say so")
    tell({"seconds": seconds})


async def stream(dsn: str, seconds: int) -> None:
    worker = Doing(dsn)
    await worker.start()
    began, enqueued = time.perf_counter(), 0
    while time.perf_counter() < began + seconds:
        if enqueued - worker.done >= BACKLOG:
            await asyncio.sleep(0.001)
            continue
        await enqueue(worker.client, BULK)
        enqueued += BULK
    took = await worker.until(enqueued) - began
    left = enqueued - await worker.rows()
    await worker.stop()
    tell({"seconds": took, "enqueued": enqueued, "done": worker.done, "left": left})


async def work(dsn: str, count: int) -> None:
    made = client(dsn)

    @made.task(Noop, queue="noop")
    async def noop(job: object) -> None:
        tell({"at": time.monotonic()})

    await made.start([QUEUE])
    tell({"ready": True})
    await asyncio.Event().wait()


async def starts(dsn: str, count: int) -> None:
    made = client(dsn)
    worker = await asyncio.create_subprocess_exec(sys.executable, __file__, "work", dsn, stdout=asyncio.subprocess.PIPE)
    assert worker.stdout is not None
    await worker.stdout.readline()
    await asyncio.sleep(1)
    milliseconds = []
    for number in range(-10, count):
        await asyncio.sleep(random.uniform(0.005, 0.03))
        before = time.monotonic()
        await made.insert(JOB, queue="noop")
        at = json.loads(await worker.stdout.readline())["at"]
        if number >= 0:
            milliseconds.append((at - before) * 1000)
    worker.kill()
    await made.close()
    tell({"milliseconds": milliseconds})


if __name__ == "__main__":
    action, dsn, *rest = sys.argv[1:]
    actions = {"prepare": prepare, "fill": fill, "drain": drain, "stream": stream, "work": work, "starts": starts}
    uvloop.run(actions[action](dsn, int(rest[0]) if rest else 0))
