"""Retry rules, waits, and what handlers of Operation-returning methods answer with."""

from __future__ import annotations

import statistics
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import grpc
import grpc.aio
import pytest
from google.longrunning.operations_pb2 import Operation
from google.rpc.code_pb2 import Code
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st

from rowcall.errors import RowcallError
from rowcall.probe.v1.probe_pb2 import EchoResponse, RunResponse
from rowcall.queue.model import ClaimedJob, PolicyRow
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall.v1.job_pb2 import JobState
from rowcall_worker import OperationFailed, finished, response
from rowcall_worker.running import outcomes
from rowcall_worker.serving.attempt import AttemptState
from rowcall_worker.serving.context import AsyncJobContext, SyncJobContext

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def state(attempt: int = 1) -> AttemptState:
    """An attempt at a job."""
    job = ClaimedJob("acme", UUID(int=7), 3, attempt, 3, 1, 1, 1, b"", "r-1", None, None, None, {}, 0)
    return AttemptState(job, worker="w", max_attempts=5)


def policy(
    maximum: timedelta = timedelta(seconds=60), initial: timedelta = timedelta(seconds=1), multiplier: float = 2.0
) -> PolicyRow:
    """A policy of five attempts."""
    return PolicyRow(1, 5, initial, maximum, multiplier, timedelta(seconds=10), (4, 8, 10, 14))


@given(
    attempt=st.integers(1, 10_000),
    initial=st.timedeltas(timedelta(0), timedelta(days=1)),
    maximum=st.timedeltas(timedelta(0), timedelta(days=365)),
    multiplier=st.floats(1, 1000),
)
def test_a_wait_is_never_above_its_bound(
    attempt: int, initial: timedelta, maximum: timedelta, multiplier: float
) -> None:
    wait = outcomes.backoff(policy(maximum, initial, multiplier), attempt)
    assert timedelta(0) <= wait <= maximum
    if attempt == 1:
        assert wait <= initial


def test_waits_are_spread_over_the_whole_of_their_bound() -> None:
    waits = [outcomes.backoff(policy(), 4).total_seconds() for _ in range(2000)]
    # Full jitter: uniform from 0 to initial * 2^3.
    assert min(waits) < 0.2
    assert 7.8 < max(waits) <= 8
    assert statistics.mean(waits) == pytest.approx(4, abs=0.5)


@pytest.mark.parametrize("code", Code.values()[1:])
def test_only_transient_codes_are_tried_again(code: Code.ValueType) -> None:
    failed = outcomes.failure(state(), Status(code=code, message="m"))
    transient = code in {Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.ABORTED, Code.DEADLINE_EXCEEDED}
    assert outcomes.is_retried(policy(), failed) is transient
    settlement = outcomes.settlement(state(), policy(), failed)
    if transient:
        assert settlement.state == JobState.JOB_STATE_SCHEDULED
        assert settlement.delay is not None
    else:
        cancelled = code == Code.CANCELLED
        assert settlement.state == (JobState.JOB_STATE_CANCELLED if cancelled else JobState.JOB_STATE_FAILED)
        assert settlement.delay is None
    last = outcomes.settlement(state(5), policy(), failed)
    assert last.state != JobState.JOB_STATE_SCHEDULED


@pytest.mark.parametrize("code", Code.values()[1:])
def test_a_policy_says_which_of_a_handlers_statuses_are_tried_again(code: Code.ValueType) -> None:
    named = replace(policy(), retry_codes=(Code.NOT_FOUND, Code.INTERNAL))
    said = outcomes.settlement(state(), named, outcomes.failure(state(), Status(code=code, message="m")))
    retried = code in (Code.NOT_FOUND, Code.INTERNAL)
    assert (said.state == JobState.JOB_STATE_SCHEDULED) is retried
    # What the handler did not say itself is not the policy's.
    for other in (
        outcomes.timed_out(state(), timedelta(seconds=1)),
        outcomes.failure(state(), ValueError()),
        outcomes.failure(state(), RowcallError(ErrorReason.ERROR_REASON_SHARD_UNAVAILABLE, "later")),
    ):
        assert outcomes.settlement(state(), named, other).state == JobState.JOB_STATE_SCHEDULED
    for final in (outcomes.cancelled(state()), outcomes.deadline_over(state())):
        everything = replace(policy(), retry_codes=tuple(Code.values()))
        assert outcomes.settlement(state(), everything, final).state != JobState.JOB_STATE_SCHEDULED


