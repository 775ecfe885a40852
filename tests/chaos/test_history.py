"""Everything breaks, at random and all the time, while calls go on: nothing acknowledged is lost, no effect comes twice."""

from __future__ import annotations

import asyncio
import random
import shutil
import time
from pathlib import Path

import pytest

from tests.chaos.evidence import gather
from tests.chaos.faults import Fault, Faults, told
from tests.chaos.history import History
from tests.chaos.load import Load
from tests.chaos.stage import Stage, staged
from tests.chaos.verdict import judge
from tests.fix_cluster import RestartableCluster
from tests.support.scale import LONG, scaled, seed, tell
from tests.support.waiting import until

CALLS = scaled(2_000, 100_000)
IN_FLIGHT = scaled(96, 128)
LEASE = "2s"
SLOTS = "40"

PLAN = {
    Fault.KILL_WORKER: scaled(2, 60),
    Fault.STOP_WORKER: scaled(2, 80),
    Fault.HOLD_WORKER: scaled(1, 15),
    Fault.KILL_GATEWAY: scaled(1, 20),
    Fault.TERMINATE: scaled(2, 40),
    Fault.RESTART: scaled(1, 20),
    Fault.CUT: scaled(3, 60),
}
LEAST_SESSIONS = scaled(10, 400)
LEAST_LINKS = scaled(4, 200)
LEAST_LOST_RUNS = scaled(10, 500)
LEAST_LATE = scaled(0, 200)
"""How many stale settles must have come from processes that were stopped and woke up.

In the short form there may be none: one that wakes up can hear that its lease is over before it settles anything.
"""


SAID = 300
"""Lines of a process that ended in another way than it should: where all of its threads were is a hundred of them."""


async def end(stage: Stage) -> None:
    """Waits until every job is finished, then ends the services as an operator would: none of them is stuck."""
    await until(lambda: asyncio.to_thread(lambda: stage.live_jobs() == 0), seconds=120, every=0.2)
    for seat in (*stage.workers, *stage.gateways):
        assert await asyncio.to_thread(seat.process.end) == 0, "".join(seat.process.log[-SAID:])


@pytest.mark.timeout(scaled(400, 5400))
async def test_nothing_is_lost_and_nothing_counts_twice_whatever_dies(
    restartable_cluster: RestartableCluster, tmp_path: Path
) -> None:
    chosen = seed("history")
    began = time.monotonic()
    with (
        staged(
            restartable_cluster, tmp_path, gateways=2, workers=3, arguments=("--lease", LEASE, "--slots", SLOTS)
        ) as stage,
        History(tmp_path / "history") as log,
    ):
        for seat in (*stage.gateways, *stage.workers):
            seat.start()
        for seat in (*stage.gateways, *stage.workers):
            await asyncio.to_thread(seat.process.ready)
        load = Load(log, random.Random(chosen), calls=CALLS, in_flight=IN_FLIGHT)
        faults = Faults(stage, restartable_cluster.postgres, random.Random(chosen + 1))
        addresses = [seat.address for seat in stage.gateways]
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(load.run(addresses))
            tasks.create_task(faults.run(PLAN, lambda: load.ended, CALLS))
        await end(stage)
        verdict = judge(log.path, gather(stage))
    for line in (*told(faults), *verdict.told(), f"  attempts at calls: {dict(load.attempts)}"):
        tell(line)
    tell(f"  {time.monotonic() - began:.0f} s")
    if LONG:
        shutil.rmtree(tmp_path, ignore_errors=True)
    assert verdict.problems == []
    assert dict(faults.counts) == PLAN
    assert faults.sessions_terminated >= LEAST_SESSIONS
    assert faults.links_cut >= LEAST_LINKS
    assert verdict.lost_runs >= LEAST_LOST_RUNS
    assert verdict.late_of_woken >= LEAST_LATE
