"""TenantService: tenants listed and shown, everything of one exported and erased, as admins' clients see it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import grpc
import psycopg
import pytest
from psycopg.types.json import Jsonb

from rowcall.probe.v1.probe_pb2 import EchoRequest, RunRequest, RunResponse
from rowcall.probe.v1.probe_pb2_grpc import ProbeServiceStub
from rowcall.security.roles import ADMIN, PAYLOAD_VIEWER
from rowcall.sharding import Route
from rowcall.v1.audit_service_pb2 import VerifyAuditChainRequest
from rowcall.v1.audit_service_pb2_grpc import AuditServiceStub
from rowcall.v1.job_pb2 import JobState, Withheld
from rowcall.v1.tenant_service_pb2 import (
    EraseTenantRequest,
    EraseTenantResponse,
    ExportedRecord,
    ExportTenantRequest,
    GetTenantRequest,
    ListTenantsRequest,
    PauseTenantRequest,
    ReopenTenantRequest,
    Tenant,
    TenantState,
)
from rowcall.v1.tenant_service_pb2_grpc import TenantServiceStub
from rowcall_gateway.services import exports
from rowcall_gateway.services.erasures import PART
from tests.fix_cluster import Cluster
from tests.fix_gateway import Bench, Gateways, Metadata, info_of, keyed, refused, tenant
from tests.fix_worker import Workers
from tests.support.moving import move
from tests.support.tokens import TokenIssuer
from tests.support.waiting import until

NOW = ("prefer", "wait=0")
ADA = ("rowcall-actor", "ada")
ACME = "tenants/acme"


pytestmark = pytest.mark.usefixtures("quick_erasures")


class Client:
    """A gateway's TenantService, and its probe to submit with."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.stub = TenantServiceStub(channel)
        self.probe = ProbeServiceStub(channel)

    async def get(self, name: str = "acme") -> Tenant:
        request = GetTenantRequest(name=f"tenants/{name}")
        return (await self.stub.GetTenant(request, timeout=20, metadata=tenant(name))).tenant

    async def erase(self, name: str = "acme", *, note: str = "", only_say: bool = False) -> EraseTenantResponse:
        request = EraseTenantRequest(name=f"tenants/{name}", note=note, validate_only=only_say)
        answer: EraseTenantResponse = await self.stub.EraseTenant(request, timeout=20, metadata=tenant(name, ADA))
        return answer

    async def erase_all(self, name: str = "acme") -> EraseTenantResponse:
        last: list[EraseTenantResponse] = []

        async def done() -> bool:
            last[:] = [await self.erase(name, note="contract ended")]
            return last[0].done

        await until(done)
        return last[0]

    async def export(self, name: str = "acme", **fields: bool) -> list[ExportedRecord]:
        records: list[ExportedRecord] = []
        token = ""
        while True:
            request = ExportTenantRequest(name=f"tenants/{name}", page_token=token, **fields)
            answer = await self.stub.ExportTenant(request, timeout=20, metadata=tenant(name, ADA))
            records += answer.records
            token = answer.next_page_token
            if not token:
                return records

    async def echo(self, name: str, payload: bytes, *more: tuple[str, str]) -> None:
        """A job that nobody works on yet."""
        await self.probe.Run(RunRequest(payload=payload), timeout=20, metadata=tenant(name, NOW, *more))


@pytest.fixture
async def client(gateways: Gateways, cluster: Cluster) -> Client:
    """Of a gateway that places acme and near on shard a and bolt on b."""
    with psycopg.connect(cluster.catalogue_dsn) as connection:
        connection.execute(
            "insert into rowcall_catalogue.tenant (tenant, shard) values ('acme', 'a'), ('near', 'a'), ('bolt', 'b')"
        )
    return Client(await gateways.channel(await gateways.start()))


def kinds(records: list[ExportedRecord]) -> dict[str, int]:
    """How many of what."""
    names = [str(record.WhichOneof("record")) for record in records]
    return {name: names.count(name) for name in dict.fromkeys(names)}


def span(name: str) -> dict[str, object]:
    """A span of a tenant's, as an exporter tells it."""
    return {
        "tenant": name, "trace": "0af7651916cd43dd8448eb211c80319c", "span": "f" * 16, "parent": None, "kind": 1, "status": 2,
        "started": 5, "took": 0.25, "name": "GetJob", "message": "OVER", "attributes": {"n": 7},
    }  # fmt: skip


def erased(answer: EraseTenantResponse) -> Mapping[str, int]:
    return {each.kind: each.rows for each in answer.erasure.erased}


