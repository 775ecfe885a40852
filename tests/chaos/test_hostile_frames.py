"""Malformed HTTP/2, floods, and slow clients, at a gateway's port: it lives, holds little more, and honest callers are answered."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from tests.chaos.frames import ATTACKS, CALLING, NOBODYS, STRANGER
from tests.chaos.honest import TENANT, Memory, honest_callers, report
from tests.fix_cluster import Cluster
from tests.fix_gateway import jobs, tenant
from tests.fix_services import Services
from tests.support.scale import LONG, scaled, tell
from tests.support.tokens import TokenIssuer
from tests.support.waiting import until

TIMES: Final = scaled(3, 50)
"""How much of each is done."""
GROWTH_MB: Final = 50


@pytest.mark.timeout(scaled(240, 3600))
@pytest.mark.parametrize("identity", ["insecure-dev", "jwt"])
async def test_a_gateway_lives_through_what_no_client_would_do(
    services: Services, cluster: Cluster, tmp_path: Path, identity: str
) -> None:
    """Strangers who are believed come as far as strangers can; those who are asked who they are, no further than that."""
    told, honest = {"ROWCALL_IDENTITY": identity}, tenant(TENANT)
    if identity == "jwt":
        issuer = TokenIssuer()
        told["ROWCALL_ISSUERS"] = str(issuer.write(tmp_path))
        honest = issuer.metadata(tenant=TENANT, exp=int(time.time()) + 7_200)
    attacks = ATTACKS if LONG or identity != "jwt" else {name: ATTACKS[name] for name in CALLING}
    if identity == "jwt":
        attacks = {**attacks, **NOBODYS}
    gateway = services.gateway("127.0.0.1:0", "--grace", "2s", **told)
    worker = services.worker()
    address = await asyncio.to_thread(gateway.address)
    await asyncio.to_thread(worker.ready)
    host, _, port = address.rpartition(":")
    # What is made at its first use is no growth.
    for attack in attacks.values():
        await attack((host, int(port)), 1)
    async with honest_callers(address, honest) as quiet:
        await asyncio.sleep(2)
    memory = Memory(gateway.process.pid)

    grown: dict[str, float] = {}
    async with honest_callers(address, honest) as beside:
        for name, attack in attacks.items():
            answered, beside.during = len(beside.seconds), name
            await attack((host, int(port)), TIMES)
            assert gateway.process.poll() is None, f"{name} has ended it: {''.join(gateway.log[-20:])}"
            # Callers that were there before, on their old connections, and one that comes now.
            await until(lambda answered=answered: len(beside.seconds) > answered + 8, seconds=30)  # type: ignore[misc]
            async with honest_callers(address, honest) as new:
                await until(lambda new=new: len(new.seconds) > 4, seconds=30)  # type: ignore[misc]
            assert not new.failed, f"{name}: {new.failed[:3]}"
            grown[name] = memory.look()

    tell(", ".join(f"{name} +{grown_mb:.1f} MB" for name, grown_mb in grown.items()))
    report("hostile frames", quiet, beside, memory)
    tell(f"honest calls that were not answered: {Counter(beside.failed)}")
    # More calls that have come and are not taken in yet than may wait for jobs: gRPC ends some of them as they come, whosever they
    # are, as if their callers had cancelled them (`rowcall_gateway.edge.transport.COMING`). Nothing else may come between.
    floods = {"rapid_reset", "many_streams"} if LONG else set()
    others = [each for each in beside.failed if each.split(": ")[:2] not in [[name, "CANCELLED"] for name in floods]]
    assert not others, Counter(others)
    assert len(beside.failed) <= 0.01 * len(beside.seconds), Counter(beside.failed)
    # What stays; and what a flood of calls takes until it is worked off, some 10 KB for each that has come.
    assert memory.look() < GROWTH_MB
    assert memory.most < 2 * GROWTH_MB
    faults = [line for line in gateway.log if '"level": "error"' in line]
    assert not faults, faults[:5]
    assert await asyncio.to_thread(gateway.end) == 0, "".join(gateway.log[-20:])
    written = {who for (who,) in jobs(cluster, "tenant")}
    if identity != "jwt":
        # What was whole is a call like any other; what was not has left nothing.
        assert written <= {TENANT, STRANGER}
        return
    assert written == {TENANT}
    calls = [json.loads(line) for line in gateway.log if '"event": "call"' in line]
    codes = Counter(call["code"] for call in calls if call["tenant"] is None)
    tell(f"calls of those who are nobody: {codes}")
    # No handler has run: who is nobody is refused, unless the call is over by then.
    assert codes["UNAUTHENTICATED"] > 100
    assert codes.keys() <= {"UNAUTHENTICATED", "CANCELLED"}
    assert {call["tenant"] for call in calls} == {None, TENANT}
