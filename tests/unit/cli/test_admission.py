"""`rowcall admission`: the requests that are sent, and what is told of the answers."""

from __future__ import annotations

import json

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from rowcall.v1.admission_service_pb2 import (
    Bound,
    BoundTarget,
    Budget,
    BudgetPeriod,
    DeleteBoundResponse,
    ListBoundsResponse,
    SetBoundResponse,
)
from rowcall_cli.errors import ExitCode
from tests.fix_channel import SECONDS, FakeGateway
from tests.fix_commands import Ran

SET_AT = Timestamp(seconds=1_935_668_400)


BOUNDS = [
    Bound(target=BoundTarget(queue="documents"), oldest_age=Duration(seconds=90), note="it is slow"),
    Bound(target=BoundTarget(tenant="tenants/-", method="a.B/C"), rate=0.5),
    Bound(target=BoundTarget(tenant="tenants/acme"), in_flight=0, backlog=7),
]
for _each in BOUNDS:
    _each.actor = "root"
    _each.update_time.CopyFrom(SET_AT)


def test_a_bound_is_set_as_it_was_said(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start(
        *("admission", "set", "--tenant", "acme", "--rate", "2.5", "--in-flight", "0", "--waiters", "7"),
        *("--backlog", "10", "--note", "they flood", "--actor", "ann"),
    )
    call = fake_gateway.take()
    assert (call.method, call.timeout) == ("AdmissionService/SetBound", 30)
    assert call.metadata == {"rowcall-actor": "ann"}, "it is of no tenant"
    target = BoundTarget(tenant="tenants/acme")
    assert call.request.bound == Bound(
        target=target, rate=2.5, in_flight=0, waiters=7, backlog=10, note="they flood"
    ), "and nothing is bounded that was not said"
    call.answer(SetBoundResponse(bound=Bound(target=target, rate=2.5)))
    ran = command.result(SECONDS)
    assert (ran.code, ran.out, ran.err) == (ExitCode.OK, "", "The bound of the tenant acme is set.\n")


def test_a_bound_of_each_tenant_in_a_queue(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("admission", "set", "--each-tenant", "--queue", "q", "--backlog", "5", "--json")
    call = fake_gateway.take()
    target = BoundTarget(tenant="tenants/-", queue="q")
    assert call.request.bound.target == target
    call.answer(SetBoundResponse(bound=Bound(target=target, backlog=10**10)))
    made = json.loads(command.result(SECONDS).out)
    assert (made["target"], made["backlog"]) == ({"tenant": "tenants/-", "queue": "q"}, 10**10)


def test_an_age_is_a_span_of_time(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("admission", "set", "--queue", "q", "--oldest-age", "10m")
    call = fake_gateway.take()
    assert call.request.bound.oldest_age == Duration(seconds=600)
    call.answer(SetBoundResponse())
    assert command.result(SECONDS).code == ExitCode.OK
    ran: Ran = fake_gateway.start("admission", "set", "--queue", "q", "--oldest-age", "soon").result(SECONDS)
    assert ran.code == ExitCode.USAGE
    assert "--oldest-age 'soon' is no span of time: write 90s, 10m, 2h or 1d." in ran.err


BUDGETED = Bound(
    target=BoundTarget(tenant="tenants/acme"),
    budget=Budget(amount="250.50", currency="EUR", period=BudgetPeriod.BUDGET_PERIOD_MONTH),
)


def test_a_budget_is_listed_as_it_is_set(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("admission", "list", "--wide")
    fake_gateway.take().answer(ListBoundsResponse(bounds=[BUDGETED]))
    assert "250.50:EUR/month" in command.result(SECONDS).out


def test_a_budget_is_an_amount_for_a_period(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("admission", "set", "--tenant", "acme", "--budget", "250.50:EUR/month")
    call = fake_gateway.take()
    assert call.request.bound == BUDGETED
    call.answer(SetBoundResponse())
    assert command.result(SECONDS).code == ExitCode.OK
    for wrong in ("250", "250:EUR", "250:EUR/week", "-1:EUR/day", "1e3:EUR/day"):
        ran: Ran = fake_gateway.start("admission", "set", "--tenant", "acme", "--budget", wrong).result(SECONDS)
        assert ran.code == ExitCode.USAGE
        assert f"--budget is '{wrong}'; write 250:EUR/month, or 9.50:USD/day." in ran.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--rate", "1"), "one or two of --tenant"),
        (("--tenant", "a", "--queue", "q", "--method", "a.B/C", "--rate", "1"), "one or two of --tenant"),
        (("--tenant", "a", "--each-tenant", "--rate", "1"), "not both"),
        (("--tenant", "a"), "Say how much is let in"),
    ],
)
def test_what_makes_no_bound_is_said_before_anybody_is_asked(
    fake_gateway: FakeGateway, arguments: tuple[str, ...], said: str
) -> None:
    ran: Ran = fake_gateway.start("admission", "set", *arguments).result(SECONDS)
    assert ran.code == ExitCode.USAGE
    assert said in ran.err


def test_bounds_are_listed_for_people(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("admission", "list")
    call = fake_gateway.take()
    assert (call.method, call.metadata) == ("AdmissionService/ListBounds", {})
    call.answer(ListBoundsResponse(bounds=BOUNDS))
    _, queue, each, acme = command.result(SECONDS).out.splitlines()
    assert queue.split()[:3] == ["all", "documents", "90s"]
    assert "root" in queue
    assert queue.rstrip().endswith("it is slow")
    assert each.split()[:3] == ["each", "a.B/C", "0.5/s"]
    assert acme.split()[:3] == ["acme", "0", "7"], "0 is a bound"


def test_bounds_are_listed_for_scripts(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("admission", "list", "--json")
    fake_gateway.take().answer(ListBoundsResponse(bounds=BOUNDS))
    found = json.loads(command.result(SECONDS).out)["bounds"]
    assert [each["target"] for each in found] == [
        {"queue": "documents"}, {"tenant": "tenants/-", "method": "a.B/C"}, {"tenant": "tenants/acme"},
    ]  # fmt: skip
    assert (found[0]["oldest_age"], found[1]["rate"], found[2]["backlog"]) == ("90s", 0.5, 7)


def test_that_nothing_is_bounded_is_said(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("admission", "list")
    fake_gateway.take().answer(ListBoundsResponse())
    ran = command.result(SECONDS)
    assert (ran.code, ran.out, ran.err) == (ExitCode.OK, "", "Nothing is bounded.\n")


def test_a_bound_is_taken_away(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("admission", "delete", "--tenant", "tenants/acme", "--method", "/a.B/C")
    call = fake_gateway.take()
    assert call.request.target == BoundTarget(tenant="tenants/acme", method="a.B/C")
    call.answer(DeleteBoundResponse())
    ran = command.result(SECONDS)
    assert (ran.code, ran.err) == (ExitCode.OK, "There is no bound of the tenant acme and the method a.B/C.\n")
