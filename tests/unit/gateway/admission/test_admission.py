"""What a gateway lets in, put together: its bounds, its meters and what comes round beside calls."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import pytest

from rowcall.bounds import Bound, Budget, BudgetPeriod, Target
from rowcall.catalogue.model import JobMethod
from rowcall.errors import RowcallError
from rowcall.queue.model import NOBODY_NEEDS, Need, OthersNeed, QueueLoad, Spending
from rowcall.queue.protocol import AdmissionStore
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall_gateway.admission import admission as module
from rowcall_gateway.admission.admission import Admission
from tests.support.waiting import until

METHOD = cast("JobMethod", SimpleNamespace(name="acme.v1.Print/Print", policy=SimpleNamespace(queue="documents")))


class Shard:
    """A shard that some other gateways have told that they are there."""

    def __init__(self, others: int = 0) -> None:
        self.others = others
        self.looked: list[str] = []
        self.seen: list[str] = []
        self.spending = Decimal(0)
        self.away = False

    async def keep(self, bounds: object) -> None: ...

    async def lease(self, gateway_id: UUID, needs: list[Need]) -> list[OthersNeed]:
        return [replace(NOBODY_NEEDS, gateways=0 if need.target else self.others) for need in needs]

    async def leave(self, gateway_id: UUID) -> None: ...

    async def loads(self, queues: list[str]) -> dict[str, QueueLoad]:
        self.looked += queues
        return {}

    async def spent(self, budgets: list[tuple[str, Budget]]) -> list[Spending]:
        self.seen += [tenant for tenant, _ in budgets]
        if self.away:
            raise RowcallError(ErrorReason.ERROR_REASON_SHARD_UNAVAILABLE, "away")
        return [Spending(self.spending, timedelta(hours=1)) for _ in budgets]


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


BUDGET = Budget(Decimal(10), "EUR", BudgetPeriod.DAY)


async def come(found: Admission, tenant: str = "acme") -> None:
    """A call of a tenant, which ends at once."""
    let_in = found.enter(tenant, METHOD, waits=False)
    if let_in is None:
        let_in = await found.turn(tenant, METHOD, waits=False, size=1, remaining=None)
    with let_in:
        pass


async def test_the_first_call_of_a_tenant_has_it_looked_at_what_was_spent() -> None:
    shard = Shard()
    shard.spending = Decimal(10)
    found = admission(shard, bound(Target("-"), budget=BUDGET))
    with pytest.raises(RowcallError):
        await come(found)
    with pytest.raises(RowcallError) as caught:
        await come(found)
    assert caught.value.reason == ErrorReason.ERROR_REASON_BUDGET_SPENT
    assert shard.seen == ["acme"], "the next goes by what the first has heard"
    assert caught.value.metadata == {
        "bound": "tenants/acme", "limit": "10", "currency": "EUR", "period": "day", "spent": "10",
    }  # fmt: skip
    assert caught.value.retry_after is not None
    assert timedelta(minutes=59) < caught.value.retry_after < timedelta(minutes=61)
    assert "tenants/acme has spent 10 of 10 EUR that it may in a day" in caught.value.message
    shard.spending = Decimal("9.99")
    await found._leases["one"].renew()
    await come(found)
    await asyncio.gather(*(come(found, "bolt") for _ in range(20)))
    assert shard.seen == ["acme", "acme", "bolt"], "asked once for all that come at once"


async def test_a_shard_that_does_not_tell_what_was_spent_keeps_nobody_out() -> None:
    shard = Shard()
    shard.away = True
    found = admission(shard, bound(Target("acme"), budget=BUDGET))
    await come(found)
    await come(found)
    assert shard.seen == ["acme"]
