"""What a tenant may spend, as its callers see it: let in until it is booked that it is spent, and what was let in goes on."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import grpc
import pytest
from google.rpc.error_details_pb2 import QuotaFailure

from rowcall.errors import status_of
from rowcall.probe.v1.probe_pb2 import EchoRequest, EchoResponse
from rowcall.probe.v1.probe_pb2_grpc import ProbeServiceStub
from rowcall.v1.admission_service_pb2 import Bound, BoundTarget, Budget, BudgetPeriod, SetBoundRequest
from rowcall.v1.admission_service_pb2_grpc import AdmissionServiceStub
from rowcall_worker import telemetry
from rowcall_worker.serving.context import AsyncJobContext
from tests.fix_gateway import Gateways, info_of, refused, retry_delay_of, tenant, trailer
from tests.fix_worker import Workers, serve
from tests.support.waiting import until


class Client:
    """A gateway, and calls that cost a euro each."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.admission, self.probe = AdmissionServiceStub(channel), ProbeServiceStub(channel)
        self.answered = 0
        """Calls that came in."""

    async def allow(self, amount: str, name: str = "tenants/-") -> None:
        budget = Budget(amount=amount, currency="EUR", period=BudgetPeriod.BUDGET_PERIOD_MONTH)
        bound = Bound(target=BoundTarget(tenant=name), budget=budget)
        await self.admission.SetBound(SetBoundRequest(bound=bound), timeout=20)

    async def call(self, name: str = "acme") -> EchoResponse:
        answer: EchoResponse = await self.probe.Echo(EchoRequest(), timeout=20, metadata=tenant(name))
        self.answered += 1
        return answer

    async def is_refused(self, name: str = "acme") -> bool:
        try:
            await self.call(name)
        except grpc.aio.AioRpcError as error:
            return info_of(error).reason == "BUDGET_SPENT"
        return False


@pytest.fixture
async def client(gateways: Gateways) -> Client:
    return Client(await gateways.channel(await gateways.start()))


async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
    with telemetry.provider_call("maps") as call:
        call.cost(1, "EUR")
    return EchoResponse()


async def test_who_has_spent_its_budget_is_let_in_no_more_and_others_are(client: Client, workers: Workers) -> None:
    await workers.start(serve(echo=echo))
    await client.allow("3")
    for _ in range(3):
        await client.call()
    await until(client.is_refused)
    error = await refused(client.call())
    info = info_of(error)
    assert (error.code(), info.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "BUDGET_SPENT")
    assert info.metadata["origin"] == "GATEWAY"
    assert {key: info.metadata[key] for key in ("bound", "limit", "currency", "period")} == {
        "bound": "tenants/acme", "limit": "3", "currency": "EUR", "period": "month",
    }  # fmt: skip
    assert 3 <= int(info.metadata["spent"]) <= client.answered, "of all that came in until it was seen"
    delay = retry_delay_of(error)
    assert delay is not None
    assert timedelta(0) < delay <= timedelta(days=31, seconds=2)
    assert trailer(error, "grpc-retry-pushback-ms") == "-1", "gRPC's own retries would hold it until its deadline"
    found = QuotaFailure()
    assert any(detail.Unpack(found) for detail in status_of(error).details)
    assert [violation.subject for violation in found.violations] == ["tenants/acme"]
    await client.call("bolt")
    await client.allow("1000", "tenants/acme")
    await until(lambda: _let_in(client))


async def test_a_gateway_that_starts_knows_what_was_spent_before_it_lets_the_first_in(
    client: Client, gateways: Gateways, workers: Workers
) -> None:
    await workers.start(serve(echo=echo))
    await client.call()
    await client.allow("1")
    await until(client.is_refused)
    other = Client(await gateways.channel(await gateways.start()))
    await other.call("bolt")
    await until(lambda: other.is_refused("acme"), seconds=5)
    for _ in range(3):
        assert await other.is_refused()


async def test_what_was_let_in_goes_on_when_the_budget_is_spent(client: Client, workers: Workers) -> None:
    """Its attempts too, however many."""
    go_on = asyncio.Event()

    async def slow(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        with telemetry.provider_call("maps") as call:
            call.cost(1, "EUR")
        await telemetry.flush()
        await go_on.wait()
        if context.attempt == 1:
            context.retry(timedelta(0))
        return EchoResponse(attempt=context.attempt)

    await workers.start(serve(echo=slow))
    await client.allow("1")
    running = asyncio.get_running_loop().create_task(client.call())
    # Its own answer comes later: what it has spent is booked while it runs.
    await until(lambda: _is_spent(client))
    go_on.set()
    assert (await running).attempt == 2
    assert await client.is_refused()


async def _let_in(client: Client) -> bool:
    return not await client.is_refused()


async def _is_spent(client: Client) -> bool:
    """Whether a call is refused, without waiting for the job of one that is not."""
    try:
        await client.probe.Echo(EchoRequest(), timeout=0.5, metadata=tenant("acme"))
    except grpc.aio.AioRpcError as error:
        return error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    return False
