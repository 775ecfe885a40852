"""Outcome values that a sync handler raises: as OutcomeInterceptor tells them directly, and as a job's caller hears them.

That their details (RetryInfo, the handler's own) come along directly is shown on real servers, in
tests/contract/test_worker_outcomes_served.py: grpc_testing's server forgets trailing metadata when a call is aborted.
"""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest

from rowcall.probe.v1.probe_pb2 import EchoRequest, EchoResponse
from rowcall.v1.job_pb2 import JobState
from rowcall_worker import Cancel, Fail, OutcomeInterceptor, Retry, Snooze, telemetry
from rowcall_worker.serving.outcome_values import OutcomeValue
from tests.fix_serving import Outcome, Servicer, Serving


def raising(value: OutcomeValue) -> Servicer:
    def handle(request: EchoRequest, context: Any) -> EchoResponse:
        raise value

    return Servicer(handle)


def intercepted(servicer: Servicer) -> object:
    """The servicer as a server with the interceptor calls it."""
    plain = grpc.unary_unary_rpc_method_handler(servicer.Echo, EchoRequest.FromString, EchoResponse.SerializeToString)
    handler = OutcomeInterceptor().intercept_service(lambda _: plain, cast("grpc.HandlerCallDetails", None))
    assert handler is not None
    assert (handler.request_deserializer, handler.response_serializer) == (
        plain.request_deserializer,
        plain.response_serializer,
    )
    return SimpleNamespace(Echo=handler.unary_unary)


@pytest.mark.parametrize(
    ("value", "code", "message"),
    [
        (Fail(grpc.StatusCode.NOT_FOUND, "Gone."), grpc.StatusCode.NOT_FOUND, "Gone."),
        (Fail(grpc.StatusCode.UNAVAILABLE, "Gone for good."), grpc.StatusCode.UNAVAILABLE, "Gone for good."),
        (Cancel("Nobody wants it."), grpc.StatusCode.CANCELLED, "Nobody wants it."),
        (Cancel(), grpc.StatusCode.CANCELLED, "the handler cancelled its job"),
        (Retry(message="Warming up."), grpc.StatusCode.UNAVAILABLE, "Warming up."),
        (Retry(timedelta(seconds=30)), grpc.StatusCode.UNAVAILABLE, "the handler asks for another attempt"),
    ],
)
async def test_a_caller_is_told_the_same(
    serving: Serving, value: OutcomeValue, code: grpc.StatusCode, message: str
) -> None:
    servicer = raising(value)
    assert serving.direct(intercepted(servicer)) == Outcome(code, message)
    assert await serving.queued(servicer) == Outcome(code, message)


async def test_a_snooze_waits_as_a_row_and_is_unavailable_directly(serving: Serving) -> None:
    servicer = raising(Snooze(timedelta(minutes=5)))
    assert serving.direct(intercepted(servicer)).code is grpc.StatusCode.UNAVAILABLE
    serving.start(servicer)
    settled = await serving.settlement()
    assert (settled.state, settled.delay, settled.snoozed) == (
        JobState.JOB_STATE_SCHEDULED,
        timedelta(minutes=5),
        True,
    )


async def test_an_answer_goes_through_as_it_is(serving: Serving) -> None:
    servicer = Servicer(lambda request, context: EchoResponse(payload=request.payload))
    assert serving.direct(intercepted(servicer)) == await serving.queued(servicer)


async def test_what_calls_cost_is_recorded_nowhere_behind_the_interceptor_and_is_an_error_without_it(
    serving: Serving,
) -> None:
    def handle(request: EchoRequest, context: Any) -> EchoResponse:
        with telemetry.provider_call("maps") as call:
            call.cost("0.5", "EUR")
        return EchoResponse(payload=str(call.attributes["rowcall.cost.amount"]).encode())

    assert serving.direct(intercepted(Servicer(handle))) == Outcome(grpc.StatusCode.OK, payload=b"0.5")
    assert serving.direct(Servicer(handle)).code is grpc.StatusCode.UNKNOWN
