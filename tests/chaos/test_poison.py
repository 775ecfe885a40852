"""A job that kills whoever runs it, among a thousand: it ends in the dead letters, and takes nobody with it."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import psycopg
import pytest

from rowcall_worker.probe import EXIT_CODE
from tests.chaos import effects
from tests.chaos.calls import caller
from tests.chaos.receipts import Receipt
from tests.chaos.stage import Seat, Stage, staged
from tests.fix_cluster import Cluster
from tests.fix_gateway import info_of
from tests.support.scale import scaled, seed, tell

JOBS = 1_000
SLOTS = "50"
ALONE = 3
"""How often a job must have died alone with its worker before it is dead-lettered."""
_STATES = "select state from rowcall.jobs"


async def supervise(seat: Seat) -> None:
    """Starts a worker again whenever it has ended, as a supervisor does."""
    while True:
        seat.start()
        await asyncio.to_thread(seat.process.process.wait)


def states(stage: Stage) -> Counter[str]:
    """How many jobs there are in each state."""
    found: Counter[str] = Counter()
    for dsn in stage.cluster.shards.values():
        with psycopg.connect(dsn) as connection:
            found.update(row[0] for row in connection.execute(_STATES))
    return found


@pytest.mark.timeout(scaled(180, 600))
@pytest.mark.parametrize("workers", scaled([1], [1, 2, 3]))
async def test_a_self_killing_job_ends_in_the_dead_letters_and_no_other_does(
    cluster: Cluster, tmp_path: Path, workers: int
) -> None:
    poison = random.Random(seed(f"poison, {workers} workers")).randrange(JOBS)
    with staged(cluster, tmp_path, workers=workers, arguments=("--slots", SLOTS)) as stage:
        gateway = stage.gateways[0]
        gateway.start()
        await asyncio.to_thread(gateway.process.ready)
        async with AsyncExitStack() as stack:
            calls = await stack.enter_async_context(caller(gateway.address))
            supervisors = [asyncio.create_task(supervise(seat)) for seat in stage.workers]
            answers = await asyncio.gather(
                *(calls.call(number, work=0.01, exit_process=number == poison) for number in range(JOBS)),
                return_exceptions=True,
            )
            for supervisor in supervisors:
                supervisor.cancel()
            await asyncio.gather(*supervisors, return_exceptions=True)
        ended = [process.process.returncode for seat in stage.workers for process in seat.processes[:-1]]
        starts = Counter(receipt.call for receipt in effects.starts(stage.folder / "starts"))
        found = states(stage)
    error = answers.pop(poison)
    assert isinstance(error, grpc.aio.AioRpcError), error
    assert info_of(error).reason == "WORKER_LOST"
    assert all(isinstance(answer, Receipt) for answer in answers), Counter(map(type, answers))
    assert found == {"SUCCEEDED": JOBS - 1, "FAILED": 1}
    # Nobody died but by the poison, and it had its three chances alone.
    assert ended == [EXIT_CODE] * starts[poison]
    assert ALONE <= starts[poison] <= ALONE + 1
    del starts[poison]
    # The first death was everybody's who was at work; those after it were its own.
    assert max(starts.values()) <= 2
    suspects = sum(count > 1 for count in starts.values())
    tell(f"poison, {workers} workers: {len(ended)} deaths, {suspects} other jobs ran more than once")