def rows_of(cluster: Cluster, name: str) -> dict[str, int]:
    """Rows with a tenant's name, by table, on its shard: every table that has a column of tenants."""
    found = {}
    with psycopg.connect(cluster.shards["a"]) as connection:
        tables = connection.execute(
            "select c.relname from pg_class c join pg_attribute t on t.attrelid = c.oid and t.attname = 'tenant'"
            " where c.relnamespace = 'rowcall'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition"
        ).fetchall()
        for (table,) in tables:
            [count] = connection.execute(f"select count(*) from rowcall.{table} where tenant = %s".encode(), [name])
            found[table] = count[0]
    return found


async def test_a_tenant_is_shown_with_its_shard_and_its_jobs(client: Client) -> None:
    await client.echo("acme", b"1")
    await client.echo("acme", b"2")
    await client.stub.PauseTenant(PauseTenantRequest(name=ACME, note="why"), timeout=20, metadata=tenant("acme", ADA))

    shown = await client.get()

    assert (shown.name, shown.shard, shown.epoch, shown.weight) == (ACME, "a", 1, 1)
    assert shown.state == TenantState.TENANT_STATE_ACTIVE
    assert (shown.pause_actor, shown.pause_note, shown.HasField("pause_time")) == ("ada", "why", True)
    assert (shown.jobs.ready, shown.jobs.running, shown.jobs.capped) == (2, 0, False)
    assert not shown.HasField("erasure")


async def test_tenants_are_listed_by_name_in_pages_and_by_shard(client: Client) -> None:
    await client.echo("bolt", b"x")
    pages = []
    token = ""
    while True:
        answer = await client.stub.ListTenants(ListTenantsRequest(page_size=2, page_token=token), timeout=20)
        pages.append([(each.name, each.shard, each.state) for each in answer.tenants])
        token = answer.next_page_token
        if not token:
            break
    # Those that never called are placed and not taken in.
    unknown, active = TenantState.TENANT_STATE_UNSPECIFIED, TenantState.TENANT_STATE_ACTIVE
    assert pages == [[(ACME, "a", unknown), ("tenants/bolt", "b", active)], [("tenants/near", "a", unknown)]]
    only = await client.stub.ListTenants(ListTenantsRequest(shard="b"), timeout=20)
    assert [each.name for each in only.tenants] == ["tenants/bolt"]
    error = await refused(client.stub.ListTenants(ListTenantsRequest(page_token="!"), timeout=20))
    assert info_of(error).reason == "INVALID_PAGE_TOKEN"


async def test_a_list_says_whose_shard_did_not_answer(client: Client, cluster: Cluster) -> None:
    with psycopg.connect(cluster.catalogue_dsn) as connection:
        connection.execute("insert into rowcall_catalogue.tenant (tenant, shard) values ('far', 'gone')")
    answer = await client.stub.ListTenants(ListTenantsRequest(), timeout=20)
    assert (len(answer.tenants), list(answer.unreachable_shards)) == (4, ["gone"])


async def test_everything_is_exported_and_then_erased_with_a_receipt(
    client: Client, bench: Bench, cluster: Cluster
) -> None:
    for number in range(3):
        await client.echo("acme", b"secret %d" % number, ("idempotency-key", f"k{number}"))
    await client.echo("near", b"theirs")
    first, *running = sorted(
        (each for each in await bench.claim(4) if each.job.tenant == "acme"), key=lambda each: each.job.request
    )
    await bench.answer(first, RunResponse())
    with psycopg.connect(cluster.shards["a"]) as connection:
        connection.execute("select rowcall.record_activity(%s)", [Jsonb([span("acme"), span("near")])])
    said = await client.erase(only_say=True)
    # The gateways' turns come and go by themselves.
    assert {**erased(said), "turns": 0} == {"jobs": 2, "history": 1, "keys": 3, "activity": 1, "turns": 0}
    assert not said.done

    records = await client.export()

    jobs = [record.job for record in records if record.HasField("job")]
    payloads = []
    for job in jobs:
        request = RunRequest()
        assert job.request.Unpack(request)
        payloads.append(request.payload)
    assert payloads == [b"secret 0", b"secret 1", b"secret 2"]
    assert [job.request_id for job in jobs] == ["k0", "k1", "k2"]
    assert jobs[0].state == JobState.JOB_STATE_SUCCEEDED
    assert kinds(records) == {"tenant": 1, "key": 3, "job": 3, "span": 1, "audit": 3}
    [told] = [record.span for record in records if record.HasField("span")]
    assert (told.trace_id, told.span_id, told.parent_span_id) == ("0af7651916cd43dd8448eb211c80319c", "f" * 16, "")
    assert (told.kind, told.status, told.name, told.message) == ("SERVER", "ERROR", "GetJob", "OVER")
    assert (told.start_time.seconds, told.duration.ToTimedelta()) == (5, timedelta(seconds=0.25))
    assert json.loads(told.attributes) == {"n": 7}
    assert {record.audit.action for record in records if record.HasField("audit")} == {"tenant.export"}

    near = rows_of(cluster, "near")
    answer = await client.erase()
    assert not answer.done
    assert (await client.get()).state == TenantState.TENANT_STATE_ERASING
    for each in running:
        await bench.answer(each, RunResponse())
    receipt = (await client.erase_all()).erasure

    left = {table: rows for table, rows in rows_of(cluster, "acme").items() if rows}
    # The name, the receipt, and the chain without what its entries said, but for which they were.
    assert left == {"tenant_route": 1, "erasure": 1, "audit": left["audit"], "audit_seal": left["audit_seal"]}
    with psycopg.connect(cluster.shards["a"]) as connection:
        actions = connection.execute("select distinct action from rowcall.audit where tenant = 'acme'").fetchall()
    assert actions == [("audit.erase",)]
    # Where its turn stands, and what happened today, are told some time later.
    later = {"turn", "tally"}
    assert {table: rows for table, rows in rows_of(cluster, "near").items() if table not in later} == {
        table: rows for table, rows in near.items() if table not in later
    }
    assert (receipt.name, receipt.shard, receipt.number, receipt.actor) == (ACME, "a", 1, "ada")
    assert receipt.HasField("finish_time")
    assert receipt.remaining == ""
    assert {each.kind: each.rows for each in receipt.erased}.items() >= {"history": 3, "keys": 3}.items()
    assert any("backups" in each for each in receipt.kept)
    shown = await client.get()
    assert (shown.state, shown.erasure.erased, shown.HasField("pause_time")) == (
        TenantState.TENANT_STATE_ERASED, receipt.erased, False,
    )  # fmt: skip
    verified = await AuditServiceStub(client.channel).VerifyAuditChain(
        VerifyAuditChainRequest(chain=ACME), timeout=20, metadata=tenant("acme")
    )
    assert list(verified.faults) == []


