"""What a handler says becomes of its job, instead of answering."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import NoReturn

import grpc
import pytest
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import ResourceInfo
from google.rpc.status_pb2 import Status

from rowcall.errors import read_envelope
from rowcall.probe.v1.probe_pb2 import EchoRequest, EchoResponse
from rowcall.queue.model import JobRow
from rowcall.v1.job_pb2 import AttemptOutcome, JobState
from rowcall_worker import Cancel, Fail, Retry, Snooze
from rowcall_worker.serving.context import AsyncJobContext, JobContext, SyncJobContext
from tests.fix_worker import Calls, Workers, error_of, serve


def says(what: Callable[[JobContext], NoReturn], *, sync: bool, times: int = 1) -> Callable[..., object]:
    """A handler that says something the first times it runs, and answers then with the attempt's number."""
    runs: list[int] = []

    def say(context: JobContext) -> EchoResponse:
        runs.append(context.attempt)
        if len(runs) <= times:
            what(context)
        return EchoResponse(attempt=context.attempt)

    def in_thread(request: EchoRequest, context: SyncJobContext) -> EchoResponse:
        return say(context)

    async def in_loop(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        return say(context)

    return in_thread if sync else in_loop


def raises(error: Exception) -> Callable[[JobContext], NoReturn]:
    def what(_: JobContext) -> NoReturn:
        raise error

    return what


def answered(row: JobRow) -> int:
    assert row.response is not None
    return EchoResponse.FromString(row.response).attempt


SOON = timedelta(milliseconds=10)


@pytest.mark.parametrize("sync", [False, True])
async def test_a_snoozed_job_runs_again_and_uses_no_attempt_up(calls: Calls, workers: Workers, *, sync: bool) -> None:
    await workers.start(serve(echo=says(raises(Snooze(SOON)), sync=sync, times=3)))
    row = await calls.done(await calls.submit("Echo", EchoRequest(), policy={"max_attempts": 1}))
    assert (row.state, row.attempt, answered(row)) == (JobState.JOB_STATE_SUCCEEDED, 1, 1)
    assert {each.outcome for each in row.attempts} == {AttemptOutcome.ATTEMPT_OUTCOME_SNOOZED}
    assert len(row.attempts) == 3


async def test_a_snooze_takes_as_long_as_it_says(calls: Calls, workers: Workers) -> None:
    await workers.start(serve(echo=says(lambda c: c.snooze(timedelta(hours=2)), sync=False)))
    job = await calls.submit("Echo", EchoRequest())
    row = await calls.until(job, lambda row: row.state == JobState.JOB_STATE_SCHEDULED)
    assert timedelta(minutes=119) < row.run_at - row.created_at < timedelta(minutes=121)


@pytest.mark.parametrize("sync", [False, True])
async def test_a_retry_uses_an_attempt_up_and_fails_with_the_last(
    calls: Calls, workers: Workers, *, sync: bool
) -> None:
    await workers.start(serve(echo=says(raises(Retry(SOON, "The scanner is warming up.")), sync=sync, times=2)))
    row = await calls.done(await calls.submit("Echo", EchoRequest(), policy={"max_attempts": 2}))
    assert (row.state, row.attempt) == (JobState.JOB_STATE_FAILED, 2)
    status = error_of(row)
    assert (status.code, status.message) == (Code.UNAVAILABLE, "The scanner is warming up.")
    info = read_envelope(status)
    assert info is not None
    assert (info.reason, info.metadata["origin"]) == ("HANDLER_ERROR", "JOB")
    [first] = row.attempts
    assert first.outcome == AttemptOutcome.ATTEMPT_OUTCOME_RETRIED
    assert first.error is not None
    assert Status.FromString(first.error).message == "The scanner is warming up."


async def test_a_retry_waits_as_long_as_it_says(calls: Calls, workers: Workers) -> None:
    """Not as long as the backoff has it."""
    await workers.start(serve(echo=says(lambda c: c.retry(timedelta(0)), sync=False)))
    policy = {"backoff_initial": timedelta(hours=10), "backoff_maximum": timedelta(hours=10)}
    row = await calls.done(await calls.submit("Echo", EchoRequest(), policy=policy))  # type: ignore[arg-type]
    assert (row.state, answered(row)) == (JobState.JOB_STATE_SUCCEEDED, 2)


async def test_a_retry_without_a_delay_waits_for_the_backoff(calls: Calls, workers: Workers) -> None:
    await workers.start(serve(echo=says(lambda c: c.retry(), sync=False)))
    policy = {"backoff_initial": timedelta(days=300), "backoff_maximum": timedelta(days=300)}
    job = await calls.submit("Echo", EchoRequest(), policy=policy)  # type: ignore[arg-type]
    row = await calls.until(job, lambda row: row.state == JobState.JOB_STATE_SCHEDULED)
    # A random part of it: less than a minute once in half a million runs.
    assert row.run_at - row.created_at > timedelta(minutes=1)


@pytest.mark.parametrize("sync", [False, True])
async def test_a_handler_cancels_its_job(calls: Calls, workers: Workers, *, sync: bool) -> None:
    await workers.start(serve(echo=says(raises(Cancel("Nobody wants it.")), sync=sync)))
    row = await calls.done(await calls.submit("Echo", EchoRequest()))
    assert (row.state, row.attempt) == (JobState.JOB_STATE_CANCELLED, 1)
    assert (error_of(row).code, error_of(row).message) == (Code.CANCELLED, "Nobody wants it.")


@pytest.mark.parametrize("sync", [False, True])
async def test_a_failure_is_for_good_whatever_its_code(calls: Calls, workers: Workers, *, sync: bool) -> None:
    detail = ResourceInfo(resource_name="page 7")
    fail = Fail(grpc.StatusCode.UNAVAILABLE, "The page is gone.", [detail])
    await workers.start(serve(echo=says(raises(fail), sync=sync)))
    row = await calls.done(await calls.submit("Echo", EchoRequest(), policy={"max_attempts": 5}))
    assert (row.state, row.attempt) == (JobState.JOB_STATE_FAILED, 1)
    status = error_of(row)
    assert (status.code, status.message) == (Code.UNAVAILABLE, "The page is gone.")
    found = ResourceInfo()
    assert status.details[0].Unpack(found)
    assert found == detail


async def test_what_is_raised_goes_before_a_code_that_was_set(calls: Calls, workers: Workers) -> None:
    def what(context: JobContext) -> NoReturn:
        context.set_code(grpc.StatusCode.NOT_FOUND)
        context.fail(grpc.StatusCode.DATA_LOSS, "Half of it is gone.")

    await workers.start(serve(echo=says(what, sync=False)))
    row = await calls.done(await calls.submit("Echo", EchoRequest()))
    assert (error_of(row).code, error_of(row).message) == (Code.DATA_LOSS, "Half of it is gone.")
