"""Where tenants live: placement, moves, and what becomes of it while the catalogue or a shard is away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from time import monotonic
from typing import Any
from uuid import UUID

import psycopg
import pytest
from structlog.testing import capture_logs
from uuid_utils.compat import uuid7

from rowcall.catalogue.model import Policy
from rowcall.errors import RowcallError
from rowcall.queue.model import Submission, SubmitOutcome, Submitted
from rowcall.queue.postgres.store import PostgresJobStore
from rowcall.settings import ClusterSettings
from rowcall.sharding import GATEWAY_WORKLOADS, Route, Router, Shard, Workload
from rowcall.sharding.model import RouteState
from rowcall.v1.error_reason_pb2 import ErrorReason
from tests.fix_cluster import Cluster
from tests.support.gate import Gate
from tests.support.moving import catalogue_routes, move, set_catalogue, set_route, shard_routes
from tests.support.waiting import until

PATIENT = "30s"
"""For many new tenants at once, on a machine that is busy."""
NOWHERE = "postgresql://postgres@127.0.0.1:1/nothing"
OTHER = {"a": "b", "b": "a"}

Opener = Callable[..., Awaitable[Router]]


@pytest.fixture
async def open_router(cluster: Cluster) -> AsyncIterator[Opener]:
    """Opens routers over the cluster as gateways do, with settings of the test's own; closed after it."""
    async with AsyncExitStack() as stack:

        async def open_one(**changed: Any) -> Router:
            values = {**cluster.settings, "pool_timeout": "2s", **changed}
            router = await Router.open(
                ClusterSettings.model_validate(values), service="test-gateway", workloads=GATEWAY_WORKLOADS
            )
            return await stack.enter_async_context(router)

        yield open_one


@pytest.fixture
async def catalogue_gate(cluster: Cluster) -> AsyncIterator[Gate]:
    async with Gate(cluster.service_catalogue) as gate:
        yield gate


def wrong_shard() -> RowcallError:
    return RowcallError(ErrorReason.ERROR_REASON_WRONG_SHARD, "not here")


def jobs_on(cluster: Cluster, shard: str) -> list[tuple[str, UUID]]:
    with psycopg.connect(cluster.shards[shard]) as connection:
        return connection.execute("select tenant, job_id from rowcall.job").fetchall()


class Caller:
    """A call that asks the shard, as a submit does, whether the tenant lives there."""

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.tried: list[str] = []

    async def __call__(self, shard: Shard) -> str:
        self.tried.append(shard.name)
        async with shard.pool(Workload.READ).connection() as connection:
            cursor = await connection.execute("select state from rowcall.tenant_route(%s)", [self.tenant])
            if await cursor.fetchone() != (1,):
                raise wrong_shard()
        return shard.name


async def test_two_gateways_that_meet_the_same_new_tenants_agree(cluster: Cluster, open_router: Opener) -> None:
    routers = [await open_router(pool_timeout=PATIENT), await open_router(pool_timeout=PATIENT)]
    tenants = [f"tenant-{number}" for number in range(50)]
    routes = await asyncio.gather(*(router.route(tenant) for tenant in tenants for router in routers))
    assert routes[0::2] == routes[1::2]
    assert catalogue_routes(cluster) == {route.tenant: route for route in routes}
    # Every tenant lives on exactly one shard, and neither shard has them all.
    living = {shard: set(shard_routes(cluster, shard)) for shard in cluster.shards}
    assert living["a"] | living["b"] == set(tenants)
    assert not living["a"] & living["b"]
    assert min(len(living["a"]), len(living["b"])) > 10
    assert all(route.tenant in living[route.shard] for route in routes)


async def test_gateways_with_different_weights_agree_too(cluster: Cluster, open_router: Opener) -> None:
    routers = [await open_router(placement={each: 0}, pool_timeout=PATIENT) for each in ("a", "b")]
    tenants = [f"tenant-{number}" for number in range(20)]
    routes = await asyncio.gather(*(router.route(tenant) for tenant in tenants for router in routers))
    assert routes[0::2] == routes[1::2]
    assert not set(shard_routes(cluster, "a")) & set(shard_routes(cluster, "b"))


async def test_a_shard_of_weight_0_keeps_its_tenants_and_gets_no_new_ones(
    cluster: Cluster, open_router: Opener
) -> None:
    set_catalogue(cluster, Route("old", "b", 1))
    router = await open_router(placement={"b": 0})
    assert (await router.route("old")).shard == "b"
    assert {(await router.route(f"new-{number}")).shard for number in range(20)} == {"a"}