async def test_an_export_has_no_page_that_clients_do_not_take(client: Client, cluster: Cluster) -> None:
    """What spans say is the handlers', and 500 of them may be 6 MB."""
    await client.echo("acme", b"")
    large = {"attributes": {"text": "x" * 100_000}}
    with psycopg.connect(cluster.shards["a"]) as connection:
        spans = [{**span("acme"), **large, "span": f"{number:016x}"} for number in range(1, 61)]
        connection.execute("select rowcall.record_activity(%s)", [Jsonb(spans)])
    records = await client.export()
    told = [record.span.span_id for record in records if record.HasField("span")]
    assert told == [f"{number:016x}" for number in range(1, 61)]


async def test_calls_of_an_erased_tenant_are_refused_at_every_gateway_until_it_is_opened_again(
    client: Client, gateways: Gateways, workers: Workers
) -> None:
    other = Client(await gateways.channel(await gateways.start()))
    for each in (client, other):
        await each.echo("acme", b"x")
    done = await client.erase_all()

    for each in (client, other):
        error = await refused(each.probe.Run(RunRequest(), timeout=20, metadata=tenant("acme", NOW)))
        assert (error.code(), info_of(error).reason) == (grpc.StatusCode.FAILED_PRECONDITION, "TENANT_ERASED")
        assert info_of(error).metadata["tenant"] == "acme"
        await each.echo("near", b"x")
    assert (await other.erase()).erasure == done.erasure, "the receipt, whoever asks"

    await other.stub.ReopenTenant(ReopenTenantRequest(name=ACME), timeout=20, metadata=tenant("acme", ADA))
    await workers.start()
    for each in (client, other):
        answer = await each.probe.Echo(EchoRequest(payload=b"new"), timeout=20, metadata=tenant("acme"))
        assert answer.payload == b"new"
    error = await refused(
        client.stub.ReopenTenant(ReopenTenantRequest(name=ACME), timeout=20, metadata=tenant("acme", ADA))
    )
    assert (error.code(), info_of(error).reason) == (grpc.StatusCode.FAILED_PRECONDITION, "TENANT_NOT_ERASED")


async def test_whoever_waits_is_told_that_its_job_was_cancelled(client: Client, cluster: Cluster) -> None:
    waiting = asyncio.ensure_future(
        refused(client.probe.Echo(EchoRequest(payload=b"x"), timeout=30, metadata=tenant("acme", *keyed("k"))))
    )
    await until(lambda: rows_of(cluster, "acme")["job"] == 1)
    await client.erase()
    assert (await waiting).code() is grpc.StatusCode.CANCELLED


async def test_another_gateway_goes_on_with_an_erasure(client: Client, gateways: Gateways, cluster: Cluster) -> None:
    await client.echo("acme", b"x")
    with psycopg.connect(cluster.shards["a"]) as connection:
        connection.execute(
            "insert into rowcall.job_key (tenant, method_id, request_id, job_id, fingerprint, expires_at)"
            " select 'acme', m.method_id, n::text, gen_random_uuid(), '', now() from generate_series(1, %s) n,"
            " (select method_id from rowcall.method limit 1) m",
            [PART * 3],
        )
    gateway = await gateways.start()
    first = Client(await gateways.channel(gateway))
    assert not (await first.erase(note="contract ended")).done
    await gateway.stop()

    done = await client.erase_all()

    assert (done.erasure.number, erased(done)["keys"]) == (1, PART * 3)


