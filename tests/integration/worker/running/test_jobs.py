"""A worker drains two shards: typed and Operation-returning methods, retries, timeouts, refusals, and what is told."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator, MutableMapping
from datetime import timedelta
from typing import Any

import grpc
import grpc.aio
import pytest
import structlog
from google.longrunning.operations_pb2 import Operation
from google.protobuf.duration_pb2 import Duration
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import BadRequest, DebugInfo, ErrorInfo, PreconditionFailure, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from rowcall.errors import MAX_KEPT_BYTES, MORE_VIOLATIONS, RowcallError, read_envelope
from rowcall.probe.v1.probe_pb2 import (
    AwaitRequest,
    AwaitResponse,
    EchoRequest,
    EchoResponse,
    RunRequest,
    RunResponse,
)
from rowcall.queue.model import JobRow
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall.v1.job_pb2 import AttemptOutcome, JobState
from rowcall_worker import Fail, Snooze, finished
from rowcall_worker.running import outcomes
from rowcall_worker.serving.context import AsyncJobContext, SyncJobContext
from tests.fix_worker import Call, Calls, PolicyChanges, Workers, error_of, serve
from tests.support.waiting import until

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE_ID}-b7ad6b7169203331-01"
AT_ONCE: PolicyChanges = {"backoff_initial": timedelta(milliseconds=1), "backoff_maximum": timedelta(milliseconds=1)}


def info_of(row: JobRow) -> ErrorInfo:
    """Our part of a failed job's error."""
    info = read_envelope(error_of(row))
    assert info is not None
    return info


async def test_echoes_on_both_shards(calls: Calls, workers: Workers) -> None:
    worker = await workers.start()
    tenants = [f"tenant-{number}" for number in range(12)]
    jobs = [await calls.submit("Echo", EchoRequest(payload=tenant.encode()), call=Call(tenant)) for tenant in tenants]
    assert {job.shard for job in jobs} == {"a", "b"}
    for job in jobs:
        row = await calls.done(job)
        assert row.state == JobState.JOB_STATE_SUCCEEDED
        assert row.worker == worker.name
        assert row.response is not None
        assert EchoResponse.FromString(row.response) == EchoResponse(
            payload=job.tenant.encode(), worker=worker.name, attempt=1
        )


async def test_an_operation_method_is_kept_as_its_response(calls: Calls, workers: Workers) -> None:
    worker = await workers.start()
    run = await calls.submit("Run", RunRequest(payload=b"p", work=Duration(nanos=1_000_000)))
    awaited = await calls.submit("Await", AwaitRequest(payload=b"p", response_bytes=5))
    row = await calls.done(run)
    assert row.response is not None
    assert RunResponse.FromString(row.response) == RunResponse(payload=b"p", worker=worker.name, attempt=1)
    row = await calls.done(awaited)
    assert row.response is not None
    assert AwaitResponse.FromString(row.response) == AwaitResponse(payload=bytes(5), worker=worker.name, attempt=1)


@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.ABORTED, Code.DEADLINE_EXCEEDED])
async def test_transient_failures_are_tried_again(calls: Calls, workers: Workers, code: Code.ValueType) -> None:
    worker = await workers.start()
    job = await calls.submit("Await", AwaitRequest(fail_code=code, fail_attempts=2), policy=AT_ONCE)
    row = await calls.done(job)
    assert row.state == JobState.JOB_STATE_SUCCEEDED
    assert row.response is not None
    assert AwaitResponse.FromString(row.response).attempt == 3
    assert [(each.attempt, each.outcome, each.worker) for each in row.attempts] == [
        (1, AttemptOutcome.ATTEMPT_OUTCOME_RETRIED, worker.name),
        (2, AttemptOutcome.ATTEMPT_OUTCOME_RETRIED, worker.name),
    ]
    first = Status.FromString(row.attempts[0].error or b"")
    assert first.code == code
    assert first.message == f"The probe was told to fail with {Code.Name(code)}."
    assert row.attempts[0].span_id is not None
    assert row.attempts[0].span_id != row.attempts[1].span_id