async def test_a_known_tenant_is_served_while_the_catalogue_is_down(
    cluster: Cluster, catalogue_gate: Gate, open_router: Opener
) -> None:
    router = await open_router(catalogue=catalogue_gate.dsn, route_ttl="0s")  # old at once: refreshed at each look
    route = await router.route("acme")
    await catalogue_gate.shut()
    with capture_logs() as logs:
        assert router.route_cached("acme") == route
        await until(lambda: any("not refreshed" in line["event"] for line in logs))
    assert router.route_cached("acme") == route
    assert await router.route("acme") == route
    with pytest.raises(RowcallError, match="no shard has tenant 'new'"):
        await router.route("new")
    # Back again, it is looked up in the background: a move is noticed without anybody being refused.
    moved = move(cluster, route, OTHER[route.shard])
    await catalogue_gate.open()
    await until(lambda: router.route_cached("acme") == moved)


async def test_a_gateway_that_starts_in_the_outage_finds_known_tenants_on_the_shards(
    cluster: Cluster, open_router: Opener
) -> None:
    before = await open_router()
    acme = await before.route("acme")
    gone = move(cluster, move(cluster, await before.route("moved"), "b"), "a")

    router = await open_router(catalogue=NOWHERE)
    assert await router.route("acme") == acme
    assert await router.route("moved") == gone
    with pytest.raises(RowcallError, match="no shard has tenant 'nobody'") as refusal:
        await router.route("nobody")
    assert refusal.value.reason == ErrorReason.ERROR_REASON_CATALOGUE_UNAVAILABLE
    assert refusal.value.retry_after is not None
    assert "nobody" not in catalogue_routes(cluster)


async def test_of_two_shards_that_both_claim_a_tenant_the_later_epoch_wins(
    cluster: Cluster, open_router: Opener
) -> None:
    set_route(cluster, "a", "acme", 3, RouteState.ACTIVE)
    set_route(cluster, "b", "acme", 2, RouteState.ACTIVE)
    router = await open_router(catalogue=NOWHERE)
    assert await router.route("acme") == Route("acme", "a", 3)


async def test_nothing_is_guessed_while_catalogue_and_a_shard_are_down(cluster: Cluster, open_router: Opener) -> None:
    set_route(cluster, "a", "acme", 1, RouteState.ACTIVE)
    router = await open_router(catalogue=NOWHERE, shards={**cluster.service_shards, "b": f"{NOWHERE}_either"})
    with pytest.raises(RowcallError, match="neither can shard 'b'") as refusal:
        await router.route("acme")
    assert refusal.value.reason == ErrorReason.ERROR_REASON_CATALOGUE_UNAVAILABLE
    assert refusal.value.retry_after is not None


async def test_a_frozen_catalogue_delays_a_lookup_by_no_more_than_the_timeout(
    cluster: Cluster, catalogue_gate: Gate, open_router: Opener
) -> None:
    set_route(cluster, "b", "elsewhere", 1, RouteState.ACTIVE)
    router = await open_router(catalogue=catalogue_gate.dsn, pool_timeout="500ms")
    acme = await router.route("acme")
    catalogue_gate.freeze()
    known = asyncio.create_task(router.route("acme"))
    for _ in range(5):
        await asyncio.sleep(0)
    assert known.done(), "it asks for what it knows"
    assert known.result() == acme
    began = monotonic()
    assert (await router.route("elsewhere")).shard == "b"
    assert monotonic() - began < 2
    # Nor does it take its connections with it: thawed, it answers.
    await catalogue_gate.open()
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(RowcallError):
                await router.route("fresh")
                break


async def test_a_stale_router_is_refused_refreshes_and_succeeds(cluster: Cluster, open_router: Opener) -> None:
    router = await open_router()
    route = await router.route("acme")
    moved = move(cluster, route, OTHER[route.shard])
    assert router.route_cached("acme") == route
    call = Caller("acme")
    assert await router.call_on_shard("acme", call) == moved.shard
    assert call.tried == [route.shard, moved.shard]
    assert router.route_cached("acme") == moved


