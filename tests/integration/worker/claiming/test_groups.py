"""The process that runs suspects and nothing else: in groups, then alone, each when all before it has ended and is written."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest

from rowcall.probe.v1.probe_pb2 import EchoRequest, EchoResponse
from rowcall.queue.hints import Hint
from rowcall.queue.model import Settled, Settlement
from rowcall.queue.postgres.work import PostgresWorkQueue
from rowcall.v1.job_pb2 import JobState
from rowcall_worker import Worker
from rowcall_worker.claiming import groups
from rowcall_worker.claiming.quarantine import Apart
from rowcall_worker.claiming.shares import QueueChoice
from rowcall_worker.serving.context import AsyncJobContext, SyncJobContext
from rowcall_worker.settings import settings_apart
from tests.fix_cluster import Cluster
from tests.fix_worker import Calls, Workers, serve
from tests.support.suspects import QUEUE, Handler, held, make_suspects, requests
from tests.support.waiting import until


class Process:
    """A worker as it is in such a process, which is this one here."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.done = asyncio.Event()

    async def start(self, workers: Workers, *register: Callable[[Worker], None], **changes: Any) -> Worker:
        settings = settings_apart(workers.settings(**changes), "a")
        worker = Worker(settings, apart=Apart(tell=lambda text: self.told.append(json.loads(text)), done=self.done.set))
        workers.keep(worker)
        for each in register:
            each(worker)
        await worker.start()
        return worker

    @property
    def groups(self) -> list[int]:
        """How many jobs were begun at once, each time."""
        return [each["jobs"] for each in self.told if each]


@pytest.fixture
async def process() -> Process:
    """The process."""
    return Process()


async def test_suspects_run_in_groups_of_the_root_of_their_number_and_nothing_else_does(
    cluster: Cluster, calls: Calls, workers: Workers, process: Process
) -> None:
    handler = Handler()
    jobs = await make_suspects(cluster, calls, requests("suspect", 10))
    ordinary = await calls.submit("Echo", EchoRequest(payload=b"ordinary"))
    await process.start(workers, serve(echo=handler.echo))
    rows = await calls.all_done(jobs)
    assert {(row.state, row.attempt) for row in rows} == {(JobState.JOB_STATE_SUCCEEDED, 1)}
    assert process.groups == [4, 4, 2]
    # Each of a group beside all of its group, and beside nobody else.
    groups_of = {frozenset({name, *company}) for name, company in handler.company.items()}
    assert sorted(map(len, groups_of)) == [2, 4, 4]
    assert len(frozenset.union(*groups_of)) == 10
    assert (await calls.row(ordinary)).state == JobState.JOB_STATE_READY
    named = {name for each in process.told if each for name in each["operations"]}
    assert named == {job.name for job in jobs}
    # What it tells last is that nothing runs: a death later is laid on nobody.
    await until(lambda: process.told[-1] == {})


async def test_what_a_group_lost_runs_alone(cluster: Cluster, calls: Calls, workers: Workers, process: Process) -> None:
    handler = Handler()
    jobs = await make_suspects(cluster, calls, requests("suspect", 3), alone=True)
    await process.start(workers, serve(echo=handler.echo))
    await calls.all_done(jobs)
    assert process.groups == [1, 1, 1]
    assert all(handler.alone(name) for name in handler.order)


async def test_a_queues_limit_holds_for_its_suspects(
    cluster: Cluster, calls: Calls, workers: Workers, process: Process
) -> None:
    handler = Handler()
    jobs = await make_suspects(cluster, calls, requests("suspect", 9))
    jobs += await make_suspects(cluster, calls, requests("other", 4), queue="free")
    await process.start(workers, serve(echo=handler.echo), queues=(QueueChoice(QUEUE, slots=2), QueueChoice("free")))
    await calls.all_done(jobs)
    assert max(len(company) for name, company in handler.company.items() if name.startswith("suspect")) == 1
    # In turns with those of the other queue, and never beside them.
    assert sorted(process.groups) == [1, 2, 2, 2, 2, 2, 2]
    assert not any(
        name.split()[0] != other.split()[0] for name, company in handler.company.items() for other in company
    )


