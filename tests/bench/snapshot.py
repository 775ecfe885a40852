"""`snapshot` (long): a minute at full rate and a burst of 50,000 beside a snapshot that is held, and without."""

from __future__ import annotations

from contextlib import nullcontext

from tests.bench.figures import Figure, beside
from tests.bench.stage import Stage
from tests.proofs.engine import held_snapshot, shard
from tests.proofs.snapshot import BURST, FULL_RATE_SECONDS, full_rate_and_burst


async def run(stage: Stage) -> list[Figure]:
    """Jobs a second of the store alone, without gateway and worker."""

    async def held() -> float:
        with shard() as dsn:
            return (await full_rate_and_burst(dsn, lambda: held_snapshot(dsn)))[0]

    async def free() -> float:
        with shard() as dsn:
            return (await full_rate_and_burst(dsn, nullcontext))[0]

    found = await stage.in_turn(held=held, free=free)
    return [
        beside(
            "snapshot held",
            found["held"],
            "jobs/s",
            against="none",
            theirs=found["free"],
            goal=">= 0.9",
            settings={**stage.told, "seconds": f"{FULL_RATE_SECONDS:g}", "burst": f"{BURST:,}"},
        )
    ]