async def test_what_admins_do_to_the_tenant_that_they_do_not_act_for_is_refused(client: Client) -> None:
    await client.echo("acme", b"x")
    near = tenant("near")
    for call in (
        client.stub.GetTenant(GetTenantRequest(name=ACME), timeout=20, metadata=near),
        client.stub.ExportTenant(ExportTenantRequest(name=ACME), timeout=20, metadata=near),
        client.stub.EraseTenant(EraseTenantRequest(name=ACME), timeout=20, metadata=near),
        client.stub.ReopenTenant(ReopenTenantRequest(name=ACME), timeout=20, metadata=near),
    ):
        error = await refused(call)
        assert (error.code(), info_of(error).reason) == (grpc.StatusCode.NOT_FOUND, "NOT_KNOWN")
    assert (await client.get()).state == TenantState.TENANT_STATE_ACTIVE


async def test_a_tenant_that_moved_is_erased_where_it_lives_now(client: Client, cluster: Cluster) -> None:
    await client.echo("acme", b"x")
    assert (await client.get()).shard == "a"
    move(cluster, Route("acme", "a", 1), "b")
    assert ((await client.get()).shard, (await client.get()).epoch) == ("b", 2)
    assert (await client.erase_all()).erasure.shard == "b"


async def test_an_export_is_for_admins_who_see_payloads_or_leaves_them_out(
    gateways: Gateways, bench: Bench, tmp_path: Path
) -> None:
    issuer = TokenIssuer()
    gateway = await gateways.start(identity="jwt", issuers=issuer.write(tmp_path))
    channel = await gateways.channel(gateway)
    stub = TenantServiceStub(channel)
    await ProbeServiceStub(channel).Run(
        RunRequest(payload=b"secret"), timeout=20, metadata=(*issuer.metadata(tenant="acme", roles=["caller"]), NOW)
    )

    async def export(*roles: str, **fields: bool) -> list[ExportedRecord]:
        caller: Metadata = (*issuer.metadata(tenant="acme", roles=roles), ("rowcall-tenant", "acme"))
        found: list[ExportedRecord] = []
        token = ""
        while True:
            request = ExportTenantRequest(name=ACME, page_token=token, **fields)
            answer = await stub.ExportTenant(request, timeout=20, metadata=caller)
            found += answer.records
            token = answer.next_page_token
            if not token:
                return [each for each in found if each.HasField("job")]

    error = await refused(export(ADMIN))
    assert (error.code(), info_of(error).reason) == (grpc.StatusCode.PERMISSION_DENIED, "MISSING_ROLE")
    assert info_of(error).metadata["roles"] == PAYLOAD_VIEWER
    assert (await refused(export(PAYLOAD_VIEWER))).code() is grpc.StatusCode.PERMISSION_DENIED
    [bare] = await export(ADMIN, without_payloads=True)
    assert not bare.job.HasField("request")
    [whole] = await export(ADMIN, PAYLOAD_VIEWER)
    assert b"secret" in whole.job.request.value
    assert not whole.job.request.Is(Withheld.DESCRIPTOR)


async def test_an_export_goes_on_from_its_token_and_takes_no_other(
    client: Client, gateways: Gateways, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "ROWS", 2)
    for number in range(5):
        await client.echo("acme", b"%d" % number, ("idempotency-key", f"k{number}"))
    await client.echo("near", b"x")
    other = Client(await gateways.channel(await gateways.start()))
    records: list[ExportedRecord] = []
    token = ""
    while True:
        request = ExportTenantRequest(name=ACME, page_token=token)
        answer = await client.stub.ExportTenant(request, timeout=20, metadata=tenant("acme"))
        # A page that was lost on its way is asked for again, anywhere.
        again = await other.stub.ExportTenant(request, timeout=20, metadata=tenant("acme"))
        if not any(record.HasField("audit") for record in answer.records):
            assert (again.records, again.next_page_token) == (answer.records, answer.next_page_token)
        records += answer.records
        token = answer.next_page_token
        if not token:
            break
        for name, fields in (("near", {}), ("acme", {"without_payloads": True})):
            wrong = ExportTenantRequest(name=f"tenants/{name}", page_token=token, **fields)
            error = await refused(client.stub.ExportTenant(wrong, timeout=20, metadata=tenant(name)))
            assert info_of(error).reason == "INVALID_PAGE_TOKEN"
    assert (kinds(records)["key"], kinds(records)["job"]) == (5, 5)
