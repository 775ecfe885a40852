"""What a killed worker and a job that kills its workers cost everybody else: as much as submitting the lost jobs again.

The quick form asserts what no running of suspects one by one could keep; the long one the figures.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from rowcall.probe.v1 import probe_pb2, probe_pb2_grpc
from tests.chaos import effects
from tests.chaos.calls import Caller, caller
from tests.chaos.stage import staged
from tests.chaos.test_poison import DEATHS, SUSPECTS_DIED, states, supervise
from tests.chaos.test_rescue import steady
from tests.fix_cluster import Cluster
from tests.fix_gateway import info_of
from tests.support.scale import LONG, scaled, seed, tell
from tests.support.waiting import until

JOBS = scaled(60, 1_000)
WORK = scaled(1.0, 3.0)
"""Seconds, of each of them."""
POISONED = 1_000
POISONED_WORK = 0.5
ROOM = 50
"""Slots beyond those that the jobs take: for the calls of others."""
EVERY = 0.01
"""Seconds between the calls of others."""
BOUND = 300.0
FACTOR = 2.0
"""What others may feel, and how much longer than submitting them again the jobs of a killed worker may take."""


@dataclass(slots=True)
class Others:
    """Quick calls of another tenant, at an even pace."""

    took: list[float] = field(default_factory=list)
    """Seconds of each that was begun since `fresh`."""

    def fresh(self) -> None:
        """Forgets what was measured."""
        self.took = []

    def p99(self) -> float:
        """Seconds."""
        return statistics.quantiles(self.took, n=100)[-1]


@asynccontextmanager
async def others(address: str) -> AsyncIterator[Others]:
    """Calls through a gateway until the block's end, each of which must be answered."""
    measured = Others()
    calling: set[asyncio.Task[None]] = set()

    async def one(stub: probe_pb2_grpc.ProbeServiceAsyncStub, number: int) -> None:
        into = measured.took
        began = time.monotonic()
        # Numbers of its own: handlers note each start.
        request = probe_pb2.EchoRequest(payload=str(1_000_000 + number).encode())
        await stub.Echo(request, metadata=[("rowcall-tenant", "other")], timeout=BOUND)
        into.append(time.monotonic() - began)

    async def keep() -> None:
        number = 0
        while True:
            task = asyncio.create_task(one(stub, number))
            calling.add(task)
            task.add_done_callback(calling.discard)
            number += 1
            await asyncio.sleep(EVERY)  # the pace

    async with grpc.aio.insecure_channel(address) as channel:
        stub = probe_pb2_grpc.ProbeServiceStub(channel)
        keeping = asyncio.create_task(keep())
        try:
            yield measured
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            async with asyncio.timeout(BOUND):
                await asyncio.gather(*calling)


def begin(calls: Caller, numbers: Sequence[int], work: float, poison: int | None = None) -> list[asyncio.Task[object]]:
    """Calls that have begun."""
    return [
        asyncio.create_task(calls.call(number, work=work, exit_process=number == poison), name=str(number))
        for number in numbers
    ]