async def test_a_retry_is_not_held_up_by_the_rounds_of_housekeeping(
    calls: Calls, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rowcall_worker.upkeep.maintenance.PROMOTE_EVERY", 60.0)
    await workers.start()
    job = await calls.submit("Await", AwaitRequest(fail_code=Code.ABORTED, fail_attempts=4), policy=AT_ONCE)
    assert (await calls.done(job)).attempt == 5


async def test_attempts_are_bounded(calls: Calls, workers: Workers) -> None:
    await workers.start()
    job = await calls.submit("Await", AwaitRequest(fail_code=Code.UNAVAILABLE), policy={"max_attempts": 3, **AT_ONCE})
    row = await calls.done(job)
    assert row.state == JobState.JOB_STATE_FAILED
    assert row.attempt == 3
    assert len(row.attempts) == 2
    assert error_of(row).code == Code.UNAVAILABLE


async def test_permanent_failures_are_not_tried_again(calls: Calls, workers: Workers) -> None:
    await workers.start()
    codes = [
        code
        for code in Code.values()
        if code not in {Code.OK, Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.ABORTED, Code.DEADLINE_EXCEEDED}
    ]
    jobs = {
        code: await calls.submit("Await", AwaitRequest(fail_code=code), call=Call(traceparent=TRACEPARENT))
        for code in codes
    }
    for code, job in jobs.items():
        row = await calls.done(job)
        cancelled = code == Code.CANCELLED
        assert row.state == (JobState.JOB_STATE_CANCELLED if cancelled else JobState.JOB_STATE_FAILED)
        assert row.attempt == 1
        assert error_of(row).code == code
        info = info_of(row)
        assert info.reason == "HANDLER_ERROR"
        assert dict(info.metadata) == {
            "origin": "JOB",
            "operation": job.name,
            "attempt": "1",
            "trace_id": TRACE_ID,
        }


async def test_the_handlers_own_details_are_kept(calls: Calls, workers: Workers) -> None:
    failure = PreconditionFailure(violations=[PreconditionFailure.Violation(type="TOS", subject="acme")])

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        status = Status(code=Code.FAILED_PRECONDITION, message="terms not accepted")
        status.details.add().Pack(failure)
        await context.abort_with_status(rpc_status.to_status(status))

    await workers.start(serve(echo=echo))
    status = error_of(await calls.done(await calls.submit("Echo", EchoRequest())))
    assert (status.code, status.message) == (Code.FAILED_PRECONDITION, "terms not accepted")
    kept = PreconditionFailure()
    assert status.details[0].Unpack(kept)
    assert kept == failure
    assert read_envelope(status) is not None


async def test_a_retry_info_is_the_least_wait(calls: Calls, workers: Workers) -> None:
    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        if context.attempt == 1:
            status = Status(code=Code.RESOURCE_EXHAUSTED, message="provider says wait")
            status.details.add().Pack(RetryInfo(retry_delay=Duration(nanos=700_000_000)))
            await context.abort_with_status(rpc_status.to_status(status))
        return EchoResponse()

    await workers.start(serve(echo=echo))
    row = await calls.done(await calls.submit("Echo", EchoRequest(), policy=AT_ONCE))
    ended, started = row.attempts[0].ended_at, row.started_at
    assert ended is not None
    assert started is not None
    assert timedelta(seconds=0.7) <= started - ended < timedelta(seconds=3)


async def test_unexpected_exceptions_are_tried_again_and_keep_their_text_to_themselves(
    calls: Calls, workers: Workers
) -> None:
    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        raise KeyError("secret payload")

    await workers.start(serve(echo=echo))
    job = await calls.submit(
        "Echo",
        EchoRequest(),
        call=Call(request_id="r-1", traceparent=TRACEPARENT),
        policy={"max_attempts": 2, **AT_ONCE},
    )
    row = await calls.done(job)
    assert row.state == JobState.JOB_STATE_FAILED
    assert row.attempt == 2
    status = error_of(row)
    assert status.code == Code.UNKNOWN
    assert "secret" not in str(status)
    info = info_of(row)
    assert info.reason == "HANDLER_EXCEPTION"
    assert dict(info.metadata) == {
        "origin": "JOB",
        "operation": job.name,
        "attempt": "2",
        "trace_id": TRACE_ID,
        "exception": "KeyError",
    }


async def test_where_a_handler_raised_is_kept_with_its_attempt(calls: Calls, workers: Workers) -> None:
    """Of every way to raise; not of what was ended, or succeeded. The line is of the handler's, not of what it called."""

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        if request.payload == b"raises":
            int("no number")
        elif request.payload == b"aborts":
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no")
        elif request.payload == b"fails":
            raise Fail(grpc.StatusCode.NOT_FOUND, "gone")
        elif request.payload == b"says":
            context.set_code(grpc.StatusCode.ABORTED)
        elif request.payload == b"hangs":
            await asyncio.sleep(60)
        return EchoResponse()

    await workers.start(serve(echo=echo))
    first = echo.__code__.co_firstlineno
    module = f"{__name__}:{echo.__qualname__}"
    places = {"raises": f"{module}:{first + 2}", "aborts": f"{module}:{first + 4}", "fails": f"{module}:{first + 6}"}
    for name in ("raises", "aborts", "fails", "says", "hangs", "succeeds"):
        policy: PolicyChanges = {"timeout": timedelta(seconds=0.2 if name == "hangs" else 20), "max_attempts": 1}
        row = await calls.done(await calls.submit("Echo", EchoRequest(payload=name.encode()), policy=policy))
        assert row.location == places.get(name), name
        if row.error is not None:
            assert __name__.encode() not in row.error
    job = await calls.submit("Echo", EchoRequest(payload=b"raises"), policy={"max_attempts": 2, **AT_ONCE})
    row = await calls.done(job)
    assert [attempt.location for attempt in row.attempts] == [places["raises"]]
    assert (row.location, row.attempts[0].lease, row.lease) == (places["raises"], 1, 2)


async def test_a_handler_that_exits_does_not_end_the_worker(calls: Calls, workers: Workers) -> None:
    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        if request.payload == b"exit":
            sys.exit(3)
        if request.payload == b"cancel":
            raise asyncio.CancelledError
        return EchoResponse()

    await workers.start(serve(echo=echo))
    for payload, exception in ((b"exit", "SystemExit"), (b"cancel", "CancelledError")):
        row = await calls.done(await calls.submit("Echo", EchoRequest(payload=payload), policy={"max_attempts": 1}))
        assert info_of(row).metadata["exception"] == exception
    row = await calls.done(await calls.submit("Echo", EchoRequest()))
    assert row.state == JobState.JOB_STATE_SUCCEEDED


async def test_an_attempt_that_takes_too_long_is_cancelled_and_tried_again(calls: Calls, workers: Workers) -> None:
    seen: list[tuple[bool, bool]] = []

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        assert 0 < context.time_remaining() <= 0.2
        try:
            await asyncio.sleep(60)
        finally:
            seen.append((context.cancelled(), context.is_active()))
        return EchoResponse()

    await workers.start(serve(echo=echo))
    job = await calls.submit(
        "Echo", EchoRequest(), policy={"timeout": timedelta(seconds=0.2), "max_attempts": 2, **AT_ONCE}
    )
    row = await calls.done(job)
    assert row.state == JobState.JOB_STATE_FAILED
    assert row.attempt == 2
    assert error_of(row).code == Code.DEADLINE_EXCEEDED
    assert info_of(row).reason == "ATTEMPT_TIMEOUT"
    assert seen == [(True, False), (True, False)]


async def test_a_handler_that_ignores_its_timeout_keeps_its_slot_but_not_its_job(
    calls: Calls, workers: Workers
) -> None:
    release = asyncio.Event()

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        while request.payload == b"hang" and not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        return EchoResponse(payload=b"late")

    await workers.start(serve(echo=echo), slots=1)
    hung = await calls.submit(
        "Echo", EchoRequest(payload=b"hang"), policy={"timeout": timedelta(seconds=0.1), "max_attempts": 1}
    )
    row = await calls.done(hung)
    assert info_of(row).reason == "ATTEMPT_TIMEOUT"
    waiting = await calls.submit("Echo", EchoRequest())
    with pytest.raises(TimeoutError):
        await calls.done(waiting, seconds=0.5)
    release.set()
    assert (await calls.done(waiting)).state == JobState.JOB_STATE_SUCCEEDED
    assert (await calls.row(hung)).state == JobState.JOB_STATE_FAILED


async def test_a_thread_that_hangs_loses_its_job_at_the_timeout(calls: Calls, workers: Workers) -> None:
    release = threading.Event()
    told = threading.Event()

    def echo(request: EchoRequest, context: SyncJobContext) -> EchoResponse:
        if request.payload == b"hang":
            while not release.wait(0.01):
                if context.cancelled() and not context.is_active():
                    told.set()
        return EchoResponse()

    await workers.start(serve(echo=echo), threads=2)
    try:
        hung = await calls.submit(
            "Echo", EchoRequest(payload=b"hang"), policy={"timeout": timedelta(seconds=0.1), "max_attempts": 1}
        )
        assert info_of(await calls.done(hung)).reason == "ATTEMPT_TIMEOUT"
        assert told.is_set()
        # The other thread goes on working.
        assert (await calls.done(await calls.submit("Echo", EchoRequest()))).state == JobState.JOB_STATE_SUCCEEDED
    finally:
        release.set()


async def test_a_response_that_is_too_large_fails_the_job_for_good(calls: Calls, workers: Workers) -> None:
    await workers.start(max_response_bytes=1000)
    fits = await calls.submit("Await", AwaitRequest(response_bytes=900))
    large = await calls.submit("Run", RunRequest(response_bytes=1001))
    assert (await calls.done(fits)).state == JobState.JOB_STATE_SUCCEEDED
    row = await calls.done(large)
    assert row.state == JobState.JOB_STATE_FAILED
    assert row.attempt == 1
    assert error_of(row).code == Code.FAILED_PRECONDITION
    info = info_of(row)
    assert info.reason == "RESPONSE_TOO_LARGE"
    assert info.metadata["limit_bytes"] == "1000"
    assert int(info.metadata["size_bytes"]) > 1001


@pytest.mark.parametrize(
    ("answer", "expected", "actual"),
    [
        (finished(EchoResponse()), "rowcall.probe.v1.RunResponse", "rowcall.probe.v1.EchoResponse"),
        (Operation(done=True), "rowcall.probe.v1.RunResponse", "no response"),
        (Operation(), "a finished google.longrunning.Operation", "an unfinished one"),
        (RunResponse(), "google.longrunning.Operation", "rowcall.probe.v1.RunResponse"),
        (None, "google.longrunning.Operation", "NoneType"),
    ],
)
async def test_an_operation_of_another_type_fails_the_job_for_good(
    calls: Calls, workers: Workers, answer: object, expected: str, actual: str
) -> None:
    async def run(request: RunRequest, context: AsyncJobContext) -> object:
        return answer

    await workers.start(serve(run=run))
    row = await calls.done(await calls.submit("Run", RunRequest()))
    assert row.state == JobState.JOB_STATE_FAILED
    assert row.attempt == 1
    assert error_of(row).code == Code.INTERNAL
    info = info_of(row)
    assert (info.reason, info.metadata["expected"], info.metadata["actual"]) == (
        "RESPONSE_TYPE_MISMATCH",
        expected,
        actual,
    )


@pytest.mark.parametrize("answer", [RunResponse(payload=b"same fields"), None, "text"])
async def test_a_response_of_another_type_fails_the_job_for_good(
    calls: Calls, workers: Workers, answer: object
) -> None:
    async def echo(request: EchoRequest, context: AsyncJobContext) -> object:
        return answer

    await workers.start(serve(echo=echo))
    row = await calls.done(await calls.submit("Echo", EchoRequest()))
    assert row.state == JobState.JOB_STATE_FAILED
    assert row.attempt == 1
    assert info_of(row).reason == "RESPONSE_TYPE_MISMATCH"


async def test_an_operation_that_holds_an_error_fails_the_job_with_it(calls: Calls, workers: Workers) -> None:
    async def run(request: RunRequest, context: AsyncJobContext) -> Operation:
        return Operation(done=True, error=Status(code=Code.NOT_FOUND, message="no such document"))

    await workers.start(serve(run=run))
    row = await calls.done(await calls.submit("Run", RunRequest()))
    status = error_of(row)
    assert (status.code, status.message, info_of(row).reason) == (Code.NOT_FOUND, "no such document", "HANDLER_ERROR")


async def test_a_request_that_cannot_be_read_fails_the_job_for_good(calls: Calls, workers: Workers) -> None:
    await workers.start()
    row = await calls.done(await calls.submit("Echo", b"\xff\xff\xff"))
    assert row.state == JobState.JOB_STATE_FAILED
    assert row.attempt == 1
    assert info_of(row).reason == "UNDECODABLE_REQUEST"
    assert info_of(row).metadata["type"] == "rowcall.probe.v1.EchoRequest"


@pytest.mark.parametrize(
    ("details", "message"),
    [("a\x00b", "ab"), ("a\udc80b", "a?b"), (b"bytes", "bytes"), (ValueError("object"), "object")],
)
async def test_a_message_that_no_row_could_keep_is_mended(
    calls: Calls, workers: Workers, details: Any, message: str
) -> None:
    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        await context.abort(grpc.StatusCode.NOT_FOUND, details)

    await workers.start(serve(echo=echo))
    status = error_of(await calls.done(await calls.submit("Echo", EchoRequest())))
    assert (status.code, status.message) == (Code.NOT_FOUND, message)


def unreadable() -> Status:
    """UNAVAILABLE, with a RetryInfo that is none."""
    status = Status(code=Code.UNAVAILABLE, message="later")
    status.details.add(type_url="type.googleapis.com/google.rpc.RetryInfo", value=b"\xff\xff\xff")
    return status


def for_ever() -> Status:
    """UNAVAILABLE, to be tried again in three million years."""
    status = Status(code=Code.UNAVAILABLE, message="later")
    status.details.add().Pack(RetryInfo(retry_delay=Duration(seconds=99_999_999_999_999)))
    return status


async def test_what_a_handler_says_in_a_wrong_way_is_told_as_that(calls: Calls, workers: Workers) -> None:
    """Never as a fault of ours that says nothing: code, message, details and attempts are the handler's."""

    async def echo(request: EchoRequest, context: Any) -> EchoResponse:
        if request.payload == b"text for a code":
            context.set_code("NOT_FOUND")
            context.set_details("by its name")
        if request.payload == b"text for a code, aborted":
            await context.abort("NOT_FOUND", "by its name")
        if request.payload == b"unreadable":
            await context.abort_with_status(rpc_status.to_status(unreadable()))
        return EchoResponse()

    async def run(request: RunRequest, context: AsyncJobContext) -> Operation:
        return Operation(done=True, error=Status(code=int(request.payload), message="fine\x00?"))

    await workers.start(serve(echo=echo, run=run))
    twice: PolicyChanges = {**AT_ONCE, "max_attempts": 2}
    found: dict[str, tuple[int, str, int, str]] = {}
    for case in ("text for a code", "text for a code, aborted", "unreadable"):
        row = await calls.done(await calls.submit("Echo", EchoRequest(payload=case.encode()), policy=twice))
        found[case] = (error_of(row).code, error_of(row).message, row.attempt, info_of(row).metadata["wrong"])
        if case == "unreadable":
            assert unreadable().details[0] not in error_of(row).details, "clients would raise of it"
    for code in (0, 999):
        row = await calls.done(await calls.submit("Run", RunRequest(payload=b"%d" % code), policy=twice))
        found[f"code {code}"] = (error_of(row).code, error_of(row).message, row.attempt, info_of(row).metadata["wrong"])
    text = (Code.UNKNOWN, "by its name", 1, "the code 'NOT_FOUND' is no grpc.StatusCode")
    assert found == {
        "text for a code": text,
        "text for a code, aborted": text,
        "unreadable": (Code.UNAVAILABLE, "later", 2, "details[0] is no google.rpc.RetryInfo"),
        "code 0": (Code.UNKNOWN, "fine?", 1, "the code 0 is no error's"),
        "code 999": (Code.UNKNOWN, "fine?", 1, "the code 999 is no error's"),
    }


async def test_a_retry_info_that_no_clock_can_count_is_a_day(calls: Calls, workers: Workers) -> None:
    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        await context.abort_with_status(rpc_status.to_status(for_ever()))

    await workers.start(serve(echo=echo))
    job = await calls.submit("Echo", EchoRequest(), policy=AT_ONCE)
    row = await calls.until(job, lambda row: row.state == JobState.JOB_STATE_SCHEDULED)
    assert timedelta(hours=23) < row.run_at - row.created_at < timedelta(hours=25)
    [first] = row.attempts
    assert first.error is not None
    assert Status.FromString(first.error).details[0] == for_ever().details[0]


@pytest.mark.parametrize("size", [2_000_000, 60_000_000])
async def test_details_too_large_for_a_row_are_cut_and_named(calls: Calls, workers: Workers, size: int) -> None:
    """In the row and in every attempt; code, message and the details that fit stay."""
    fits = ErrorInfo(reason="TOO_HOT", domain="oven.example")

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        status = Status(code=Code.UNAVAILABLE, message="too hot")
        status.details.add().Pack(DebugInfo(detail="x" * size))
        status.details.add().Pack(fits)
        await context.abort_with_status(rpc_status.to_status(status))

    await workers.start(serve(echo=echo))
    row = await calls.done(await calls.submit("Echo", EchoRequest(), policy={**AT_ONCE, "max_attempts": 2}))
    assert row.error is not None
    [first] = row.attempts
    assert first.error is not None
    left_out = f"google.rpc.DebugInfo ({DebugInfo(detail='x' * size).ByteSize()} bytes)"
    for error in (row.error, first.error):
        assert len(error) <= MAX_KEPT_BYTES
        status = Status.FromString(error)
        assert (status.code, status.message) == (Code.UNAVAILABLE, "too hot")
        info = ErrorInfo()
        assert status.details[0].Unpack(info)
        assert (info.reason, info.metadata["rowcall_left_out"]) == ("TOO_HOT", left_out)


async def test_violations_too_many_for_a_row_are_cut_and_told(calls: Calls, workers: Workers) -> None:
    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        violations = [BadRequest.FieldViolation(field=f"items[{n}]", description="is none") for n in range(10_000)]
        raise RowcallError(
            ErrorReason.ERROR_REASON_CHILD_REFUSED, "no", details=[BadRequest(field_violations=violations)]
        )

    await workers.start(serve(echo=echo))
    row = await calls.done(await calls.submit("Echo", EchoRequest()))
    assert row.error is not None
    assert len(row.error) <= MAX_KEPT_BYTES
    kept = BadRequest()
    assert error_of(row).details[1].Unpack(kept)
    assert kept.field_violations[0].field == "items[0]"
    assert kept.field_violations[-1].description == MORE_VIOLATIONS


class Unlike(Snooze):
    """An outcome value of the handler's own that does not hold what ours does."""

    def __init__(self) -> None:
        pass


async def test_an_outcome_value_that_is_not_like_ours_is_an_exception(calls: Calls, workers: Workers) -> None:
    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        raise Unlike

    await workers.start(serve(echo=echo))
    row = await calls.done(await calls.submit("Echo", EchoRequest(), policy={**AT_ONCE, "max_attempts": 2}))
    assert (row.attempt, info_of(row).reason) == (2, "HANDLER_EXCEPTION")


async def test_codes_may_be_plain_numbers(calls: Calls, workers: Workers) -> None:
    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        number: Any = int(request.payload)
        context.set_code(number)
        return EchoResponse()

    await workers.start(serve(echo=echo))
    codes = {}
    for number in (0, 5, 99):
        row = await calls.done(await calls.submit("Echo", EchoRequest(payload=b"%d" % number)))
        codes[number] = error_of(row).code if row.error else Code.OK
    assert codes == {0: Code.OK, 5: Code.NOT_FOUND, 99: Code.UNKNOWN}


async def test_an_outcome_that_cannot_be_made_fails_the_job(
    calls: Calls, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of ours: whatever a handler says comes to something."""

    def fault(state: object) -> None:
        raise LookupError

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        return EchoResponse()

    monkeypatch.setattr(outcomes, "said_status", fault)
    await workers.start(serve(echo=echo))
    row = await calls.done(await calls.submit("Echo", EchoRequest()))
    assert row.state == JobState.JOB_STATE_FAILED
    assert error_of(row).code == Code.INTERNAL
    assert info_of(row).metadata["origin"] == "WORKER"


async def test_probe_faults_are_refused_unless_allowed(calls: Calls, workers: Workers) -> None:
    await workers.start()
    row = await calls.done(await calls.submit("Await", AwaitRequest(exit_process=True)))
    assert row.state == JobState.JOB_STATE_FAILED
    assert row.attempt == 1
    assert error_of(row).code == Code.FAILED_PRECONDITION
    assert info_of(row).reason == "FAULTS_NOT_ALLOWED"


async def test_the_loop_stays_free_while_a_probe_works(calls: Calls, workers: Workers) -> None:
    await workers.start(slots=50)
    started = time.monotonic()
    jobs = await calls.submit_many("Await", [AwaitRequest(work=Duration(nanos=500_000_000))] * 50)
    await calls.all_done(jobs)
    assert time.monotonic() - started < 5


@pytest.fixture
async def log(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[dict[str, object]]]:
    """The log lines of the test, with what `rowcall.logs` puts into each."""
    from rowcall.logs import _add_call

    lines: list[dict[str, object]] = []

    def keep(_logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        lines.append({**event, "level": method})
        raise structlog.DropEvent

    structlog.configure(processors=[_add_call, keep])
    yield lines
    structlog.reset_defaults()


async def test_failed_and_retried_attempts_are_logged_with_their_call(
    calls: Calls, workers: Workers, log: list[dict[str, object]]
) -> None:
    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        if context.attempt == 1:
            raise ValueError("secret payload")
        await context.abort(grpc.StatusCode.NOT_FOUND, "gone")

    await workers.start(serve(echo=echo))
    job = await calls.submit("Echo", EchoRequest(), call=Call("acme", "r-1", "ann", TRACEPARENT), policy=AT_ONCE)
    await calls.done(job)
    await until(lambda: any(line["event"] == "job failed" for line in log))
    call = {"trace_id": TRACE_ID, "request_id": "r-1", "tenant": "acme", "actor": "ann", "job": job.name}
    (retried,) = [line for line in log if line["event"] == "attempt failed, the job is tried again"]
    assert (
        retried.items()
        >= {
            **call,
            "attempt": 1,
            "level": "warning",
            "method": "rowcall.probe.v1.ProbeService/Echo",
            "code": "UNKNOWN",
            "reason": "HANDLER_EXCEPTION",
        }.items()
    )
    assert isinstance(retried["exc_info"], ValueError)
    (failed,) = [line for line in log if line["event"] == "job failed"]
    assert failed.items() >= {**call, "attempt": 2, "level": "error", "code": "NOT_FOUND"}.items()
    assert "exc_info" not in failed
