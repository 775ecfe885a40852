"""The whole job's deadline and the attempt's timeout, whichever comes first; and a method's own rules for retries."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import grpc
import pytest
from google.rpc.code_pb2 import Code

from rowcall.errors import read_envelope
from rowcall.probe.v1.probe_pb2 import EchoRequest, EchoResponse
from rowcall.queue.model import JobRow
from rowcall.v1.job_pb2 import AttemptOutcome, JobState
from rowcall_worker.serving.context import AsyncJobContext
from tests.fix_worker import Calls, Workers, error_of, serve
from tests.support.waiting import until


def reason(row: JobRow) -> str:
    """The reason in a failed job's error."""
    info = read_envelope(error_of(row))
    assert info is not None
    return info.reason


class Endless:
    """A handler that runs until it is cancelled, or let go; it knows how much time it was told that it had."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()
        self.cancelled = 0
        self.remaining: list[float | None] = []
        self.ignores = False

    async def echo(self, request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        self.remaining.append(context.time_remaining())
        try:
            await self.let_go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            if self.ignores:
                await self.let_go.wait()
            raise
        return EchoResponse()


async def test_an_attempt_ends_with_its_jobs_deadline_and_the_job_fails(calls: Calls, workers: Workers) -> None:
    handler = Endless()
    await workers.start(serve(echo=handler.echo))
    job = await calls.submit("Echo", EchoRequest(), policy={"deadline": timedelta(seconds=1)})
    row = await calls.done(job)
    assert (row.state, reason(row)) == (JobState.JOB_STATE_FAILED, "JOB_DEADLINE_EXCEEDED")
    assert (row.attempt, handler.cancelled) == (1, 1)
    (remaining,) = handler.remaining
    assert remaining is not None
    assert 0 < remaining <= 1


async def test_a_handler_that_ignores_the_deadline_fails_its_job_with_it(calls: Calls, workers: Workers) -> None:
    handler = Endless()
    handler.ignores = True
    await workers.start(serve(echo=handler.echo))
    try:
        job = await calls.submit("Echo", EchoRequest(), policy={"deadline": timedelta(seconds=1)})
        assert reason(await calls.done(job)) == "JOB_DEADLINE_EXCEEDED"
    finally:
        handler.let_go.set()


async def test_a_timeout_before_the_deadline_is_tried_again(calls: Calls, workers: Workers) -> None:
    handler = Endless()
    await workers.start(serve(echo=handler.echo))
    job = await calls.submit(
        "Echo",
        EchoRequest(),
        policy={
            "deadline": timedelta(minutes=1),
            "timeout": timedelta(milliseconds=200),
            "backoff_maximum": timedelta(0),
        },
    )
    await until(lambda: len(handler.remaining) == 2)
    handler.let_go.set()
    row = await calls.done(job)
    assert row.state == JobState.JOB_STATE_SUCCEEDED
    assert {each.outcome for each in row.attempts} == {AttemptOutcome.ATTEMPT_OUTCOME_RETRIED}


@pytest.mark.parametrize(
    ("retry_codes", "attempts"), [((Code.NOT_FOUND,), [2, 1]), ((Code.UNAVAILABLE,), [1, 2]), ((4, 8, 10, 14), [1, 2])]
)
async def test_a_methods_policy_says_which_statuses_are_tried_again(
    calls: Calls, workers: Workers, retry_codes: tuple[int, ...], attempts: list[int]
) -> None:
    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        code = grpc.StatusCode.NOT_FOUND if request.payload == b"not found" else grpc.StatusCode.UNAVAILABLE
        await context.abort(code, "as told")

    await workers.start(serve(echo=echo))
    jobs = await calls.submit_many(
        "Echo",
        [EchoRequest(payload=b"not found"), EchoRequest(payload=b"unavailable")],
        policy={"retry_codes": retry_codes, "max_attempts": 2, "backoff_maximum": timedelta(0)},
    )
    rows = await calls.all_done(jobs)
    assert [row.attempt for row in rows] == attempts
    assert {row.state for row in rows} == {JobState.JOB_STATE_FAILED}
