"""The bounds, as the catalogue keeps them: in the order of commits, each whole, and gone ones told of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal

import psycopg
import pytest

from rowcall.bounds import Budget, BudgetPeriod, Target
from rowcall.errors import RowcallError, reason_name
from rowcall.settings import ClusterSettings
from rowcall.sharding import GATEWAY_WORKLOADS, Router
from rowcall.sharding.bounds import Bounds
from tests.fix_cluster import Cluster

NOWHERE = "postgresql://postgres@127.0.0.1:1/nothing"
ACME = Target("acme", "documents")


@pytest.fixture
async def bounds(cluster: Cluster) -> AsyncIterator[Bounds]:
    # A busy machine may need longer than a service waits.
    settings = ClusterSettings.model_validate({**cluster.settings, "pool_timeout": "30s"})
    async with await Router.open(settings, service="test-gateway", workloads=GATEWAY_WORKLOADS) as router:
        yield router.bounds


async def test_a_bound_is_set_as_a_whole_and_read_once(bounds: Bounds) -> None:
    assert await bounds.since(0) == []
    hour = timedelta(hours=1)
    first = await bounds.set(ACME, rate=2.5, in_flight=3, by="root", note="at first")
    queue = await bounds.set(Target("", "documents"), waiters=0, backlog=10**10, oldest_age=hour, by=None, note=None)
    assert (first.target, first.rate, first.in_flight, first.waiters, first.actor) == (ACME, 2.5, 3, None, "root")
    assert (queue.waiters, queue.backlog, queue.oldest_age) == (0, 10**10, hour)
    assert await bounds.since(0) == [first, queue]
    budget = Budget(Decimal("9.5"), "USD", BudgetPeriod.DAY)
    spending = await bounds.set(Target("bolt"), budget=budget, by=None, note=None)
    assert spending.budget == budget
    again = await bounds.set(ACME, in_flight=4, by="ann", note=None)
    assert (again.rate, again.in_flight, again.note) == (None, 4, None), "what is not said holds no more"
    assert await bounds.since(queue.number) == [spending, again]
    assert [each.target for each in await bounds.since(0)] == [queue.target, Target("bolt"), ACME], "one of each target"


async def test_one_that_is_taken_away_is_told_of(bounds: Bounds) -> None:
    first = await bounds.set(ACME, rate=1, by=None, note=None)
    gone = await bounds.set(ACME, by="root", note=None)
    assert (first.bounds, gone.bounds) == (True, False)
    assert await bounds.since(first.number) == [gone]


async def test_whoever_has_read_up_to_a_number_never_meets_a_lower_one(cluster: Cluster, bounds: Bounds) -> None:
    """A transaction that was first and is committed last would be missed by everybody who reads by numbers."""
    async with await psycopg.AsyncConnection.connect(cluster.catalogue_dsn) as slow:
        await slow.execute(
            "select from rowcall_catalogue.set_bound('slow', '', '', 1, null, null, null, null, null, null, null, null, null)"
        )
        quick = asyncio.create_task(bounds.set(ACME, rate=1, by=None, note=None))
        _, waits = await asyncio.wait({quick}, timeout=0.5)
        assert waits, "until the first one is committed"
        assert await bounds.since(0) == []
        await slow.commit()
        await quick
    assert [each.target.tenant for each in await bounds.since(0)] == ["slow", "acme"]


async def test_a_catalogue_that_is_away_is_said(cluster: Cluster) -> None:
    settings = ClusterSettings.model_validate({**cluster.settings, "catalogue": NOWHERE, "pool_timeout": "1s"})
    async with await Router.open(settings, service="test-gateway", workloads=GATEWAY_WORKLOADS) as router:
        with pytest.raises(RowcallError) as refused:
            await router.bounds.since(0)
    assert reason_name(refused.value.reason) == "CATALOGUE_UNAVAILABLE"
