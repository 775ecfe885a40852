"""ActionService.GetSpend, as a gateway's callers see it: what was recorded, in sums; each tenant's own, and all of them for admins."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc.aio
import psycopg
import pytest

from rowcall.probe.v1.probe_pb2 import EchoRequest, EchoResponse
from rowcall.security.roles import ADMIN, CALLER, OPERATOR, VIEWER
from rowcall.v1.action_service_pb2 import GetSpendRequest, GetSpendResponse, SpendDimension
from rowcall.v1.action_service_pb2_grpc import ActionServiceStub
from rowcall_worker import telemetry
from rowcall_worker.serving.context import AsyncJobContext
from tests.fix_cluster import Cluster
from tests.fix_gateway import Gateways, Metadata, info_of, refused
from tests.fix_worker import Call, Calls, Job, Workers, serve
from tests.support.tokens import TokenIssuer

TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"
ECHO = "rowcall.probe.v1.ProbeService/Echo"
TENANT, DAY, METHOD, PROVIDER, MODEL = (
    SpendDimension.SPEND_DIMENSION_TENANT,
    SpendDimension.SPEND_DIMENSION_DAY,
    SpendDimension.SPEND_DIMENSION_METHOD,
    SpendDimension.SPEND_DIMENSION_PROVIDER,
    SpendDimension.SPEND_DIMENSION_MODEL,
)
# Of each job, a call of one model in euros, of another in dollars, and one whose cost nobody knows.
EUROS, DOLLARS = ("gpt-7", "0.0100", "EUR"), ("claude-9", "0.25", "USD")


class Client:
    """A gateway that knows its callers."""

    def __init__(self, channel: grpc.aio.Channel, issuer: TokenIssuer) -> None:
        self.stub = ActionServiceStub(channel)
        self._issuer = issuer

    def who(self, *roles: str, tenant: str | None = "acme") -> Metadata:
        return tuple(self._issuer.metadata(sub="olga", tenant=tenant, roles=list(roles)))

    async def ask(self, who: Metadata | None = None, **asked: Any) -> GetSpendResponse:
        answer: GetSpendResponse = await self.stub.GetSpend(
            GetSpendRequest(**asked), timeout=20, metadata=who or self.who(VIEWER)
        )
        return answer

    async def reason(self, who: Metadata | None = None, **asked: Any) -> str:
        return info_of(await refused(self.ask(who, **asked))).reason


@pytest.fixture
async def client(gateways: Gateways, tmp_path: Path) -> Client:
    issuer = TokenIssuer()
    gateway = await gateways.start(identity="jwt", issuers=issuer.write(tmp_path))
    return Client(await gateways.channel(gateway), issuer)


async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
    for model, cost, currency in (EUROS, DOLLARS):
        async with telemetry.model_call("oracle", model) as call:
            call.tokens(input=100, output=7)
            call.cost(cost, currency)
    with telemetry.provider_call("maps"):
        pass
    return EchoResponse()


@pytest.fixture
async def jobs(calls: Calls, workers: Workers) -> list[Job]:
    """Two jobs of acme's, one of them in a trace, and one of bolt's in the same; all done."""
    await workers.start(serve(echo=echo))
    jobs = [
        await calls.submit("Echo", EchoRequest(), call=call)
        for call in (Call(), Call(traceparent=TRACEPARENT), Call("bolt", traceparent=TRACEPARENT))
    ]
    await calls.all_done(jobs)
    return jobs


def shown(answer: GetSpendResponse, *fields: str) -> list[tuple[object, ...]]:
    return [tuple(getattr(each, field) for field in fields) for each in answer.sums]


async def test_a_tenants_spend_is_summed_by_currency_and_by_what_is_asked_for(client: Client, jobs: list[Job]) -> None:
    answer = await client.ask()
    assert shown(answer, "currency", "calls", "input_tokens", "output_tokens", "cost") == [
        ("", 2, 0, 0, ""),
        ("EUR", 2, 200, 14, "0.02"),
        ("USD", 2, 200, 14, "0.5"),
    ]
    answer = await client.ask(group_by=[DAY, METHOD, PROVIDER, MODEL])
    today = datetime.now(UTC).date().isoformat()
    assert shown(answer, "tenant", "day", "method", "provider", "model", "cost") == [
        ("", today, ECHO, "maps", "", ""),
        ("", today, ECHO, "oracle", "gpt-7", "0.02"),
        ("", today, ECHO, "oracle", "claude-9", "0.5"),
    ]
    assert not answer.more


@pytest.mark.parametrize(
    ("asked", "costs"),
    [
        ({"model": "gpt-7"}, ["0.02"]),
        ({"provider": "maps"}, [""]),
        ({"method": ECHO, "model": "claude-9"}, ["0.5"]),
        ({"method": "rowcall.probe.v1.ProbeService/Nothing"}, []),
        ({"first_day": "2020-01-01", "last_day": "2020-12-31"}, []),
        ({"first_day": "2020-01-01", "model": "gpt-7"}, ["0.02"]),
        ({"trace_id": TRACE}, ["", "0.01", "0.25"]),
        ({"trace_id": "1" * 32}, []),
    ],
)
async def test_it_is_narrowed_by_what_is_named(
    client: Client, jobs: list[Job], asked: dict[str, Any], costs: list[str]
) -> None:
    assert [each.cost for each in (await client.ask(**asked)).sums] == costs


async def test_an_operation_has_a_spend_of_its_own_also_when_it_is_deleted(
    client: Client, calls: Calls, jobs: list[Job]
) -> None:
    expected = [("gpt-7", "0.01", "EUR"), ("claude-9", "0.25", "USD")]
    for _ in range(2):
        answer = await client.ask(operation=jobs[0].name, group_by=[MODEL], provider="oracle")
        assert shown(answer, "model", "cost", "currency") == expected
        await calls.store(jobs[0].shard).delete("acme", jobs[0].job_id)
    assert [each.cost for each in (await client.ask(model="gpt-7")).sums] == ["0.02"]


async def test_admins_see_all_tenants_on_all_shards(client: Client, jobs: list[Job]) -> None:
    admin = client.who(ADMIN, tenant=None)
    answer = await client.ask(admin, parent="tenants/-", group_by=[TENANT], model="gpt-7")
    assert sorted(shown(answer, "tenant", "cost")) == [("tenants/acme", "0.02"), ("tenants/bolt", "0.01")]
    answer = await client.ask(admin, parent="tenants/-", trace_id=TRACE, model="gpt-7")
    assert shown(answer, "calls", "cost") == [(2, "0.02")]
    assert [each.cost for each in (await client.ask(admin, parent="tenants/bolt", model="gpt-7")).sums] == ["0.01"]
    assert [each.cost for each in (await client.ask(admin, operation=jobs[2].name, model="gpt-7")).sums] == ["0.01"]


async def test_others_see_their_own_and_no_more(client: Client, jobs: list[Job]) -> None:
    operator = client.who(OPERATOR)
    assert await client.reason(operator, parent="tenants/-") == "MISSING_ROLE"
    assert await client.reason(operator, parent="tenants/bolt") == "NOT_KNOWN"
    assert await client.reason(operator, operation=jobs[2].name) == "JOB_NOT_FOUND"
    assert await client.reason(client.who(CALLER)) == "MISSING_ROLE"
    assert await client.reason(client.who(ADMIN, tenant=None)) == "TENANT_REQUIRED"
    assert (await client.ask(client.who(VIEWER, tenant="nobody"))).sums == []


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"first_day": "2031-02-30"}, "INVALID_FILTER"),
        ({"first_day": "2031-05-05", "last_day": "2031-05-04"}, "INVALID_FILTER"),
        ({"first_day": "yesterday"}, "INVALID_REQUEST"),
        ({"method": "Echo"}, "INVALID_FILTER"),
        ({"model": "a\0"}, "INVALID_REQUEST"),
        ({"trace_id": "7"}, "INVALID_REQUEST"),
        ({"operation": "seven"}, "INVALID_NAME"),
        ({"parent": "acme"}, "INVALID_NAME"),
        ({"trace_id": TRACE, "last_day": "2031-05-04"}, "INVALID_REQUEST"),
        ({"group_by": [0]}, "INVALID_REQUEST"),
        ({"group_by": [DAY, DAY]}, "INVALID_REQUEST"),
    ],
)
async def test_what_cannot_be_meant_is_refused(client: Client, asked: dict[str, Any], reason: str) -> None:
    assert await client.reason(**asked) == reason


async def test_a_shard_that_does_not_answer_is_named(client: Client, cluster: Cluster, jobs: list[Job]) -> None:
    away = next(shard for shard in cluster.shards if shard != jobs[0].shard)
    async with await psycopg.AsyncConnection.connect(cluster.shards[away]) as connection:
        await connection.execute("lock table rowcall.spend")
        answer = await client.ask(client.who(ADMIN, tenant=None), parent="tenants/-", model="gpt-7")
        assert list(answer.unreachable_shards) == [away]
        assert (await client.ask(model="gpt-7")).unreachable_shards == [], "it is not asked for another shard's tenant"