def test_our_own_errors_follow_their_codes() -> None:
    unreachable = RowcallError(ErrorReason.ERROR_REASON_SHARD_UNAVAILABLE, "later", retry_after=timedelta(seconds=9))
    failed = outcomes.failure(state(), unreachable)
    assert (failed.retry, failed.at_least) == (True, timedelta(seconds=9))
    delay = outcomes.settlement(state(), policy(), failed).delay
    assert delay is not None
    assert delay >= timedelta(seconds=9)
    refused = RowcallError(ErrorReason.ERROR_REASON_FAULTS_NOT_ALLOWED, "no")
    assert not outcomes.failure(state(), refused).retry


def test_an_operation_is_packed_and_unpacked() -> None:
    operation = finished(RunResponse(payload=b"p"))
    assert operation.response.type_url == "type.googleapis.com/rowcall.probe.v1.RunResponse"
    assert response(operation, RunResponse) == RunResponse(payload=b"p")
    with pytest.raises(TypeError, match=r"holds rowcall\.probe\.v1\.RunResponse, not rowcall\.probe\.v1\.EchoResponse"):
        response(operation, EchoResponse)
    with pytest.raises(TypeError, match="holds no response"):
        response(Operation(done=True), RunResponse)
    with pytest.raises(ValueError, match="is not done"):
        response(Operation(name="tenants/a/operations/b"), RunResponse)
    with pytest.raises(OperationFailed, match=r"gone \(code 5\)") as failed:
        response(Operation(done=True, error=Status(code=5, message="gone")), RunResponse)
    assert failed.value.status.code == 5


async def test_a_context_remembers_as_grpcs_own() -> None:
    attempt = state()
    context = AsyncJobContext(attempt)
    assert attempt.code is None
    assert (context.details(), tuple(context.trailing_metadata())) == ("", ())
    context.set_code(grpc.StatusCode.NOT_FOUND)
    context.set_details("gone")
    context.set_trailing_metadata([("key", "value")])
    assert (context.code(), context.details()) == (grpc.StatusCode.NOT_FOUND, "gone")
    assert tuple(context.trailing_metadata()) == (("key", "value"),)
    assert context.peer() == "rowcall:tenants/acme/operations/00000000-0000-0000-0000-000000000007"
    assert (context.peer_identities(), context.peer_identity_key(), context.auth_context()) == (None, None, {})
    assert context.time_remaining() is None
    await context.send_initial_metadata(())
    with pytest.raises(grpc.aio.UsageError):
        await context.send_initial_metadata(())
    with pytest.raises(grpc.aio.UsageError, match="unary"):
        await context.read()
    with pytest.raises(grpc.aio.UsageError, match="unary"):
        await context.write(EchoResponse())
    assert not context.done()
    with pytest.raises(grpc.aio.AbortError):
        await context.abort(grpc.StatusCode.OK, "is no error")
    assert context.done()
    # As grpc.Server: ending as aborted and as OK at once is a fault.
    said = outcomes.said_status(attempt)
    assert said is not None
    assert (said.code, said.message) == (Code.UNKNOWN, "")
    with pytest.raises(grpc.aio.UsageError, match="already"):
        await context.abort(grpc.StatusCode.INTERNAL, "again")


def test_a_sync_context_can_cancel_itself() -> None:
    attempt = state()
    context = SyncJobContext(attempt)
    assert context.cancel()
    assert context.cancelled()
    said = outcomes.said_status(attempt)
    assert said is not None
    assert outcomes.settlement(attempt, policy(), outcomes.failure(attempt, said)).state == (
        JobState.JOB_STATE_CANCELLED
    )
    assert attempt.finish() == []
    assert not context.add_callback(lambda: None)
