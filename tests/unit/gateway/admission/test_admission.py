"""What a gateway lets in, put together: its bounds, its meters and what comes round beside calls."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import pytest

from rowcall.bounds import Bound, Target
from rowcall.catalogue.model import JobMethod
from rowcall.queue.model import NOBODY_NEEDS, Need, OthersNeed, QueueLoad
from rowcall.queue.protocol import AdmissionStore
from rowcall_gateway.admission import admission as module
from rowcall_gateway.admission.admission import Admission
from tests.support.waiting import until

METHOD = cast("JobMethod", SimpleNamespace(name="acme.v1.Print/Print", policy=SimpleNamespace(queue="documents")))


class Shard:
    """A shard that some other gateways have told that they are there."""

    def __init__(self, others: int = 0) -> None:
        self.others = others
        self.looked: list[str] = []

    async def keep(self, bounds: object) -> None: ...

    async def lease(self, gateway_id: UUID, needs: list[Need]) -> list[OthersNeed]:
        return [replace(NOBODY_NEEDS, gateways=0 if need.target else self.others) for need in needs]

    async def leave(self, gateway_id: UUID) -> None: ...

    async def loads(self, queues: list[str]) -> dict[str, QueueLoad]:
        self.looked += queues
        return {}


def bound(target: Target, number: int = 1, **measures: Any) -> Bound:
    given: dict[str, Any] = dict.fromkeys(("rate", "in_flight", "waiters", "backlog", "oldest_age")) | measures
    return Bound(target, **given, number=number, updated_at=datetime.now(UTC), actor=None, note=None)


def admission(shard: Shard, *bounds: Bound, where: str | None = "one") -> Admission:
    async def read(number: int) -> list[Bound]:
        return [each for each in bounds if each.number > number]

    stores = {name: cast("AdmissionStore", shard) for name in ("one", "other")}
    made = Admission(read, stores, lambda _: where, uuid4())
    made.known._learn(bounds)
    return made


async def test_shares_that_were_not_renewed_are_halved_though_calls_do_not_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LAPSE_EVERY", 0.01)
    found = admission(Shard(), bound(Target("acme"), in_flight=10))
    assert found.enter("acme", METHOD, waits=False) is not None
    (meter,) = found._meters.values()
    meter._lease_until = time.monotonic() - 1
    task = asyncio.get_running_loop().create_task(found._lapse())
    await until(lambda: meter.places == 5)
    assert [found.enter("acme", METHOD, waits=False) is not None for _ in range(5)] == [True] * 4 + [False]
    task.cancel()


@pytest.mark.parametrize("where", ["one", None])
async def test_a_gateway_has_its_part_of_a_bound_that_nobody_was_asked_for_yet(where: str | None) -> None:
    """Four that are called at one moment would each let all of it in otherwise; also where it is not known yet on which shard."""
    found = admission(Shard(others=3), bound(Target("acme"), in_flight=20), where=where)
    await found._leases["one"].renew()
    assert [found.enter("acme", METHOD, waits=False) is not None for _ in range(20)] == [True] * 5 + [False] * 15


async def test_queues_that_are_bounded_as_a_whole_are_looked_at_though_nobody_calls() -> None:
    """What handlers and services submit there is held to what gateways have seen."""
    shard = Shard()
    found = admission(
        shard,
        bound(Target("", "documents"), 1, backlog=10),
        bound(Target("", "mails"), 2, rate=1.0),
        bound(Target("acme", "pictures"), 3, backlog=10),
    )
    await found._leases["one"].renew()
    assert shard.looked == ["documents"]
