"""Jobs that a worker claims ahead of its free slots: they begin as slots come free, and are nobody's for long otherwise."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import timedelta

import pytest

from rowcall.probe.v1.probe_pb2 import EchoRequest, EchoResponse
from rowcall.v1.job_pb2 import AttemptOutcome, JobState
from rowcall_worker.claiming import claimer
from rowcall_worker.running import executor
from rowcall_worker.running.slots import Slots
from rowcall_worker.serving.context import AsyncJobContext, SyncJobContext
from tests.fix_worker import Calls, Job, Workers, serve
from tests.support.waiting import until

AHEAD = 5
LONG = 600.0


class Ahead:
    """How many jobs workers may claim ahead, however slow they are."""

    jobs = AHEAD


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> Ahead:
    """Workers claim a few jobs ahead."""
    made = Ahead()
    monkeypatch.setattr(Slots, "ahead", property(lambda _: made.jobs))
    return made


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch, ahead: Ahead) -> Ahead:
    """And keep them for as long as it takes."""
    monkeypatch.setattr(executor, "LATE", LONG)
    return ahead


class Handler:
    """Holds its first job until it is let go."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()
        self.order: list[bytes] = []
        self.at_once = 0
        self.most = 0

    async def echo(self, request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        self.order.append(request.payload)
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            await (self.let_go.wait() if len(self.order) == 1 else asyncio.sleep(0.001))
        finally:
            self.at_once -= 1
        return EchoResponse(payload=request.payload)


def numbered(count: int) -> list[EchoRequest]:
    return [EchoRequest(payload=b"%d" % number) for number in range(count)]


async def states(calls: Calls, jobs: list[Job]) -> list[int]:
    return [row.state for row in await calls.rows(jobs)]


async def claimed(
    calls: Calls, workers: Workers, handler: Handler, count: int, *, allowed: timedelta = timedelta(minutes=1)
) -> list[Job]:
    """Jobs of which a worker of one slot runs the first, and has claimed the next ones ahead."""
    jobs = await calls.submit_many("Echo", numbered(count), policy={"max_attempts": 1, "timeout": allowed})
    await workers.start(serve(echo=handler.echo), slots=1)

    async def look() -> bool:
        running = (await states(calls, jobs))[: 1 + AHEAD] == [JobState.JOB_STATE_RUNNING] * (1 + AHEAD)
        # The database knows of the claim before the worker does.
        return running and bool(handler.order)

    await until(look)
    return jobs


async def test_they_run_in_their_order_and_no_more_at_once_than_there_are_slots(
    calls: Calls, workers: Workers, patient: Ahead, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of two claims under way the later one's answer may come first.
    monkeypatch.setattr(claimer, "CLAIMS", 1)
    handler = Handler()
    jobs = await claimed(calls, workers, handler, 20)
    assert handler.order == [b"0"]
    handler.let_go.set()
    await calls.all_done(jobs)
    assert handler.order == [b"%d" % number for number in range(20)]
    assert handler.most == 1


async def test_threads_run_them_too(calls: Calls, workers: Workers, patient: Ahead) -> None:
    alone = threading.Lock()
    together: list[bytes] = []

    def echo(request: EchoRequest, context: SyncJobContext) -> EchoResponse:
        if not alone.acquire(blocking=False):
            together.append(request.payload)
        else:
            time.sleep(0.001)
            alone.release()
        return EchoResponse(payload=request.payload)

    await workers.start(serve(echo=echo), threads=1)
    jobs = await calls.submit_many("Echo", numbered(50))
    rows = await calls.all_done(jobs)
    assert {row.state for row in rows} == {JobState.JOB_STATE_SUCCEEDED}
    assert together == []


async def test_what_finds_no_slot_in_time_is_handed_back_unharmed(calls: Calls, workers: Workers, ahead: Ahead) -> None:
    """The pace was that of quick jobs, and then comes one that takes long."""
    handler = Handler()
    jobs = await calls.submit_many("Echo", numbered(1 + AHEAD))
    worker = await workers.start(serve(echo=handler.echo), slots=1)
    await until(lambda: handler.order == [b"0"])
    ahead.jobs = 0

    async def look() -> bool:
        return await states(calls, jobs) == [JobState.JOB_STATE_RUNNING] + [JobState.JOB_STATE_READY] * AHEAD

    await until(look)
    other = Handler()
    other.order.append(b"not the first")
    await workers.start(serve(echo=other.echo), slots=1)
    rows = await calls.all_done(jobs[1:])
    assert {row.attempt for row in rows} == {1}, "no attempt was used up"
    assert {each.outcome for row in rows for each in row.attempts} == {AttemptOutcome.ATTEMPT_OUTCOME_RELEASED}
    handler.let_go.set()
    await calls.all_done(jobs)
    assert handler.order == [b"0"]
    await worker.drain()


async def test_one_that_is_cancelled_meanwhile_never_begins(calls: Calls, workers: Workers, patient: Ahead) -> None:
    handler = Handler()
    jobs = await claimed(calls, workers, handler, 1 + AHEAD)
    await calls.cancel(jobs[2])
    assert (await calls.done(jobs[2])).state == JobState.JOB_STATE_CANCELLED
    handler.let_go.set()
    rows = await calls.all_done(jobs)
    assert [row.state for row in rows].count(JobState.JOB_STATE_SUCCEEDED) == AHEAD
    assert b"2" not in handler.order


async def test_their_time_begins_with_their_handlers(calls: Calls, workers: Workers, patient: Ahead) -> None:
    handler = Handler()
    jobs = await claimed(calls, workers, handler, 1 + AHEAD, allowed=timedelta(seconds=0.5))
    # The first one is ended by its timeout, long after the others were claimed.
    rows = await calls.all_done(jobs)
    assert rows[0].state == JobState.JOB_STATE_FAILED
    assert {row.state for row in rows[1:]} == {JobState.JOB_STATE_SUCCEEDED}


async def test_a_drain_hands_them_back_with_what_has_not_ended(calls: Calls, workers: Workers, patient: Ahead) -> None:
    handler = Handler()
    jobs = await calls.submit_many("Echo", numbered(1 + AHEAD))
    worker = await workers.start(serve(echo=handler.echo), slots=1)
    await until(lambda: handler.order == [b"0"])
    await worker.drain(timedelta(seconds=0.2))
    rows = await calls.rows(jobs)
    assert {(row.state, row.attempt) for row in rows} == {(JobState.JOB_STATE_READY, 0)}
    assert handler.order == [b"0"]
