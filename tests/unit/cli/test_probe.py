"""`rowcall probe`: canaries that fail are counted and told; one that nobody answers is the last."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import grpc
import pytest

from rowcall.errors import Origin, RowcallError, envelope
from rowcall.probe.v1.probe_pb2 import EchoResponse
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall_cli.errors import ExitCode
from tests.fix_channel import SECONDS, Call, FakeGateway
from tests.fix_commands import Ran

TRACE = "0af7651916cd43dd8448eb211c80319c"


def echo(call: Call) -> None:
    call.answer(EchoResponse(payload=call.request.payload, worker="w1"))


def test_each_canary_has_a_payload_and_a_deadline_of_its_own(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("probe", "--count", "2", "--timeout", "1.5", "--tenant", "acme", "--json")
    payloads = set()
    for _ in range(2):
        call = fake_gateway.take()
        assert (call.method, call.timeout, call.metadata) == ("ProbeService/Echo", 1.5, {"rowcall-tenant": "acme"})
        payloads.add(call.request.payload)
        echo(call)
    assert {len(payload) for payload in payloads} == {16}
    assert len(payloads) == 2
    ran = command.result(SECONDS)
    assert (ran.code, ran.err) == (ExitCode.OK, "")
    assert (ran.json["calls"], ran.json["failed"], ran.json["workers"]) == (2, 0, ["w1"])


def goes_on(call: Call) -> None:
    error = RowcallError(ErrorReason.ERROR_REASON_STILL_RUNNING, "It goes on.")
    call.refuse(envelope(error, origin=Origin.GATEWAY, trace_id=TRACE))


def refuse(call: Call) -> None:
    call.fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")


def lie(call: Call) -> None:
    call.answer(EchoResponse(payload=b"another", worker="w1"))


def is_away(call: Call) -> None:
    call.fail(grpc.StatusCode.UNAVAILABLE, "nobody there")


@pytest.mark.parametrize(
    ("ends", "code"),
    [
        ((echo, echo), ExitCode.OK),
        ((echo, refuse), ExitCode.FAILED),
        ((lie, echo), ExitCode.FAILED),
        ((goes_on, echo), ExitCode.UNFINISHED),
        ((refuse, goes_on), ExitCode.FAILED),
        ((goes_on, refuse), ExitCode.FAILED),
        ((goes_on, is_away), ExitCode.UNREACHABLE),
        ((refuse, is_away), ExitCode.UNREACHABLE),
    ],
)
def test_the_exit_status_is_the_worst_that_happened_whichever_came_last(
    fake_gateway: FakeGateway, ends: Sequence[Callable[[Call], None]], code: ExitCode
) -> None:
    command = fake_gateway.start("probe", "--count", str(len(ends)))
    for end in ends:
        end(fake_gateway.take())
    assert command.result(SECONDS).code == code


def test_every_exit_status_is_in_the_help(rowcall: Callable[..., Ran]) -> None:
    told = " ".join(rowcall("probe", "--help").out.split())
    for code in (ExitCode.OK, ExitCode.FAILED, ExitCode.UNREACHABLE, ExitCode.UNFINISHED):
        assert f"with {code:d} when" in told


def test_a_canary_that_is_refused_is_told_and_the_rest_go_on(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("probe", "--count", "3")
    error = RowcallError(ErrorReason.ERROR_REASON_STILL_RUNNING, "It goes on.")
    fake_gateway.take().refuse(envelope(error, origin=Origin.GATEWAY, trace_id=TRACE))
    fake_gateway.take().fail(grpc.StatusCode.CANCELLED, "by a proxy")
    echo(fake_gateway.take())
    ran = command.result(SECONDS)
    assert ran.code == ExitCode.FAILED
    assert "answered  1 of 3" in ran.out
    assert ran.err.splitlines() == [
        "STILL_RUNNING: It goes on. (DEADLINE_EXCEEDED)",
        "  origin: GATEWAY",
        f"  trace_id: {TRACE}",
        "rowcall: CANCELLED: by a proxy",
    ]


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED])
def test_where_nobody_answers_no_further_canary_is_sent(fake_gateway: FakeGateway, code: grpc.StatusCode) -> None:
    command = fake_gateway.start("probe", "--count", "5", "--json")
    echo(fake_gateway.take())
    fake_gateway.take().fail(code, "nobody there")
    assert fake_gateway.next_call() is None
    ran = command.result(SECONDS)
    assert ran.code == ExitCode.UNREACHABLE
    assert (ran.json["calls"], ran.json["failed"]) == (5, 1)
    assert "nobody there" in ran.err
    assert "Traceback" not in ran.err


def test_a_canarys_deadline_is_the_one_that_was_said(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("probe", "--timeout", "2")
    call = fake_gateway.take()
    fake_gateway.clock.sleep_for(1.9)
    assert not call.ended
    fake_gateway.clock.sleep_for(0.1)
    assert command.result(SECONDS).code == ExitCode.UNREACHABLE


def test_another_answer_than_was_sent_is_a_failure(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("probe")
    fake_gateway.take().answer(EchoResponse(payload=b"another", worker="w1"))
    ran = command.result(SECONDS)
    assert ran.code == ExitCode.FAILED
    assert ran.err == "rowcall: A call was answered with something else than it sent.\n"