@pytest.mark.straight("through a pooler a killed worker is found when its lease is over")
@pytest.mark.timeout(scaled(180, 600))
async def test_a_killed_workers_jobs_take_as_long_as_if_they_were_submitted_again(
    cluster: Cluster, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    async with AsyncExitStack() as stack:
        stage = stack.enter_context(
            staged(cluster, tmp_path, workers=2, arguments=("--slots", str(JOBS + ROOM)), gate=gate)
        )
        gateway, (first, second) = stage.gateways[0], stage.workers
        gateway.start()
        first.start()
        await asyncio.to_thread(gateway.process.ready)
        await asyncio.to_thread(first.process.ready)
        calls = await stack.enter_async_context(caller(gateway.address))
        # All of them on the one that will be killed: the other one comes later.
        lost = begin(calls, range(JOBS), WORK)
        folder = stage.folder / "starts"
        await until(lambda: len(effects.starts(folder)) >= JOBS, seconds=BOUND, every=0.1)
        second.start()
        await asyncio.to_thread(second.process.ready)
        await steady(stage)
        measured = await stack.enter_async_context(others(gateway.address))
        await until(lambda: len(measured.took) >= 100, seconds=BOUND)

        measured.fresh()
        await asyncio.to_thread(first.process.kill)
        killed_at = time.monotonic()
        gate.touch()
        await asyncio.gather(*lost)
        took, felt = time.monotonic() - killed_at, measured.p99()
        assert Counter(receipt.call for receipt in effects.starts(folder) if receipt.call < JOBS) == dict.fromkeys(
            range(JOBS), 2
        )

        measured.fresh()
        began = time.monotonic()
        await asyncio.gather(*begin(calls, range(JOBS, 2 * JOBS), WORK))
        again, usual = time.monotonic() - began, measured.p99()
    tell(
        f"a worker with {JOBS} jobs of {WORK:g} s killed: all done after {took:.2f} s, submitted again after {again:.2f} s "
        f"({took / again:.2f} x); others' p99 {felt * 1000:.0f} ms, {usual * 1000:.0f} ms ({felt / usual:.2f} x)"
    )
    # One by one they would take JOBS times WORK.
    assert took < JOBS * WORK / 4
    if LONG:
        assert took <= FACTOR * again
        assert felt <= FACTOR * usual


@pytest.mark.straight("through a pooler a killed worker is found when its lease is over")
@pytest.mark.timeout(1200)
@pytest.mark.skipif(
    not LONG, reason="a measurement; its quick form, with the deaths and without the figures, is test_poison"
)
@pytest.mark.parametrize("slots", [50, 1_000])
async def test_a_job_that_kills_its_workers_costs_six_of_them_and_others_nothing(
    cluster: Cluster, tmp_path: Path, slots: int
) -> None:
    poison = POISONED + random.Random(seed(f"suspicion, {slots} slots")).randrange(POISONED)
    with staged(cluster, tmp_path, workers=3, arguments=("--slots", str(slots + ROOM))) as stage:
        async with AsyncExitStack() as stack:
            gateway = stage.gateways[0]
            gateway.start()
            await asyncio.to_thread(gateway.process.ready)
            supervisors = [asyncio.create_task(supervise(seat)) for seat in stage.workers]
            await until(lambda: all(seat.processes for seat in stage.workers))
            for seat in stage.workers:
                await asyncio.to_thread(seat.process.ready)
            await steady(stage)
            calls = await stack.enter_async_context(caller(gateway.address))
            measured = await stack.enter_async_context(others(gateway.address))

            began = time.monotonic()
            measured.fresh()
            await asyncio.gather(*begin(calls, range(POISONED), POISONED_WORK))
            without, usual = time.monotonic() - began, measured.p99()

            measured.fresh()
            began = time.monotonic()
            tasks = begin(calls, range(POISONED, 2 * POISONED), POISONED_WORK, poison)
            answers = dict(
                zip(range(POISONED, 2 * POISONED), await asyncio.gather(*tasks, return_exceptions=True), strict=True)
            )
            took, felt = time.monotonic() - began, measured.p99()
            for supervisor in supervisors:
                supervisor.cancel()
            await asyncio.gather(*supervisors, return_exceptions=True)
        died = sum(len(seat.processes) - 1 for seat in stage.workers)
        apart = sum(
            SUSPECTS_DIED in line for seat in stage.workers for each in seat.processes for line in list(each.log)
        )
        found = states(stage)
    tell(
        f"poison among {POISONED} jobs of {POISONED_WORK:g} s, 3 workers of {slots} slots: {died} workers and {apart} "
        f"processes of suspects died; done after {took:.2f} s, without it after {without:.2f} s; others' p99 "
        f"{felt * 1000:.0f} ms, {usual * 1000:.0f} ms ({felt / usual:.2f} x)"
    )
    error = answers.pop(poison)
    assert isinstance(error, grpc.aio.AioRpcError), error
    assert info_of(error).reason == "WORKER_LOST"
    assert not [answer for answer in answers.values() if isinstance(answer, BaseException)]
    assert found["FAILED"] == 1
    assert set(found) == {"SUCCEEDED", "FAILED"}
    assert (died, died + apart) <= (2, DEATHS)
    if LONG:
        assert felt <= FACTOR * usual
