"""A job that kills whoever runs it, among a thousand: it ends in the dead letters, and takes nobody with it."""

from __future__ import annotations

import asyncio
import json
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
ALONE = 3
"""How often a job must have died alone with its worker before it is dead-lettered."""
DEATHS = 3 + ALONE
"""Those, the two that make it a suspect, and that of its group."""
SUSPECTS_DIED = '"process for suspects ended by itself"'
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
@pytest.mark.parametrize(("workers", "slots"), scaled([(1, 50)], [(1, 50), (2, 50), (3, 50), (1, 1000), (2, 1000)]))
async def test_a_self_killing_job_ends_in_the_dead_letters_and_no_other_does(
    cluster: Cluster, tmp_path: Path, workers: int, slots: int
) -> None:
    poison = random.Random(seed(f"poison, {workers} workers of {slots} slots")).randrange(JOBS)
    with staged(cluster, tmp_path, workers=workers, arguments=("--slots", str(slots))) as stage:
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
        log = [line for seat in stage.workers for process in seat.processes for line in list(process.log)]
        starts = Counter(receipt.call for receipt in effects.starts(stage.folder / "starts"))
        found = states(stage)
    error = answers.pop(poison)
    assert isinstance(error, grpc.aio.AioRpcError), error
    assert info_of(error).reason == "WORKER_LOST"
    assert all(isinstance(answer, Receipt) for answer in answers), Counter(map(type, answers))
    assert found == {"SUCCEEDED": JOBS - 1, "FAILED": 1}
    # Nobody died but by the poison. Two workers, which made it a suspect; then it had its three chances alone, in processes
    # that had nothing else to lose, and perhaps one more in company.
    apart = sorted((json.loads(line) for line in log if SUSPECTS_DIED in line), key=lambda line: str(line["timestamp"]))
    assert ended == [EXIT_CODE] * 2
    assert {line["exit_code"] for line in apart} == {EXIT_CODE}
    assert 2 + len(apart) == starts[poison]
    assert 2 + ALONE <= starts[poison] <= DEATHS
    # What died with it is named.
    assert [line["jobs"] for line in apart][-ALONE:] == [1] * ALONE
    assert len({operation for line in apart[-ALONE:] for operation in line["operations"]}) == 1
    deaths = starts.pop(poison)
    # The first two deaths were everybody's who was at work; the third its group's; those after it were its own.
    assert max(starts.values()) <= 4
    again = sum(count > 1 for count in starts.values())
    group = sum(count > 3 for count in starts.values())
    tell(
        f"poison, {workers} workers of {slots} slots: {deaths} deaths, {again} other jobs ran more than once, {group} "
        "of them in its group"
    )