async def test_handlers_in_threads_are_in_groups_of_no_more_than_there_are_threads(
    cluster: Cluster, calls: Calls, workers: Workers, process: Process
) -> None:
    def echo(request: EchoRequest, context: SyncJobContext) -> EchoResponse:
        return EchoResponse(payload=request.payload)

    jobs = await make_suspects(cluster, calls, requests("suspect", 10))
    await process.start(workers, serve(echo=echo), threads=2)
    await calls.all_done(jobs)
    assert process.groups == [2, 2, 2, 2, 2]


async def test_a_group_runs_only_when_the_outcomes_of_the_one_before_are_written(
    cluster: Cluster, calls: Calls, workers: Workers, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle, writable, asked = PostgresWorkQueue.settle, asyncio.Event(), asyncio.Event()
    claims = 0
    claim = PostgresWorkQueue.claim_suspects

    async def settle_when_writable(
        self: PostgresWorkQueue, settlements: Sequence[Settlement], hint: Hint | None = None
    ) -> list[Settled | Exception]:
        asked.set()
        await writable.wait()
        return await settle(self, settlements, hint)

    async def counted(self: PostgresWorkQueue, *args: Any) -> Any:
        nonlocal claims
        claims += 1
        return await claim(self, *args)

    monkeypatch.setattr(PostgresWorkQueue, "settle", settle_when_writable)
    monkeypatch.setattr(PostgresWorkQueue, "claim_suspects", counted)
    handler = Handler()
    jobs = await make_suspects(cluster, calls, requests("suspect", 4))
    await process.start(workers, serve(echo=handler.echo))
    await asked.wait()
    # Its death now would be laid on jobs that have done their work. Longer than a look takes to come round.
    await asyncio.sleep(4 * groups.EVERY)
    assert (len(handler.order), claims) == (2, 1)
    writable.set()
    await calls.all_done(jobs)


async def test_it_asks_for_its_end_when_no_suspect_came_for_a_while(
    cluster: Cluster, calls: Calls, workers: Workers, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "LINGER", 1.0)
    handler = Handler()
    (job,) = await make_suspects(cluster, calls, requests("held", 1))
    await process.start(workers, serve(echo=handler.echo))
    await until(lambda: len(handler.running) == 1)
    await asyncio.sleep(2 * groups.LINGER)  # what runs is no idleness
    assert not process.done.is_set()
    handler.let_go.set()
    await calls.done(job)
    await asyncio.wait_for(process.done.wait(), 20)


async def test_beside_a_handler_that_was_given_up_nothing_more_is_begun(
    cluster: Cluster, calls: Calls, workers: Workers, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rowcall_worker.running.executor.CANCEL_GRACE", timedelta(milliseconds=50))
    let_go = asyncio.Event()
    started: list[bytes] = []

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        started.append(request.payload)
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue
        return EchoResponse()

    first, second = await make_suspects(cluster, calls, requests("hangs", 2), alone=True)
    await process.start(workers, serve(echo=echo))
    try:
        await until(lambda: len(started) == 1)
        for job in (first, second):
            if (await calls.row(job)).state == JobState.JOB_STATE_RUNNING:
                await calls.cancel(job)
        # What comes next has another process, in which nothing goes on.
        await asyncio.wait_for(process.done.wait(), 20)
        assert len(started) == 1
        assert sorted([(await calls.row(job)).state for job in (first, second)]) == [
            JobState.JOB_STATE_READY,
            JobState.JOB_STATE_CANCELLED,
        ]
    finally:
        let_go.set()


async def test_a_drain_hands_a_group_back_as_suspects(
    cluster: Cluster, calls: Calls, workers: Workers, process: Process
) -> None:
    handler = Handler()
    jobs = await make_suspects(cluster, calls, requests("held", 4))
    worker = await process.start(workers, serve(echo=handler.echo))
    await until(lambda: len(handler.running) == 2)
    await worker.drain(timedelta(0))
    assert [await held(cluster, job) for job in jobs] == [(JobState.JOB_STATE_READY, 2)] * 4
    rows = await calls.rows(jobs)
    assert {row.lost for row in rows} == {0}


def test_groups_are_of_the_root_of_the_number_rounded_up() -> None:
    assert [groups.root(count) for count in (0, 1, 2, 4, 5, 9, 10, 1000, 10_000)] == [0, 1, 2, 2, 3, 3, 4, 32, 100]
