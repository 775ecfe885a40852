"""AdmissionService: bounds set, shown and taken away, as admins and others see them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from rowcall.v1.admission_service_pb2 import (
    Bound,
    BoundTarget,
    Budget,
    BudgetPeriod,
    DeleteBoundRequest,
    GetBoundRequest,
    ListBoundsRequest,
    SetBoundRequest,
)
from rowcall.v1.admission_service_pb2_grpc import AdmissionServiceStub
from tests.fix_gateway import Gateways, info_of, refused, violations_of
from tests.support.tokens import TokenIssuer

ACME = BoundTarget(tenant="tenants/acme")
DOCUMENTS = BoundTarget(queue="documents")
MONTH = BudgetPeriod.BUDGET_PERIOD_MONTH
MONTHLY = Budget(amount="250.5", currency="EUR", period=MONTH)


class Client:
    """A gateway's AdmissionService."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.stub = AdmissionServiceStub(channel)

    async def set(self, bound: Bound, *, actor: str = "root") -> Bound:
        request = SetBoundRequest(bound=bound)
        return (await self.stub.SetBound(request, timeout=20, metadata=(("rowcall-actor", actor),))).bound

    async def list(self, metadata: tuple[tuple[str, str], ...] = ()) -> list[Bound]:
        return list((await self.stub.ListBounds(ListBoundsRequest(), timeout=20, metadata=metadata)).bounds)


@pytest.fixture
async def client(gateways: Gateways) -> Client:
    return Client(await gateways.channel(await gateways.start()))


async def test_a_bound_is_set_shown_and_taken_away(client: Client) -> None:
    assert await client.list() == []
    wanted = Bound(target=ACME, rate=2.5, in_flight=0, waiters=7, backlog=10**10, note="they flood", budget=MONTHLY)
    made = await client.set(wanted, actor="ann")
    assert (made.actor, made.update_time.seconds > 0) == ("ann", True)
    made.ClearField("actor")
    made.ClearField("update_time")
    assert made == wanted
    queue = await client.set(Bound(target=DOCUMENTS, oldest_age=Duration(seconds=90)))
    assert queue.oldest_age.ToTimedelta() == timedelta(seconds=90)
    assert [bound.target for bound in await client.list()] == [DOCUMENTS, ACME], "by tenant, queue and method"
    shown = await client.stub.GetBound(GetBoundRequest(target=ACME), timeout=20)
    assert shown.bound.rate == 2.5

    await client.set(Bound(target=ACME, in_flight=5))
    shown = await client.stub.GetBound(GetBoundRequest(target=ACME), timeout=20)
    assert (shown.bound.HasField("rate"), shown.bound.in_flight) == (False, 5), "it is set as a whole"

    for _ in range(2):
        await client.stub.DeleteBound(DeleteBoundRequest(target=ACME), timeout=20)
    assert [bound.target for bound in await client.list()] == [DOCUMENTS]
    error = await refused(client.stub.GetBound(GetBoundRequest(target=ACME), timeout=20))
    assert (error.code(), info_of(error).reason) == (grpc.StatusCode.NOT_FOUND, "NOT_KNOWN")


@pytest.mark.parametrize(
    ("bound", "field", "rule"),
    [
        (Bound(target=ACME), "bound", "bound.something"),
        (Bound(target=BoundTarget(), rate=1), "bound.target", "bound_target.one_or_two"),
        (
            Bound(target=BoundTarget(tenant="tenants/a", queue="q", method="a.B/C"), rate=1),
            "bound.target",
            "bound_target.one_or_two",
        ),
        (Bound(target=BoundTarget(method="a.B/C"), backlog=1), "bound", "bound.backlog_of_no_method"),
        (Bound(target=ACME, oldest_age=Duration(seconds=1)), "bound", "bound.oldest_age_of_a_queue"),
        (Bound(target=DOCUMENTS, oldest_age=Duration(seconds=0)), "bound.oldest_age", "duration.gte_lte"),
        (Bound(target=DOCUMENTS, budget=MONTHLY), "bound", "bound.budget_of_a_tenant"),
        (Bound(target=BoundTarget(tenant="tenants/a", queue="q"), budget=MONTHLY), "bound", "bound.budget_of_a_tenant"),
        (
            Bound(target=ACME, budget=Budget(amount="-1", currency="EUR", period=MONTH)),
            "bound.budget.amount",
            "string.pattern",
        ),
        (
            Bound(target=ACME, budget=Budget(amount="1e3", currency="EUR", period=MONTH)),
            "bound.budget.amount",
            "string.pattern",
        ),
        (
            Bound(target=ACME, budget=Budget(amount="1", currency="eur", period=MONTH)),
            "bound.budget.currency",
            "string.pattern",
        ),
        (Bound(target=ACME, budget=Budget(amount="1", currency="EUR")), "bound.budget.period", "enum.not_in"),
        (Bound(target=ACME, budget=Budget(amount="1", currency="XYZ", period=MONTH)), "bound.budget.currency", ""),
        (Bound(target=ACME, rate=-1), "bound.rate", "double.gte_lte"),
        (Bound(target=ACME, rate=float("nan")), "bound.rate", "double.gte_lte"),
        (Bound(target=ACME, in_flight=-1), "bound.in_flight", "int32.gte"),
        (Bound(target=BoundTarget(tenant="acme"), rate=1), "bound.target.tenant", "string.pattern"),
        (Bound(target=BoundTarget(method="no method"), rate=1), "bound.target.method", "string.pattern"),
    ],
)
async def test_a_bound_that_makes_no_sense_is_refused(client: Client, bound: Bound, field: str, rule: str) -> None:
    error = await refused(client.set(bound))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert violations_of(error) == {field: rule}
    assert await client.list() == []


async def test_who_is_no_admin_sees_what_its_own_calls_are_let_in_by_and_sets_nothing(
    gateways: Gateways, tmp_path: Path
) -> None:
    issuer = TokenIssuer()
    gateway = await gateways.start(identity="jwt", issuers=issuer.write(tmp_path))
    client = Client(await gateways.channel(gateway))
    admin = issuer.metadata(roles=["admin"])
    targets = [ACME, DOCUMENTS, BoundTarget(tenant="tenants/-", queue="q"), BoundTarget(tenant="tenants/bolt")]
    for target in targets:
        request = SetBoundRequest(bound=Bound(target=target, rate=5))
        await client.stub.SetBound(request, timeout=20, metadata=admin)
    assert len(await client.list(admin)) == 4
    for role in ("operator", "viewer"):
        seen = await client.list(issuer.metadata(tenant="acme", roles=[role]))
        assert [bound.target for bound in seen] == [DOCUMENTS, targets[2], ACME]
    for call in (
        client.stub.SetBound(SetBoundRequest(bound=Bound(target=ACME, rate=6)), timeout=20, metadata=operator(issuer)),
        client.stub.DeleteBound(DeleteBoundRequest(target=ACME), timeout=20, metadata=operator(issuer)),
        client.stub.GetBound(GetBoundRequest(target=ACME), timeout=20, metadata=operator(issuer)),
    ):
        assert (await refused(call)).code() is grpc.StatusCode.PERMISSION_DENIED
    error = await refused(client.list(issuer.metadata(tenant="acme")))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED, "callers are told when they are refused"


def operator(issuer: TokenIssuer) -> tuple[tuple[str, str], ...]:
    return issuer.metadata(tenant="acme", roles=["operator"])