async def test_what_a_stale_router_submits_is_written_on_the_new_shard_alone(
    cluster: Cluster, open_router: Opener
) -> None:
    router = await open_router()
    route = await router.route("acme")
    moved = move(cluster, route, OTHER[route.shard])
    job_id = uuid7()
    outcomes = []

    async def submit(shard: Shard) -> None:
        store = PostgresJobStore(shard.pool(Workload.SUBMIT), shard.pool(Workload.READ), shard=shard.name)
        ids = await store.method_ids("rowcall.probe.v1.ProbeService/Echo", Policy())
        [answer] = await store.submit([Submission("acme", job_id, ids, lane=3, request=b"")])
        assert isinstance(answer, Submitted)
        outcomes.append(answer.outcome)
        if answer.outcome is SubmitOutcome.WRONG_SHARD:
            raise wrong_shard()

    await router.call_on_shard("acme", submit)
    assert outcomes == [SubmitOutcome.WRONG_SHARD, SubmitOutcome.CREATED]
    rows = {shard: jobs_on(cluster, shard) for shard in cluster.shards}
    assert rows == {route.shard: [], moved.shard: [("acme", job_id)]}


async def test_another_shard_that_is_down_does_not_keep_a_stale_router_from_the_new_one(
    cluster: Cluster, open_router: Opener
) -> None:
    router = await open_router(shards={**cluster.service_shards, "c": NOWHERE}, placement={"c": 0})
    route = await router.route("acme")
    moved = move(cluster, route, OTHER[route.shard])
    assert await router.call_on_shard("acme", Caller("acme")) == moved.shard


async def test_a_stale_router_finds_a_moved_tenant_without_the_catalogue(
    cluster: Cluster, catalogue_gate: Gate, open_router: Opener
) -> None:
    router = await open_router(catalogue=catalogue_gate.dsn)
    route = await router.route("acme")
    moved = move(cluster, route, OTHER[route.shard])
    await catalogue_gate.shut()
    assert await router.call_on_shard("acme", Caller("acme")) == moved.shard


async def test_the_shards_are_believed_over_a_catalogue_that_is_behind(cluster: Cluster, open_router: Opener) -> None:
    router = await open_router()
    route = await router.route("acme")
    moved = move(cluster, route, OTHER[route.shard])
    set_catalogue(cluster, route)  # restored from a backup
    call = Caller("acme")
    assert await router.call_on_shard("acme", call) == moved.shard
    assert call.tried == [route.shard, moved.shard]


async def test_an_old_answer_of_the_catalogue_does_not_undo_what_is_known(
    cluster: Cluster, open_router: Opener
) -> None:
    router = await open_router(route_ttl="0s")
    route = await router.route("acme")
    moved = move(cluster, route, OTHER[route.shard])
    await router.call_on_shard("acme", Caller("acme"))
    set_catalogue(cluster, route)
    set_catalogue(cluster, Route("marker", "a", 1))
    await router.route("marker")
    set_catalogue(cluster, Route("marker", "b", 2))
    # The marker's change shows that refreshes, which go by in one statement, took place since.
    await until(lambda: [router.route_cached("acme"), router.route_cached("marker")][1] == Route("marker", "b", 2))
    assert router.route_cached("acme") == moved


async def test_invalidate_keeps_a_later_epoch(cluster: Cluster, open_router: Opener) -> None:
    router = await open_router()
    route = await router.route("acme")
    moved = move(cluster, route, OTHER[route.shard])
    router.invalidate("acme", route.epoch)
    assert router.route_cached("acme") is None
    assert await router.route("acme") == moved
    router.invalidate("acme", route.epoch)  # somebody who was refused earlier and is late
    assert router.route_cached("acme") == moved


async def test_a_tenant_fenced_for_a_moment_is_waited_for(cluster: Cluster, open_router: Opener) -> None:
    router = await open_router()
    route = await router.route("acme")
    set_route(cluster, route.shard, "acme", route.epoch, RouteState.FENCED)
    call = Caller("acme")

    async def give_up_the_move() -> None:
        await until(lambda: len(call.tried) == 2)
        await asyncio.to_thread(set_route, cluster, route.shard, "acme", route.epoch, RouteState.ACTIVE)

    shard, _ = await asyncio.gather(router.call_on_shard("acme", call), give_up_the_move())
    assert shard == route.shard


async def test_a_tenant_fenced_for_long_is_refused_with_a_time_to_come_back(
    cluster: Cluster, open_router: Opener
) -> None:
    router = await open_router()
    route = await router.route("acme")
    set_route(cluster, route.shard, "acme", route.epoch, RouteState.FENCED)
    call = Caller("acme")
    with pytest.raises(RowcallError) as refusal:
        await router.call_on_shard("acme", call)
    assert refusal.value.reason == ErrorReason.ERROR_REASON_WRONG_SHARD
    assert refusal.value.retry_after is not None
    assert 2 < len(call.tried) < 10


