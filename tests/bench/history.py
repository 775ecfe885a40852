"""`history` (long): submit and drain with ten million finished rows and as many keys, beside an empty store."""

from __future__ import annotations

import asyncio

from tests.bench.figures import Figure, beside
from tests.bench.stage import Stage
from tests.proofs.engine import shard
from tests.proofs.size import JOBS, ROWS, fill, prepared, rates


async def run(stage: Stage) -> list[Figure]:
    """Jobs a second of the store alone, without gateway and worker."""
    with shard(max_wal_size="8GB") as full, shard() as empty:
        await asyncio.to_thread(fill, full)
        found: dict[str, list[tuple[float, float]]] = {"full": [], "empty": []}
        async with prepared(full) as full_store, prepared(empty) as empty_store:
            for _ in range(stage.rounds):
                found["full"].append(await rates(full_store))
                found["empty"].append(await rates(empty_store))
    settings = {**stage.told, "finished rows": f"{ROWS:,}", "keys": f"{ROWS:,}", "jobs": f"{JOBS:,}"}
    return [
        beside(
            f"history, {name}",
            [each[index] for each in found["full"]],
            "jobs/s",
            against="an empty store",
            theirs=[each[index] for each in found["empty"]],
            goal=">= 0.9",
            settings=settings,
        )
        for index, name in enumerate(("submit", "drain"))
    ]
