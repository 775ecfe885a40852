"""Malformed HTTP/2, floods, and slow clients, at a gateway's port: it lives, holds little more, and honest callers are answered."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final

import pytest

from tests.chaos.frames import ATTACKS, STRANGER
from tests.chaos.honest import Memory, honest_callers, report
from tests.fix_cluster import Cluster
from tests.fix_gateway import jobs
from tests.fix_services import Services
from tests.support.scale import scaled, tell
from tests.support.waiting import until

TIMES: Final = scaled(3, 50)
"""How much of each is done."""
GROWTH_MB: Final = 50


@pytest.mark.timeout(scaled(240, 3600))
async def test_a_gateway_lives_through_what_no_client_would_do(services: Services, cluster: Cluster) -> None:
    gateway = services.gateway("127.0.0.1:0", "--grace", "2s")
    worker = services.worker()
    address = await asyncio.to_thread(gateway.address)
    await asyncio.to_thread(worker.ready)
    host, _, port = address.rpartition(":")
    # What is made at its first use is no growth.
    for attack in ATTACKS.values():
        await attack((host, int(port)), 1)
    async with honest_callers(address) as quiet:
        await asyncio.sleep(2)
    memory = Memory(gateway.process.pid)

    grown: dict[str, float] = {}
    async with honest_callers(address) as beside:
        for name, attack in ATTACKS.items():
            answered, beside.during = len(beside.seconds), name
            await attack((host, int(port)), TIMES)
            assert gateway.process.poll() is None, f"{name} has ended it: {''.join(gateway.log[-20:])}"
            # Callers that were there before, on their old connections, and one that comes now.
            await until(lambda answered=answered: len(beside.seconds) > answered + 8, seconds=30)  # type: ignore[misc]
            async with honest_callers(address) as new:
                await until(lambda new=new: len(new.seconds) > 4, seconds=30)  # type: ignore[misc]
            assert not new.failed, f"{name}: {new.failed[:3]}"
            grown[name] = memory.look()

    tell(", ".join(f"{name} +{grown_mb:.1f} MB" for name, grown_mb in grown.items()))
    report("hostile frames", quiet, beside, memory)
    tell(f"honest calls that were not answered: {Counter(beside.failed)}")
    assert len(beside.failed) <= 0.01 * len(beside.seconds), Counter(beside.failed)
    assert memory.most < GROWTH_MB
    faults = [line for line in gateway.log if '"level": "error"' in line]
    assert not faults, faults[:5]
    # What was whole is a call like any other; what was not has left nothing.
    found = jobs(cluster, "tenant, state")
    assert {tenant for tenant, _ in found} <= {"honest", STRANGER}
    assert await asyncio.to_thread(gateway.end) == 0, "".join(gateway.log[-20:])
