"""What handlers say of how far they are, as the row has it while they run."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence

import psycopg
import pytest

from rowcall.probe.v1.probe_pb2 import EchoRequest, EchoResponse
from rowcall.queue.model import Progress, Spent
from rowcall.queue.postgres.work import PostgresWorkQueue
from rowcall.v1.job_pb2 import JobState
from rowcall_worker.serving.context import AsyncJobContext, SyncJobContext
from tests.fix_cluster import Cluster
from tests.fix_worker import Calls, Workers, serve
from tests.support.waiting import until


class Writes:
    """Every statement that wrote progress."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.batches: list[Sequence[Progress]] = []
        self.kept: list[Sequence[Progress]] = []
        self.sent_at: list[float] = []
        report = PostgresWorkQueue.report_progress

        async def noted(
            queue: PostgresWorkQueue, progress: Sequence[Progress], spent: Sequence[Spent]
        ) -> list[Progress]:
            self.sent_at.append(time.monotonic())
            kept = await report(queue, progress, spent)
            self.batches.append(progress)
            self.kept.append(kept)
            return kept

        patch.setattr(PostgresWorkQueue, "report_progress", noted)


@pytest.mark.parametrize("sync", [False, True])
async def test_progress_is_seen_while_the_job_runs(calls: Calls, workers: Workers, *, sync: bool) -> None:
    let_go = threading.Event()

    def echo_in_thread(request: EchoRequest, context: SyncJobContext) -> EchoResponse:
        context.progress(0.25, "a quarter")
        let_go.wait(60)
        return EchoResponse()

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        context.progress(0.25, "a quarter")
        await asyncio.to_thread(let_go.wait, 60)
        return EchoResponse()

    await workers.start(serve(echo=echo_in_thread if sync else echo))
    job = await calls.submit("Echo", EchoRequest())
    try:
        row = await calls.until(job, lambda row: row.progress is not None)
        assert (row.state, row.progress, row.progress_message) == (JobState.JOB_STATE_RUNNING, 0.25, "a quarter")
        assert row.progress_at is not None
    finally:
        let_go.set()
    await calls.done(job)


async def test_words_are_coalesced_and_the_last_one_wins(
    calls: Calls, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = Writes(monkeypatch)
    let_go = asyncio.Event()
    said: list[int] = []

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        for step in range(1, 1001):
            context.progress(step / 1000, f"step {step}")
        said.append(1)
        await let_go.wait()
        return EchoResponse()

    await workers.start(serve(echo=echo))
    jobs = await calls.submit_many("Echo", [EchoRequest()] * 20)
    await until(lambda: len(said) == 20)

    async def all_seen() -> bool:
        return all(row.progress == 1 and row.progress_message == "step 1000" for row in await calls.rows(jobs))

    await until(all_seen)
    let_go.set()
    await calls.all_done(jobs)
    # 20,000 words: one statement if all jobs were claimed at once, one a second otherwise.
    assert len(writes.batches) <= 5
    assert max(map(len, writes.batches)) > 1


async def test_a_shard_is_written_to_once_a_second(
    calls: Calls, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = Writes(monkeypatch)

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        def said_until_three_were_written() -> bool:
            context.progress(0.5)
            return len(writes.sent_at) >= 3

        await until(said_until_three_were_written)
        return EchoResponse()

    await workers.start(serve(echo=echo))
    await calls.done(await calls.submit("Echo", EchoRequest()))
    first, second, third = writes.sent_at[:3]
    assert min(second - first, third - second) > 0.9


async def test_a_zombies_progress_is_not_kept(
    cluster: Cluster, calls: Calls, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = Writes(monkeypatch)
    started, go_on, let_go = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        started.set()
        await go_on.wait()
        context.progress(0.5, "zombie")
        await let_go.wait()
        return EchoResponse()

    await workers.start(serve(echo=echo))
    job = await calls.submit("Echo", EchoRequest())
    await asyncio.wait_for(started.wait(), 20)
    async with await psycopg.AsyncConnection.connect(cluster.shards[job.shard]) as connection:
        await connection.execute("update rowcall.job set lease = lease + 1")
    go_on.set()
    await until(lambda: len(writes.kept) == 1)
    assert writes.kept == [[]]
    row = await calls.row(job)
    assert (row.progress, row.progress_message) == (None, None)
    let_go.set()


async def test_what_is_no_progress_is_refused(calls: Calls, workers: Workers) -> None:
    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        for fraction in (-0.1, 1.1, float("nan"), float("inf")):
            with pytest.raises(ValueError, match="a number from 0 to 1"):
                context.progress(fraction)
        for odd in ("0.5", True):
            with pytest.raises(TypeError, match="a number from 0 to 1"):
                context.progress(odd)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="1000 characters at most, not 1001"):
            context.progress(0.5, "x" * 1001)
        with pytest.raises(TypeError, match="is a str, not a bytes"):
            context.progress(0.5, b"half")  # type: ignore[arg-type]
        context.progress(0, "a\0b\ud800")
        context.progress(None, "x" * 1000)
        return EchoResponse()

    await workers.start(serve(echo=echo))
    row = await calls.done(await calls.submit("Echo", EchoRequest(), policy={"max_attempts": 1}))
    assert row.state == JobState.JOB_STATE_SUCCEEDED


async def test_a_text_that_postgres_cannot_keep_is_mended(calls: Calls, workers: Workers) -> None:
    let_go = asyncio.Event()

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        context.progress(message="a\0b\ud800")
        await let_go.wait()
        return EchoResponse()

    await workers.start(serve(echo=echo))
    job = await calls.submit("Echo", EchoRequest())
    row = await calls.until(job, lambda row: row.progress_message is not None)
    assert (row.progress, row.progress_message) == (None, "ab?")
    let_go.set()
    await calls.done(job)
