"""One sync servicer, served directly on a clock of the test's and behind the queue: the same outcome for its caller.

grpc_testing's server forgets trailing metadata when a call is aborted, has no `abort_with_status`, `code` and `details`,
and makes every exception UNKNOWN: what needs those is held against real servers, in tests/contract/test_worker_servicers.py.
What differs here is on the list of docs/servicers.md.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import PreconditionFailure
from google.rpc.status_pb2 import Status

from rowcall.errors import DETAILS_KEY, read_envelope
from rowcall.probe.v1.probe_pb2 import EchoRequest, EchoResponse, RunRequest, RunResponse
from rowcall.v1.job_pb2 import JobState
from rowcall_worker import JobContext, response
from tests.fix_serving import SECONDS, TIMEOUT, Handle, Outcome, Servicer, Serving, error_of
from tests.support.waiting import until


class Ended(Exception):
    """What a handler raises that does not know gRPC."""


def answer(request: EchoRequest) -> EchoResponse:
    return EchoResponse(payload=request.payload)


def returns(request: EchoRequest, context: Any) -> EchoResponse:
    return answer(request)


def abort(request: EchoRequest, context: Any) -> EchoResponse:
    context.abort(grpc.StatusCode.NOT_FOUND, "no such document")
    return answer(request)


def abort_transient(request: EchoRequest, context: Any) -> EchoResponse:
    context.abort(grpc.StatusCode.UNAVAILABLE, "try later")
    return answer(request)


def abort_suppressed(request: EchoRequest, context: Any) -> EchoResponse:
    with suppress(Exception):
        context.abort(grpc.StatusCode.NOT_FOUND, "no such document")
    return answer(request)


def abort_replaced(request: EchoRequest, context: Any) -> EchoResponse:
    try:
        context.abort(grpc.StatusCode.NOT_FOUND, "no such document")
    except Exception as error:
        raise Ended from error
    return answer(request)


def abort_after_a_code(request: EchoRequest, context: Any) -> EchoResponse:
    context.set_code(grpc.StatusCode.DATA_LOSS)
    context.set_details("set before")
    context.abort(grpc.StatusCode.NOT_FOUND, "no such document")
    return answer(request)


def code_and_details(request: EchoRequest, context: Any) -> EchoResponse:
    context.set_code(grpc.StatusCode.ALREADY_EXISTS)
    context.set_details("there is one")
    return answer(request)


def code_alone(request: EchoRequest, context: Any) -> EchoResponse:
    context.set_code(grpc.StatusCode.DATA_LOSS)
    return answer(request)


def code_taken_back(request: EchoRequest, context: Any) -> EchoResponse:
    context.set_code(grpc.StatusCode.DATA_LOSS)
    context.set_code(grpc.StatusCode.OK)
    return answer(request)


def details_alone(request: EchoRequest, context: Any) -> EchoResponse:
    context.set_details("not an error")
    return answer(request)


NOT_FOUND = Outcome(grpc.StatusCode.NOT_FOUND, "no such document")
OK = Outcome(grpc.StatusCode.OK, "", b"p")


@pytest.mark.parametrize(
    ("handle", "outcome"),
    [
        (returns, OK),
        (abort, NOT_FOUND),
        (abort_transient, Outcome(grpc.StatusCode.UNAVAILABLE, "try later")),
        (abort_suppressed, NOT_FOUND),
        (abort_replaced, NOT_FOUND),
        (abort_after_a_code, NOT_FOUND),
        (code_and_details, Outcome(grpc.StatusCode.ALREADY_EXISTS, "there is one")),
        (code_alone, Outcome(grpc.StatusCode.DATA_LOSS)),
        (code_taken_back, OK),
        (details_alone, OK),
    ],
)
async def test_a_caller_is_told_the_same(serving: Serving, handle: Handle, outcome: Outcome) -> None:
    servicer = Servicer(handle)
    assert serving.direct(servicer) == outcome
    assert await serving.queued(servicer) == outcome


async def test_nothing_behind_an_abort_is_run(serving: Serving) -> None:
    went_on: list[object] = []

    def handle(request: EchoRequest, context: Any) -> EchoResponse:
        context.abort(grpc.StatusCode.NOT_FOUND, "no such document")
        went_on.append(context)
        return answer(request)

    servicer = Servicer(handle)
    assert serving.direct(servicer) == await serving.queued(servicer) == NOT_FOUND
    assert went_on == []


async def test_an_exception_is_unknown_and_its_text_stays_in_the_worker(serving: Serving) -> None:
    def handle(request: EchoRequest, context: Any) -> EchoResponse:
        raise Ended("its text")

    servicer = Servicer(handle)
    assert serving.direct(servicer) == Outcome(grpc.StatusCode.UNKNOWN, "Exception calling application: its text")
    assert await serving.queued(servicer) == Outcome(
        grpc.StatusCode.UNKNOWN, "The handler raised Ended. The worker's log has where, under the trace id."
    )


async def test_an_operation_holds_the_response(serving: Serving) -> None:
    servicer, request = Servicer(returns), RunRequest(payload=b"p")
    operation, _, code, _ = serving.invoke(servicer, request, method="Run").termination()
    assert (code, response(operation, RunResponse)) == (grpc.StatusCode.OK, RunResponse(payload=b"p"))
    serving.start(servicer, request, method="Run")
    settled = await serving.settlement()
    assert settled.response == RunResponse(payload=b"p").SerializeToString()


async def test_of_trailing_metadata_only_an_errors_details_come_from_behind_the_queue(serving: Serving) -> None:
    detail = PreconditionFailure(violations=[PreconditionFailure.Violation(type="TOS", subject="acme")])
    rich = Status(code=grpc.StatusCode.FAILED_PRECONDITION.value[0], message="terms")
    rich.details.add().Pack(detail)
    trailing = (("served-by", "the-servicer"), (DETAILS_KEY, rich.SerializeToString()))

    def handle(request: EchoRequest, context: Any) -> EchoResponse:
        context.set_code(grpc.StatusCode.FAILED_PRECONDITION)
        context.set_details("terms")
        context.set_trailing_metadata(trailing)
        return answer(request)

    servicer = Servicer(handle)
    _, metadata, code, details = serving.invoke(servicer).termination()
    assert (code, details) == (grpc.StatusCode.FAILED_PRECONDITION, "terms")
    assert set(trailing) < set(metadata)

    serving.start(servicer)
    status = error_of(await serving.settlement())
    assert (status.code, status.message) == (rich.code, "terms")
    assert status.details[0] == rich.details[0]
    info = read_envelope(status)
    assert info is not None, "ours stands behind the handler's"
    assert (info.metadata["origin"], info.metadata["attempt"], len(status.details)) == ("JOB", "1", 3)
    assert b"the-servicer" not in status.SerializeToString()


async def test_initial_metadata_is_sent_once_and_goes_nowhere_behind_the_queue(serving: Serving) -> None:
    def handle(request: EchoRequest, context: Any) -> EchoResponse:
        context.send_initial_metadata((("served-by", "the-servicer"),))
        with pytest.raises(ValueError):  # noqa: PT011  gRPC's own text differs from server to server
            context.send_initial_metadata((("served-by", "again"),))
        return answer(request)

    servicer = Servicer(handle)
    rpc = serving.invoke(servicer)
    assert ("served-by", "the-servicer") in rpc.initial_metadata()
    assert rpc.termination()[2] is grpc.StatusCode.OK
    assert await serving.queued(servicer) == OK


async def test_a_servicer_can_tell_where_it_runs_and_for_whom(serving: Serving) -> None:
    seen: list[tuple[bool, dict[str, object]]] = []

    def handle(request: EchoRequest, context: Any) -> EchoResponse:
        seen.append((isinstance(context, JobContext), dict(context.invocation_metadata())))
        return answer(request)

    servicer = Servicer(handle)
    serving.invoke(servicer, metadata=(("x-own", "1"), ("rowcall-tenant", "acme"))).termination()
    await serving.queued(servicer)
    (served, sent), (behind, kept) = seen
    assert (served, sent["x-own"], sent["rowcall-tenant"]) == (False, "1", "acme")
    assert behind
    assert kept.pop("traceparent")
    assert kept.pop("rowcall-operation") == "tenants/acme/operations/00000000-0000-0000-0000-000000000007"
    assert kept == {
        "rowcall-tenant": "acme",
        "rowcall-actor": "ann",
        "idempotency-key": "r-1",
        "rowcall-label-team": "clocks",
    }


async def test_the_time_that_is_left_is_told_alike(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(monotonic=serving.clock.time)
    monkeypatch.setattr("rowcall_worker.serving.context.time", clock)
    monkeypatch.setattr("rowcall_worker.running.executor.time", clock)
    said: list[float] = []
    asked, moved = threading.Semaphore(0), threading.Semaphore(0)

    def handle(request: EchoRequest, context: Any) -> EchoResponse:
        for _ in range(2):
            said.append(context.time_remaining())
            asked.release()
            assert moved.acquire(timeout=SECONDS)
        return answer(request)

    servicer = Servicer(handle)

    def look() -> None:
        for seconds in (3, 0):
            assert asked.acquire(timeout=SECONDS)
            serving.clock.sleep_for(seconds)
            moved.release()

    rpc = serving.invoke(servicer)
    look()
    assert rpc.termination()[2] is grpc.StatusCode.OK
    serving.start(servicer)
    look()
    assert await serving.outcome() == OK
    assert said == [TIMEOUT, TIMEOUT - 3] * 2


async def test_a_handler_is_told_that_its_time_is_over(serving: Serving) -> None:
    started, noticed = threading.Event(), threading.Event()
    left: list[float] = []

    def handle(request: EchoRequest, context: Any) -> EchoResponse:
        started.set()
        over = threading.Event()
        # Served directly a callback is the first to hear of it; behind the queue the flag is.
        context.add_callback(over.set)
        for _ in range(int(SECONDS * 1000)):
            if not context.is_active() or over.wait(0.001):
                break
        left.append(context.time_remaining())
        noticed.set()
        return answer(request)

    servicer = Servicer(handle)
    rpc = serving.invoke(servicer)
    assert started.wait(SECONDS)
    serving.clock.sleep_for(TIMEOUT)
    assert rpc.termination()[2] is grpc.StatusCode.DEADLINE_EXCEEDED
    assert noticed.wait(SECONDS)

    serving.start(servicer, timeout=0.05)
    status = error_of(await serving.settlement())
    info = read_envelope(status)
    assert info is not None
    assert (status.code, info.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED.value[0], "ATTEMPT_TIMEOUT")
    assert left == [0, 0]


class Watched:
    """A handler that goes on until a test lets it end, and what its callbacks have seen."""

    def __init__(self, *, raises: bool = False) -> None:
        self.context: Any = None
        self.started, self.go, self.ended, self.called = (threading.Event() for _ in range(4))
        self.calls: list[bool] = []
        """For each time that the callback was called, whether the handler had ended."""
        self._raises = raises

    def handle(self, request: EchoRequest, context: Any) -> EchoResponse:
        self.context = context
        assert context.is_active()
        assert context.add_callback(self._call_back)
        self.started.set()
        assert self.go.wait(SECONDS)
        self.ended.set()
        if self._raises:
            raise Ended
        return answer(request)

    def _call_back(self) -> None:
        self.calls.append(self.ended.is_set())
        self.called.set()


async def settled(serving: Serving, watched: Watched, between: Callable[[], None] = lambda: None) -> int:
    """Lets the attempt of a handler that waits end; the state of its job."""
    await until(watched.started.is_set, seconds=SECONDS)
    between()
    watched.go.set()
    state = (await serving.settlement()).state
    await until(watched.called.is_set, seconds=SECONDS)
    return state


async def test_callbacks_are_called_once_when_it_is_over_and_not_taken_after_it(serving: Serving) -> None:
    direct, behind = Watched(), Watched()
    rpc = serving.invoke(Servicer(direct.handle))
    direct.go.set()
    assert rpc.termination()[2] is grpc.StatusCode.OK
    assert direct.called.wait(SECONDS)
    serving.start(Servicer(behind.handle))
    assert await settled(serving, behind) == JobState.JOB_STATE_SUCCEEDED
    for watched in (direct, behind):
        assert watched.calls == [True]
        assert not watched.context.is_active()
        assert not watched.context.add_callback(lambda: None)


async def test_a_callback_that_raises_changes_nothing_and_the_next_is_called(serving: Serving) -> None:
    called = threading.Semaphore(0)

    def handle(request: EchoRequest, context: Any) -> EchoResponse:
        def fail() -> None:
            raise Ended

        context.add_callback(fail)
        context.add_callback(called.release)
        return answer(request)

    servicer = Servicer(handle)
    assert serving.direct(servicer) == OK
    assert called.acquire(timeout=SECONDS)
    assert await serving.queued(servicer) == OK
    await until(lambda: called.acquire(blocking=False), seconds=SECONDS)


async def test_a_handler_is_told_of_a_cancellation_and_its_callbacks_after_it_behind_the_queue(
    serving: Serving,
) -> None:
    direct, behind = Watched(raises=True), Watched(raises=True)
    rpc = serving.invoke(Servicer(direct.handle))
    assert direct.started.wait(SECONDS)
    rpc.cancel()
    assert direct.called.wait(SECONDS)
    assert direct.calls == [False], "the caller has gone: nobody waits for the handler"
    assert not direct.context.is_active()
    direct.go.set()

    def cancel() -> None:
        serving.cancel(attempt)
        assert behind.context.cancelled()
        assert not behind.context.is_active()
        assert not behind.called.is_set()

    attempt = serving.start(Servicer(behind.handle))
    assert await settled(serving, behind, cancel) == JobState.JOB_STATE_CANCELLED
    assert behind.calls == [True]


async def test_a_handler_that_answers_a_cancelled_job_all_the_same_has_done_it(serving: Serving) -> None:
    watched = Watched()
    attempt = serving.start(Servicer(watched.handle))
    assert await settled(serving, watched, lambda: serving.cancel(attempt)) == JobState.JOB_STATE_SUCCEEDED


async def test_a_handler_can_cancel_its_own_call(serving: Serving) -> None:
    def handle(request: EchoRequest, context: Any) -> EchoResponse:
        context.cancel()
        return answer(request)

    servicer = Servicer(handle)
    assert serving.direct(servicer).code is grpc.StatusCode.CANCELLED
    serving.start(servicer)
    assert (await serving.settlement()).state == JobState.JOB_STATE_CANCELLED
