"""`actions`: calls beside 10,000 operator's actions a minute, each of them recorded and chained; beside the same actions unrecorded; beside as many
reads; alone."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final

from rowcall.v1.queue_service_pb2 import ListPausesRequest
from rowcall.v1.tenant_service_pb2 import SetTenantWeightRequest
from tests.bench import load, requests
from tests.bench.figures import Figure, beside
from tests.bench.stage import Stage, System, count, median, say

A_MINUTE: Final = 10_000
RATE: Final = A_MINUTE / 60
CALLS: Final = 200.0
"""Calls a second: so few that it is not their waiting for a processor that is measured."""
ACTED_UPON: Final = "acted"
"""The tenant that actions are of; the calls are another's."""
_LOOKS: Final = 20
"""So often it is looked, every 0.5 s, whether all is sealed."""

_UNRECORD: Final = (
    "create function rowcall.unrecorded() returns trigger language plpgsql as 'begin return null; end'",
    "create trigger unrecorded before insert on rowcall.audit for each row execute function rowcall.unrecorded()",
)
_RECORD: Final = ("drop function rowcall.unrecorded cascade",)
"""What the database does without, for the time of one measurement: the row, and with it its place in the chain."""

_UNSEALED: Final = """
select count(*) from rowcall.audit a
where not exists (select from rowcall.audit_seal s where s.tenant = a.tenant and s.id = a.id)
"""


async def run(stage: Stage) -> list[Figure]:
    """Milliseconds of a call, p50 and p99, at a steady rate; entries that wait for their place at the end."""
    recorded = 0
    found: dict[str, list[load.Times]] = {"alone": [], "reads": [], "unrecorded": [], "actions": []}
    with stage.system() as system:
        _, address = system.gateway()
        system.worker()
        steady = replace(requests.echo(address, in_flight=256, seconds=stage.seconds, tokens=system.tokens), rate=CALLS)
        actions = _beside(
            address,
            "rowcall.v1.TenantService/SetTenantWeight",
            SetTenantWeightRequest(name=f"tenants/{ACTED_UPON}", weight=2).SerializeToString(),
            stage.seconds,
        )
        reads = _beside(
            address, "rowcall.v1.QueueService/ListPauses", ListPausesRequest().SerializeToString(), stage.seconds
        )
        # The tenant lives somewhere from its first call on.
        await load.apart(replace(steady, metadata=actions.metadata, rate=None, seconds=None, calls=1, in_flight=1))
        await load.apart(replace(steady, rate=None, in_flight=16))
        system.fresh()
        before = system.value("select count(*) from rowcall.audit")

        async def measured(name: str, other: load.Load | None = None) -> float:
            nonlocal recorded
            if other is None:
                times = (await load.apart(steady)).times
            else:
                answered, times = await asyncio.gather(load.apart(other), _times_meanwhile(steady))
                count(f"{name} answered with OK", sum(answered.statuses.values()), answered.ok)
                recorded += answered.ok if name == "actions" else 0
            found[name].append(times)
            return times.p99

        async def alone() -> float:
            return await measured("alone")

        async def beside_reads() -> float:
            return await measured("reads", reads)

        async def beside_unrecorded() -> float:
            system.do(*_UNRECORD)
            try:
                return await measured("unrecorded", actions)
            finally:
                system.do(*_RECORD)

        async def beside_actions() -> float:
            return await measured("actions", actions)

        await stage.in_turn(alone=alone, reads=beside_reads, unrecorded=beside_unrecorded, actions=beside_actions)
        count("actions: entries", recorded, int(system.value("select count(*) from rowcall.audit") - before))
        waits = await _unsealed(system)
    p50 = {name: [each.p50 for each in times] for name, times in found.items()}
    p99 = {name: [each.p99 for each in times] for name, times in found.items()}
    say("p50 ms: " + ", ".join(f"{name} {median(values):.2f}" for name, values in p50.items()))
    settings = {**stage.told, "calls/s": f"{CALLS:g}", "actions/s": f"{RATE:.0f}", "seconds": f"{stage.seconds:g}"}
    return [
        beside(
            f"call beside {A_MINUTE:,} actions a minute, {which}",
            values["actions"],
            "ms",
            against=against,
            theirs=values[other],
            goal=goal,
            settings=settings,
        )
        for which, values in (("p50", p50), ("p99", p99))
        # Any call costs a gateway something, and a write its database; what is to cost nothing is that they are recorded.
        for other, against, goal in (
            ("unrecorded", "beside the same, unrecorded", "<= 1.1"),
            ("reads", "beside as many reads", "<= 1.1"),
            ("alone", "alone", ""),
        )
    ] + [beside("actions: entries without a place, ten seconds later", [waits], "entries", goal="<= 0")]


def _beside(address: str, path: str, body: bytes, seconds: float) -> load.Load:
    metadata = (("rowcall-tenant", ACTED_UPON), ("rowcall-actor", "bench"))
    # Begun a little earlier than what is measured, and ended later.
    return load.Load(address, f"/{path}", body, metadata, 64, seconds + 2, rate=RATE)


async def _times_meanwhile(steady: load.Load) -> load.Times:
    """What is measured, once what it is measured beside has begun."""
    await asyncio.sleep(1)
    return (await load.apart(steady)).times


async def _unsealed(system: System) -> float:
    """How many entries have no place once there was time for it."""
    waits = system.value(_UNSEALED)
    for _ in range(_LOOKS):
        if not waits:
            break
        await asyncio.sleep(0.5)
        waits = system.value(_UNSEALED)
    return waits
