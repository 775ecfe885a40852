"""A held snapshot or a long report does not slow the queue: `make proofs ONLY=snapshot`, about twelve minutes.

Vacuum can remove nothing that the snapshot may see; what keeps the claim fast is the low-water mark.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import nullcontext

import pytest

from tests.proofs.engine import Seen, engine, held_snapshot, shard
from tests.proofs.figures import keep, percentile, say
from tests.proofs.snapshot import BURST, FULL_RATE_SECONDS, full_rate_and_burst

READERS = 3
READER_SECONDS = 120.0
READER_QUERY = "select count(*), max(finished_at) from rowcall.job_history"


@pytest.mark.timeout(1200)
async def test_full_rate_and_a_burst_beside_a_held_snapshot() -> None:
    with shard() as dsn:
        say(f"{FULL_RATE_SECONDS:.0f} s at full rate, then {BURST} at once, without a snapshot")
        without, seen_without = await full_rate_and_burst(dsn, nullcontext)
    with shard() as dsn:
        say("the same beside a REPEATABLE READ transaction that is held open")
        beside, seen_beside = await full_rate_and_burst(dsn, lambda: held_snapshot(dsn))
    p99 = [percentile(seen.claim_times, 0.99) * 1000 for seen in (seen_without, seen_beside)]
    keep("held snapshot", "jobs/s without", without, unit="jobs/s", goal="-")
    keep("held snapshot", "jobs/s beside", beside, unit="jobs/s", goal="-")
    keep("held snapshot", "throughput, ratio", beside / without, unit="x", goal=">= 0.9")
    keep("held snapshot", "claim p99 without", p99[0], unit="ms", goal="-")
    keep("held snapshot", "claim p99 beside", p99[1], unit="ms", goal="-")
    keep("held snapshot", "claim p99, ratio", p99[1] / p99[0], unit="x", goal="<= 2")


@pytest.mark.timeout(1200)
async def test_three_readers_that_overlap_leave_no_backlog() -> None:
    with shard() as dsn:
        async with engine(dsn) as load:
            say("how fast it is, for ten seconds")
            began = time.monotonic()
            async with load.claiming():
                await load.produce(10.0)
            peak = load.seen.settled / (time.monotonic() - began)
            rate = peak / 2
            load.seen = Seen()
            say(f"three readers of {READER_SECONDS:.0f} s that overlap, beside {rate:.0f} jobs/s (half of that)")
            backlog_after = 0

            async def read(delay: float) -> None:
                await asyncio.sleep(delay)
                with held_snapshot(dsn, READER_QUERY):
                    await asyncio.sleep(READER_SECONDS)

            async with load.claiming():
                whole = READER_SECONDS * 2 + 60
                producing = asyncio.create_task(load.produce(whole, rate=rate))
                await asyncio.gather(*(read(number * READER_SECONDS / 2) for number in range(READERS)))
                backlog_at_end = load.seen.submitted - load.seen.settled
                await producing
                backlog_after = load.seen.submitted - load.seen.settled
            keep("overlapping readers", "rate held", rate, unit="jobs/s", goal="-")
            keep("overlapping readers", "backlog when the last one ends", backlog_at_end, unit="jobs", goal="-")
            keep(
                "overlapping readers",
                "backlog 60 s after",
                backlog_after,
                unit="jobs",
                goal="none beyond what is in flight",
            )
            assert load.seen.settled == load.seen.submitted
