"""A gateway that is killed in the middle of an erasure: what was erased stays so, another one goes on with it, and it is told of once."""

from __future__ import annotations

import asyncio
from collections import Counter

import grpc
import grpc.aio
import psycopg
import pytest

from rowcall.probe.v1.probe_pb2 import RunRequest, RunResponse
from rowcall.probe.v1.probe_pb2_grpc import ProbeServiceStub
from rowcall.v1.audit_service_pb2 import ListAuditEntriesRequest, VerifyAuditChainRequest
from rowcall.v1.audit_service_pb2_grpc import AuditServiceStub
from rowcall.v1.tenant_service_pb2 import EraseTenantRequest, EraseTenantResponse, Erasure, PauseTenantRequest
from rowcall.v1.tenant_service_pb2_grpc import TenantServiceStub
from rowcall_gateway.services.erasures import PART
from tests.fix_cluster import Cluster
from tests.fix_gateway import Bench, Gateways, keyed, refused, tenant
from tests.fix_services import Services
from tests.support.contents import changes, contents, told_of_its_methods
from tests.support.waiting import until

FINISHED = 3 * PART + PART // 2
"""Finished jobs of each tenant, and keys."""
WAITING = 3
ADA = ("rowcall-actor", "ada")

# Longer ago than answers of what was cancelled are kept for.
_FINISHED = """
insert into rowcall.job_history
select (
  jsonb_populate_record(h, jsonb_build_object('job_id', rowcall.uuid_v7(), 'finished_at', h.finished_at - interval '1 hour'))
).*
from rowcall.job_history h, generate_series(2, %s)
"""
_KEYS = """
insert into rowcall.job_key
select (jsonb_populate_record(k, jsonb_build_object('request_id', 'old ' || lpad(n::text, 9, '0')))).*
from rowcall.job_key k, generate_series(2, %s) n
"""


async def fill(channel: grpc.aio.Channel, bench: Bench, cluster: Cluster) -> None:
    """Gives acme and near the same: finished jobs with their keys, jobs that wait, and something that their audit says."""
    probe = ProbeServiceStub(channel)

    async def submit(name: str, key: str) -> None:
        await probe.Run(
            RunRequest(payload=name.encode()), timeout=20, metadata=tenant(name, *keyed(key, ("prefer", "wait=0")))
        )

    for name in ("acme", "near"):
        await submit(name, "old")
    for held in await bench.claim(2):
        await bench.answer(held, RunResponse())
    with psycopg.connect(cluster.shards["a"]) as connection:
        connection.execute(_FINISHED, [FINISHED])
        connection.execute(_KEYS, [FINISHED])
    for name in ("acme", "near"):
        for number in range(WAITING):
            await submit(name, f"new {number}")
        await TenantServiceStub(channel).PauseTenant(
            PauseTenantRequest(name=f"tenants/{name}"), timeout=20, metadata=tenant(name, ADA)
        )


async def erase(channel: grpc.aio.Channel) -> Erasure:
    """Erases acme as `rowcall tenants erase` does, until nothing is left."""
    request = EraseTenantRequest(name="tenants/acme", note="contract ended")
    last: list[EraseTenantResponse] = []

    async def done() -> bool:
        last[:] = [await TenantServiceStub(channel).EraseTenant(request, timeout=20, metadata=tenant("acme", ADA))]
        return last[0].done

    await until(done)
    return last[0].erasure


def kept_of(cluster: Cluster) -> dict[str, int]:
    """How many rows name acme, by table."""
    found: Counter[str] = Counter()
    for (_, table), rows in contents(cluster).items():
        found[table] += sum("acme" in row for row in rows)
    return dict(+found)


@pytest.mark.usefixtures("quick_erasures")
async def test_another_gateway_ends_the_erasure_of_one_that_was_killed_in_the_middle_of_it(
    cluster: Cluster, services: Services, gateways: Gateways, bench: Bench
) -> None:
    with psycopg.connect(cluster.catalogue_dsn) as connection:
        connection.execute("insert into rowcall_catalogue.tenant (tenant, shard) values ('acme', 'a'), ('near', 'a')")
    killed = services.gateway()
    async with grpc.aio.insecure_channel(await asyncio.to_thread(killed.address)) as channel:
        await fill(channel, bench, cluster)
        await until(lambda: told_of_its_methods(cluster))
        before = contents(cluster)
        with (
            psycopg.connect(cluster.shards["a"]) as held,
            psycopg.connect(cluster.shards["a"], autocommit=True) as look,
        ):
            # The statement that is to erase this key, some parts after the first, stands still, and the gateway dies in it.
            key = f"old {PART * 5 // 2:09}"
            held.execute("select from rowcall.job_key where tenant = 'acme' and request_id = %s for update", [key])
            erasing = asyncio.ensure_future(refused(erase(channel)))
            stands = "select from pg_stat_activity where %s = any(pg_blocking_pids(pid))"
            await until(lambda: look.execute(stands, [held.info.backend_pid]).fetchone() is not None)
            await asyncio.to_thread(killed.kill)
            assert (await erasing).code() is grpc.StatusCode.UNAVAILABLE
            [(begun_at, finished_at, so_far)] = look.execute(
                "select begun_at, finished_at, erased from rowcall.erasure where tenant = 'acme'"
            ).fetchall()
    assert finished_at is None
    assert so_far["history"] >= FINISHED - 1
    assert 0 < so_far["keys"] < FINISHED, "the kill was to come in the middle"

    channel = await gateways.channel(await gateways.start())
    receipt = await erase(channel)

    assert (receipt.number, receipt.actor, receipt.note) == (1, "ada", "contract ended")
    assert receipt.begin_time.ToDatetime(begun_at.tzinfo) == begun_at
    # Jobs that waited are cancelled, and then are history; each has a key. A pause is all that the audit says.
    assert {each.kind: each.rows for each in receipt.erased if each.kind != "turns"} == {
        "jobs": WAITING, "history": FINISHED + WAITING, "keys": FINISHED + WAITING, "audit": 1,
    }  # fmt: skip
    assert await erase(channel) == receipt, "whoever asks again"

    audit = AuditServiceStub(channel)
    listed = await audit.ListAuditEntries(ListAuditEntriesRequest(chain="system"), timeout=20, metadata=tenant("acme"))
    assert sorted((each.action, each.actor, each.target) for each in listed.entries) == [
        ("tenant.erase", "ada", "tenants/acme"), ("tenant.erased", "ada", "tenants/acme"),
    ]  # fmt: skip
    for chain in ("tenants/acme", "system"):
        verified = await audit.VerifyAuditChain(
            VerifyAuditChainRequest(chain=chain, database="a"), timeout=20, metadata=tenant("acme")
        )
        assert list(verified.faults) == []

    # The name, on the shard and in the catalogue; the receipt; the two entries of the system, and the chain.
    assert kept_of(cluster) == {"tenant": 1, "tenant_route": 1, "erasure": 1, "audit": 3}
    with psycopg.connect(cluster.shards["a"]) as connection:
        actions = connection.execute("select distinct action from rowcall.audit where tenant = 'acme'").fetchall()
    assert actions == [("audit.erase",)]
    assert [line for line in changes(before, contents(cluster)) if "acme" not in line] == []
