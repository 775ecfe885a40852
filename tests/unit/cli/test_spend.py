"""`rowcall spend`: the requests that are sent, and what is told of the answers."""

from __future__ import annotations

import json

import pytest

from rowcall.v1.action_service_pb2 import GetSpendRequest, GetSpendResponse, SpendDimension, SpendSum
from rowcall_cli.errors import ExitCode
from tests.fix_channel import SECONDS, FakeGateway

OPERATION = "tenants/acme/operations/0196a4c5-7a2e-7c3f-9e1b-3f0f5c9d2b11"
DAY, MODEL = SpendDimension.SPEND_DIMENSION_DAY, SpendDimension.SPEND_DIMENSION_MODEL
SUMS = [
    SpendSum(day="2031-05-04", calls=3, input_tokens=7),
    SpendSum(
        day="2031-05-04", model="gpt-7", currency="EUR", calls=12, input_tokens=1200, output_tokens=80, cost="0.0125"
    ),
]


def test_sums_are_shown_by_what_they_are_made_by(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("spend", "--tenant", "acme", "--from", "2031-05-01", "--by", "day", "--by", "model")
    call = fake_gateway.take()
    assert (call.method, call.metadata) == ("ActionService/GetSpend", {"rowcall-tenant": "acme"})
    assert call.request == GetSpendRequest(first_day="2031-05-01", group_by=[DAY, MODEL])
    call.answer(GetSpendResponse(sums=SUMS))
    ran = command.result(SECONDS)
    assert ran.code == ExitCode.OK
    for text in ("2031-05-04", "gpt-7", "1200", "0.0125", "EUR", "not known"):
        assert text in ran.out
    assert "provider" not in ran.out


def test_everything_is_asked_for_that_was_said(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start(
        "spend", "--all-tenants", "--to", "2031-05-31", "--trace", "a" * 32, "--method", "a.B/C", "--provider", "openai",
        "--model", "gpt-7", "--by", "tenant", "--json",
    )  # fmt: skip
    call = fake_gateway.take()
    assert call.request == GetSpendRequest(
        parent="tenants/-",
        last_day="2031-05-31",
        trace_id="a" * 32,
        method="a.B/C",
        provider="openai",
        model="gpt-7",
        group_by=[SpendDimension.SPEND_DIMENSION_TENANT],
    )
    call.answer(GetSpendResponse(sums=SUMS[1:], more=True, unreachable_shards=["b"]))
    ran = command.result(SECONDS)
    found = json.loads(ran.out)
    assert found["sums"][0]["cost"] == "0.0125"
    assert found["more"]
    assert ran.code == ExitCode.UNREACHABLE
    assert "There are more sums" in ran.err
    assert "no answer from b" in ran.err


@pytest.mark.parametrize("said", ["A" * 32, f"00-{'a' * 32}-00f067aa0ba902b7-01"])
def test_a_trace_is_named_as_for_rowcall_trace(fake_gateway: FakeGateway, said: str) -> None:
    command = fake_gateway.start("spend", "--tenant", "acme", "--trace", said)
    call = fake_gateway.take()
    assert call.request == GetSpendRequest(trace_id="a" * 32)
    call.answer(GetSpendResponse(sums=SUMS))
    assert command.result(SECONDS).code == ExitCode.OK


def test_an_operation_says_whose_it_is(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("spend", "--operation", OPERATION)
    call = fake_gateway.take()
    assert (call.request.operation, call.metadata) == (OPERATION, {"rowcall-tenant": "acme"})
    call.answer(GetSpendResponse())
    assert "Nothing was spent." in command.result(SECONDS).err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--from", "may"), "'may' is no day; write 2031-05-04"),
        (("--to", "2031-02-30"), "'2031-02-30' is no day"),
        (("--operation", "seven"), "'seven' is not a job's name"),
        (("--trace", "zzz"), "--trace 'zzz' is no trace: write 32 hex digits, or a whole traceparent"),
        (("--by", "colour"), "colour"),
    ],
)
def test_what_cannot_be_meant_is_said_before_anybody_is_called(
    fake_gateway: FakeGateway, arguments: tuple[str, ...], told: str
) -> None:
    ran = fake_gateway.start("spend", *arguments).result(SECONDS)
    assert ran.code == ExitCode.USAGE
    assert told in ran.err
