"""Drives procrastinate for the benchmarks: drive.py prepare|fill|drain|starts|stream DSN [COUNT or SECONDS]. Prints a JSON line.

Its psycopg connector under uvloop, with the concurrency that was best of 1, 10, 30 and 100. In bulk: batch_defer, by 1,000.
Runs in an environment of its own.
"""

import asyncio
import json
import random
import sys
import time

import uvloop
from procrastinate import App, PsycopgConnector
from procrastinate.tasks import Task

PAYLOAD = "x" * 187  # 200 bytes as JSON
CONCURRENCY = 30
BULK = 1_000
PRODUCERS = 8
"""In bulk, as many as ours."""
BACKLOG = 300


def tell(what: object) -> None:
    print(json.dumps(what), flush=True)


def app(dsn: str) -> App:
    return App(connector=PsycopgConnector(conninfo=dsn, min_size=2, max_size=10))


async def prepare(dsn: str, count: int) -> None:
    made = app(dsn)
    async with made.open_async():
        found = await made.connector.execute_query_one_async("select to_regclass('procrastinate_jobs') as found")
        if found["found"] is None:
            await made.schema_manager.apply_schema_async()
    tell({})


async def enqueue(task: Task, many: int) -> None:
    await task.batch_defer_async(*({"payload": PAYLOAD} for _ in range(many)))


async def fill(dsn: str, count: int) -> None:
    made = app(dsn)
    task = made.task(name="noop")(lambda payload: None)
    begins = iter(range(0, count, BULK))

    async def produce() -> None:
        for begin in begins:
            await enqueue(task, min(BULK, count - begin))

    async with made.open_async():
        before = await in_state(made, "todo")
        began = time.perf_counter()
        await asyncio.gather(*(produce() for _ in range(PRODUCERS)))
        seconds = time.perf_counter() - began
        rows = await in_state(made, "todo") - before
    tell({"seconds": seconds, "rows": rows})


async def drain(dsn: str, count: int) -> None:
    made = app(dsn)
    done, began = 0, 0.0

    @made.task(name="noop")
    async def noop(payload: str) -> None:
        nonlocal done, began
        began = began or time.perf_counter()
        done += 1

    async with made.open_async():
        before = await in_state(made, "succeeded")
        await made.run_worker_async(wait=False, concurrency=CONCURRENCY, install_signal_handlers=False)
        seconds = time.perf_counter() - began
        finished = await in_state(made, "succeeded") - before
    if done != count or finished != count:
        raise RuntimeError(f"{done} of {count} jobs were run, {finished} rows say so")
    tell({"seconds": seconds})


async def stream(dsn: str, seconds: int) -> None:
    made = app(dsn)
    done = enqueued = 0

    @made.task(name="noop")
    async def noop(payload: str) -> None:
        nonlocal done
        done += 1

    async with made.open_async():
        before = await in_state(made, "succeeded")
        worker = asyncio.create_task(made.run_worker_async(concurrency=CONCURRENCY, install_signal_handlers=False))
        began = time.perf_counter()
        while time.perf_counter() < began + seconds:
            if enqueued - done >= BACKLOG:
                await asyncio.sleep(0.005)
                continue
            await enqueue(noop, BULK // 10)
            enqueued += BULK // 10
        while done < enqueued:
            await asyncio.sleep(0.005)
        while (left := enqueued - (await in_state(made, "succeeded") - before)) > 0:
            await asyncio.sleep(0.005)
        took = time.perf_counter() - began
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)
    tell({"seconds": took, "enqueued": enqueued, "done": done, "left": left})


async def in_state(made: App, state: str) -> int:
    found = await made.connector.execute_query_one_async(
        "select count(*) as found from procrastinate_jobs where status = %(state)s", state=state
    )
    return int(found["found"])


async def work(dsn: str, count: int) -> None:
    made = app(dsn)

    @made.task(name="noop")
    async def noop(payload: str) -> None:
        tell({"at": time.monotonic()})

    async with made.open_async():
        tell({"ready": True})
        await made.run_worker_async(concurrency=CONCURRENCY)


async def starts(dsn: str, count: int) -> None:
    made = app(dsn)
    task = made.task(name="noop")(lambda payload: None)
    worker = await asyncio.create_subprocess_exec(sys.executable, __file__, "work", dsn, stdout=asyncio.subprocess.PIPE)
    assert worker.stdout is not None
    await worker.stdout.readline()
    await asyncio.sleep(1)
    milliseconds = []
    async with made.open_async():
        for number in range(-10, count):
            await asyncio.sleep(random.uniform(0.005, 0.03))
            before = time.monotonic()
            await task.defer_async(payload=PAYLOAD)
            at = json.loads(await worker.stdout.readline())["at"]
            if number >= 0:
                milliseconds.append((at - before) * 1000)
    worker.kill()
    tell({"milliseconds": milliseconds})


if __name__ == "__main__":
    action, dsn, *rest = sys.argv[1:]
    actions = {"prepare": prepare, "fill": fill, "drain": drain, "stream": stream, "work": work, "starts": starts}
    uvloop.run(actions[action](dsn, int(rest[0]) if rest else 0))