async def test_errors_other_than_wrong_shard_are_not_tried_again(open_router: Opener) -> None:
    router = await open_router()
    tried = []

    async def fail(shard: Shard) -> None:
        tried.append(shard.name)
        raise RowcallError(ErrorReason.ERROR_REASON_COMMIT_UNKNOWN, "who knows")

    with pytest.raises(RowcallError, match="who knows"):
        await router.call_on_shard("acme", fail)
    assert len(tried) == 1


async def test_a_tenant_that_was_placed_and_never_taken_in_is_taken_in(cluster: Cluster, open_router: Opener) -> None:
    set_catalogue(cluster, Route("acme", "b", 1))  # whoever placed it died before the shard heard of it
    router = await open_router()
    assert await router.call_on_shard("acme", Caller("acme")) == "b"
    assert shard_routes(cluster, "b") == {"acme": (1, RouteState.ACTIVE)}


async def test_a_shard_takes_in_nobody_who_is_being_moved_there(cluster: Cluster, open_router: Opener) -> None:
    set_catalogue(cluster, Route("acme", "b", 2))  # the mover's word; its copy of the jobs is still under way
    router = await open_router()
    with pytest.raises(RowcallError) as refusal:
        await router.call_on_shard("acme", Caller("acme"))
    assert refusal.value.reason == ErrorReason.ERROR_REASON_WRONG_SHARD
    assert shard_routes(cluster, "b") == {}


async def test_a_catalogue_that_lost_a_tenant_learns_its_home_again(cluster: Cluster, open_router: Opener) -> None:
    before = await open_router()
    route = await before.route("acme")
    moved = move(cluster, route, OTHER[route.shard])
    with psycopg.connect(cluster.catalogue_dsn) as connection:
        connection.execute("delete from rowcall_catalogue.tenant")
    router = await open_router()
    assert await router.route("acme") == moved
    assert catalogue_routes(cluster) == {"acme": moved}
    # A router that remembers where it lived before gets there as well.
    with psycopg.connect(cluster.catalogue_dsn) as connection:
        connection.execute("delete from rowcall_catalogue.tenant")
    assert await before.call_on_shard("acme", Caller("acme")) == moved.shard
    assert catalogue_routes(cluster) == {"acme": moved}


async def test_a_shard_that_is_not_configured_is_named_with_the_setting(cluster: Cluster, open_router: Opener) -> None:
    set_catalogue(cluster, Route("acme", "c", 1))
    router = await open_router()
    with pytest.raises(RowcallError, match=r"shard 'c'.*ROWCALL_SHARDS \(--shard c=") as refusal:
        await router.call_on_shard("acme", Caller("acme"))
    assert refusal.value.reason == ErrorReason.ERROR_REASON_SHARD_UNAVAILABLE
    assert refusal.value.metadata == {"shard": "c"}


async def test_looking_for_a_tenant_does_not_make_it(cluster: Cluster, open_router: Opener) -> None:
    router = await open_router()
    assert await router.find("acme") is None
    assert catalogue_routes(cluster) == {}
    route = await router.route("acme")
    assert await router.find("acme") == route
    assert await (await open_router()).find("acme") == route


async def test_a_caller_that_goes_away_does_not_end_the_lookup_of_the_others(
    cluster: Cluster, catalogue_gate: Gate, open_router: Opener
) -> None:
    router = await open_router(catalogue=catalogue_gate.dsn)
    await router.route("warm")
    catalogue_gate.freeze()
    first = asyncio.create_task(router.route("acme"))
    await asyncio.sleep(0)
    second = asyncio.create_task(router.route("acme"))
    await asyncio.sleep(0)
    first.cancel()
    await catalogue_gate.open()
    assert (await second).tenant == "acme"
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_a_database_that_is_not_migrated_says_so(
    cluster: Cluster, database: Callable[[], str], open_router: Opener
) -> None:
    router = await open_router(catalogue=database())
    with pytest.raises(RowcallError, match="rowcall migrate") as refusal:
        await router.route("acme")
    assert refusal.value.reason == ErrorReason.ERROR_REASON_SCHEMA_MISMATCH


async def test_the_least_recently_used_route_is_forgotten_first(open_router: Opener) -> None:
    router = await open_router(route_cache=2)
    for tenant in ("one", "two"):
        await router.route(tenant)
    router.route_cached("one")
    await router.route("three")
    assert [router.route_cached(tenant) is not None for tenant in ("one", "two", "three")] == [True, False, True]
