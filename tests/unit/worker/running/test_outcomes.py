"""Retry rules, waits, and what handlers of Operation-returning methods answer with."""

from __future__ import annotations

import statistics
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import grpc
import grpc.aio
import pytest
from google.longrunning.operations_pb2 import Operation
from google.protobuf.descriptor_pb2 import UninterpretedOption
from google.protobuf.duration_pb2 import Duration
from google.protobuf.empty_pb2 import Empty
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import DebugInfo, RetryInfo
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st

from rowcall.errors import RowcallError, read_envelope
from rowcall.probe.v1.probe_pb2 import EchoResponse, RunResponse
from rowcall.queue.model import ClaimedJob, PolicyRow
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall.v1.job_pb2 import JobState
from rowcall_worker import Fail, OperationFailed, finished, response
from rowcall_worker.running import outcomes
from rowcall_worker.serving.attempt import AttemptState
from rowcall_worker.serving.context import AsyncJobContext, SyncJobContext
from rowcall_worker.serving.handlers import ServedMethod

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
    assert (said.status.code, said.status.message) == (Code.UNKNOWN, "")
    assert said.wrong == "abort was called with OK, which is no error's code"
    with pytest.raises(grpc.aio.UsageError, match="already"):
        await context.abort(grpc.StatusCode.INTERNAL, "again")


def test_a_sync_context_can_cancel_itself() -> None:
    attempt = state()
    context = SyncJobContext(attempt)
    assert context.cancel()
    assert context.cancelled()
    said = outcomes.said_status(attempt)
    assert said is not None
    assert outcomes.settlement(attempt, policy(), outcomes.failure(attempt, said.status)).state == (
        JobState.JOB_STATE_CANCELLED
    )
    assert attempt.finish() == []
    assert not context.add_callback(lambda: None)


def retry_info(seconds: int, nanos: int = 0) -> Status:
    """UNAVAILABLE, and when to come back."""
    status = Status(code=Code.UNAVAILABLE, message="later")
    status.details.add().Pack(RetryInfo(retry_delay=Duration(seconds=seconds, nanos=nanos)))
    return status


@pytest.mark.parametrize(
    ("seconds", "nanos", "least"),
    [
        (99_999_999_999_999, 0, timedelta(days=1)),
        (2**63 - 1, 2**31 - 1, timedelta(days=1)),
        (0, -(2**31), timedelta(0)),
        (-(2**63), 0, timedelta(0)),
        (90, 500_000_000, timedelta(seconds=90.5)),
    ],
)
def test_a_retry_info_may_say_anything(seconds: int, nanos: int, least: timedelta) -> None:
    failed = outcomes.failure(state(), retry_info(seconds, nanos))
    settlement = outcomes.settlement(state(), policy(), failed)
    assert settlement.state == JobState.JOB_STATE_SCHEDULED
    assert settlement.delay is not None
    assert least <= settlement.delay <= least + timedelta(seconds=1)


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        ("NOT_FOUND", "the code 'NOT_FOUND' is no grpc.StatusCode"),
        (99, "the code 99 is no grpc.StatusCode"),
        (-1, "the code -1 is no grpc.StatusCode"),
        (5.0, "the code of type float is no grpc.StatusCode"),
        ("The card 4111 1111 1111 1111 was declined.", "the code of type str is no grpc.StatusCode"),
    ],
)
def test_a_code_that_is_none_is_unknown_and_named(code: Any, wrong: str) -> None:
    attempt = state()
    context = SyncJobContext(attempt)
    context.set_code(code)
    context.set_details("its text")
    said = outcomes.said_status(attempt)
    assert said is not None
    failed = outcomes.failure(attempt, said.status, wrong=said.wrong)
    assert (failed.status.code, failed.status.message) == (Code.UNKNOWN, "its text")
    info = read_envelope(failed.status)
    assert info is not None
    assert info.metadata["wrong"] == wrong


def test_a_trailer_that_is_no_status_is_named() -> None:
    attempt = state()
    context = SyncJobContext(attempt)
    context.set_code(grpc.StatusCode.NOT_FOUND)
    context.set_trailing_metadata([("grpc-status-details-bin", b"\xff"), ("x", "y")])
    said = outcomes.said_status(attempt)
    assert said is not None
    assert (said.status, said.wrong) == (
        Status(code=Code.NOT_FOUND),
        "the trailer grpc-status-details-bin is no google.rpc.Status",
    )


class Textless:
    """What is no text, and cannot be made one."""

    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(("details", "message"), [(None, ""), (Textless(), "<Textless>"), (7, "7")])
def test_details_that_are_no_text_do_not_cost_the_code(details: Any, message: str) -> None:
    attempt = state()
    context = SyncJobContext(attempt)
    context.set_code(grpc.StatusCode.NOT_FOUND)
    context.set_details(details)
    said = outcomes.said_status(attempt)
    assert said is not None
    assert said.status == Status(code=Code.NOT_FOUND, message=message)


def test_a_detail_of_fail_that_lacks_what_it_requires_is_named() -> None:
    # FileDescriptorProto's neighbour UninterpretedOption.NamePart is proto2, with required fields.
    broken = UninterpretedOption.NamePart()
    value = Fail(grpc.StatusCode.DATA_LOSS, "The page is torn.", [broken, DebugInfo(detail="d")])
    failed = outcomes.said_value(state(), value)
    assert isinstance(failed, outcomes.Failure)
    assert (failed.status.code, failed.status.message, failed.retry) == (Code.DATA_LOSS, "The page is torn.", False)
    kept = DebugInfo()
    assert failed.status.details[0].Unpack(kept)
    info = read_envelope(failed.status)
    assert info is not None
    assert info.metadata["wrong"] == (
        "a detail of Fail, a google.protobuf.UninterpretedOption.NamePart, lacks fields that it requires"
    )


def test_details_of_fail_are_messages() -> None:
    with pytest.raises(TypeError, match="protobuf messages, not str"):
        Fail(grpc.StatusCode.DATA_LOSS, "The page is torn.", ["page 4"])  # type: ignore[list-item]


@pytest.mark.parametrize("type_url", ["", "x", "type.googleapis.com/a\x00b"])
def test_a_response_of_no_type_is_told_as_that(type_url: str) -> None:
    """Postgres's text has no NUL."""
    answered = Operation(done=True)
    answered.response.type_url = type_url
    method = ServedMethod(
        "s.S/M",
        lambda *_: Empty(),
        Empty.FromString,
        Empty.SerializeToString,
        is_async=False,
        request_type="google.protobuf.Empty",
        response_type="google.protobuf.Empty",
        returns_operation=True,
    )
    with pytest.raises(RowcallError) as caught:
        outcomes.encode_result(method, answered, max_bytes=100)
    settlement = outcomes.settlement(state(), policy(), outcomes.failure(state(), caught.value))
    assert settlement.error_message is not None
    assert "\x00" not in settlement.error_message
    assert settlement.error_code == Code.INTERNAL
