"""What calls of providers cost is booked to the last cent, whatever becomes of who made them: by the provider's own ledger."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest
from grpc import StatusCode
from psycopg.rows import TupleRow

from rowcall.probe.v1.probe_pb2 import EchoRequest, EchoResponse
from rowcall.telemetry import metrics, tallies
from rowcall.v1.job_pb2 import JobState
from rowcall_worker import telemetry
from rowcall_worker.serving import progress
from rowcall_worker.serving.context import AsyncJobContext, JobContext, SyncJobContext
from tests.fix_cluster import Cluster
from tests.fix_services import Services
from tests.fix_worker import Calls, Workers, serve
from tests.support.provider import LEDGER, NAME, Provider
from tests.support.waiting import until

SNOOZES = 300


class Books:
    """What the shards have booked, beside what the provider has."""

    def __init__(self, cluster: Cluster, provider: Provider) -> None:
        self._cluster = cluster
        self._provider = provider

    async def rows(self, query: str) -> list[TupleRow]:
        """What all shards answer."""
        found: list[TupleRow] = []
        for dsn in self._cluster.shards.values():
            async with await psycopg.AsyncConnection.connect(dsn) as connection:
                found += await (await connection.execute(query.encode())).fetchall()
        return found

    async def booked(self) -> tuple[int, Decimal, int, Decimal]:
        """Entries and what they come to, and the same of the sums of the day."""
        rows = await self.rows(
            "select (select count(*) from rowcall.spend_entry), (select coalesce(sum(cost), 0) from rowcall.spend_entry),"
            " (select coalesce(sum(calls), 0) from rowcall.spend), (select coalesce(sum(cost), 0) from rowcall.spend)"
        )
        entries, cost, calls, sums = (sum(column) for column in zip(*rows, strict=True))
        return entries, cost, int(calls), sums

    async def balance(self, calls: int) -> None:
        """Waits until all is booked; holds it to be so many calls, and what the provider has charged for them."""
        charged = self._provider.calls
        assert len(charged) == calls

        async def all_booked() -> bool:
            return (await self.booked())[0] >= calls

        await until(all_booked)
        assert await self.booked() == (calls, sum(charged), calls, sum(charged))


@pytest.fixture
def provider(tmp_path: Path) -> Provider:
    """Whom the handlers of a test call."""
    return Provider(tmp_path / "ledger")


@pytest.fixture
def books(cluster: Cluster, provider: Provider) -> Books:
    """What was booked, to be held against what was charged."""
    return Books(cluster, provider)


def paying(provider: Provider, price: str = "0.10") -> None:
    """A call of the provider's, recorded."""
    with telemetry.model_call(NAME, "delphi") as call:
        call.tokens(input=10, output=2)
        call.cost(provider.ask(price), "EUR")


@pytest.mark.parametrize("sync", [False, True])
async def test_what_a_job_spent_is_there_when_it_is_done(
    calls: Calls, workers: Workers, provider: Provider, books: Books, monkeypatch: pytest.MonkeyPatch, *, sync: bool
) -> None:
    """With its settlement, and by no statement of its own."""
    # Nothing is told otherwise meanwhile.
    monkeypatch.setattr(progress, "_GATHER", 60.0)

    def echo_in_thread(request: EchoRequest, context: SyncJobContext) -> EchoResponse:
        paying(provider)
        return EchoResponse()

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        await asyncio.to_thread(paying, provider)
        paying(provider)
        return EchoResponse()

    await workers.start(serve(echo=echo_in_thread if sync else echo))
    await calls.done(await calls.submit("Echo", EchoRequest()))
    many = 1 if sync else 2
    assert await books.booked() == (many, many * Decimal("0.1"), many, many * Decimal("0.1"))
    await books.balance(many)
    [row] = await books.rows(
        "select distinct kind, provider, model, input_tokens, output_tokens, currency from rowcall.spend_entry"
    )
    assert row == (1, NAME, "delphi", 10, 2, "EUR")


@pytest.mark.parametrize("sync", [False, True])
async def test_each_call_is_counted_by_whom_it_was_of_and_whether_it_failed(
    calls: Calls, workers: Workers, provider: Provider, monkeypatch: pytest.MonkeyPatch, *, sync: bool
) -> None:
    """In the event loop and in threads."""
    monkeypatch.setattr(tallies, "_kept", True)

    def echo_in_thread(request: EchoRequest, context: SyncJobContext) -> EchoResponse:
        paying(provider)
        with contextlib.suppress(TimeoutError), telemetry.provider_call("maps"):
            raise TimeoutError
        return EchoResponse()

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        return await asyncio.to_thread(echo_in_thread, request, cast("Any", context))

    def figures() -> list[float]:
        of = [("model", NAME), ("provider", "maps")]
        return [metrics.EXTERNAL_CALLS.value(*each, outcome) for each in of for outcome in ("ok", "failed")]

    before = figures()
    await workers.start(serve(echo=echo_in_thread if sync else echo))
    await calls.all_done(await calls.submit_many("Echo", [EchoRequest()] * 3))
    assert [after - each for after, each in zip(figures(), before, strict=True)] == [3, 0, 0, 3]


async def test_a_job_that_is_snoozed_three_hundred_times_pays_each_time(
    calls: Calls, workers: Workers, provider: Provider, books: Books
) -> None:
    runs: list[int] = []

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        runs.append(1)
        paying(provider, f"0.{len(runs):03}")
        if len(runs) <= SNOOZES:
            context.snooze(timedelta(0))
        return EchoResponse()

    await workers.start(serve(echo=echo))
    row = await calls.done(await calls.submit("Echo", EchoRequest()), seconds=60)
    assert row.attempt == 1
    await books.balance(SNOOZES + 1)


def fails(context: JobContext) -> None:
    context.fail(StatusCode.NOT_FOUND, "Gone.")


def raises(context: JobContext) -> None:
    raise ZeroDivisionError


def answers_too_much(context: JobContext) -> None:
    """Its response is refused, which is found out when the handler has returned."""


@pytest.mark.parametrize("end", [fails, raises, answers_too_much])
async def test_an_attempt_that_fails_has_paid(
    calls: Calls, workers: Workers, provider: Provider, books: Books, end: Callable[[JobContext], None]
) -> None:
    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        paying(provider)
        end(context)
        return EchoResponse(payload=bytes(2000))

    await workers.start(serve(echo=echo), max_response_bytes=1000)
    policy = {"max_attempts": 2, "backoff_initial": timedelta(0)}
    row = await calls.done(await calls.submit("Echo", EchoRequest(), policy=policy))  # type: ignore[arg-type]
    assert row.state == JobState.JOB_STATE_FAILED
    await books.balance(row.attempt)


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_job_that_is_ended_from_outside_has_paid(
    calls: Calls, workers: Workers, provider: Provider, books: Books, *, cancelled: bool
) -> None:
    """In the moment of its end, too."""
    started = asyncio.Event()

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        started.set()
        try:
            return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]
        finally:
            paying(provider)

    await workers.start(serve(echo=echo))
    timeout = timedelta(seconds=60 if cancelled else 0.2)
    job = await calls.submit("Echo", EchoRequest(), policy={"max_attempts": 1, "timeout": timeout})
    await asyncio.wait_for(started.wait(), 20)
    if cancelled:
        await calls.cancel(job)
    await calls.done(job)
    await books.balance(1)


async def test_a_handler_that_goes_on_behind_its_end_has_paid(
    calls: Calls, workers: Workers, provider: Provider, books: Books
) -> None:
    go_on = threading.Event()

    def echo(request: EchoRequest, context: SyncJobContext) -> EchoResponse:
        paying(provider)
        go_on.wait(60)
        paying(provider)
        return EchoResponse()

    await workers.start(serve(echo=echo))
    policy = {"max_attempts": 1, "timeout": timedelta(seconds=0.2)}
    try:
        await calls.done(await calls.submit("Echo", EchoRequest(), policy=policy))  # type: ignore[arg-type]
        await books.balance(1)
    finally:
        go_on.set()
    await until(lambda: len(provider.calls) == 2)
    await books.balance(2)


async def test_an_attempt_that_was_fenced_off_has_paid(
    cluster: Cluster, calls: Calls, workers: Workers, provider: Provider, books: Books
) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        paying(provider)
        started.set()
        await go_on.wait()
        paying(provider)
        return EchoResponse()

    await workers.start(serve(echo=echo))
    job = await calls.submit("Echo", EchoRequest())
    await asyncio.wait_for(started.wait(), 20)
    async with await psycopg.AsyncConnection.connect(cluster.shards[job.shard]) as connection:
        await connection.execute("update rowcall.job set lease = lease + 1")
    go_on.set()
    await until(lambda: len(provider.calls) == 2)
    await books.balance(2)
    assert (await calls.row(job)).state == JobState.JOB_STATE_RUNNING


async def test_what_was_spent_outlives_the_operation(
    calls: Calls, workers: Workers, provider: Provider, books: Books
) -> None:
    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        paying(provider)
        return EchoResponse()

    await workers.start(serve(echo=echo))
    job = await calls.submit("Echo", EchoRequest())
    await calls.done(job)
    assert await calls.store(job.shard).delete(job.tenant, job.job_id)
    await books.balance(1)


async def test_a_worker_that_drains_writes_what_was_spent_last(
    calls: Calls, workers: Workers, provider: Provider, books: Books
) -> None:
    """Also of what it hands back."""
    started = asyncio.Event()

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        started.set()
        try:
            return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]
        finally:
            paying(provider)

    worker = await workers.start(serve(echo=echo))
    job = await calls.submit("Echo", EchoRequest())
    await asyncio.wait_for(started.wait(), 20)
    await worker.drain(timedelta(0))
    assert (await books.booked())[0] == 1
    await books.balance(1)
    assert (await calls.row(job)).state == JobState.JOB_STATE_READY


async def test_what_is_spent_is_seen_while_the_job_runs(
    calls: Calls, workers: Workers, provider: Provider, books: Books
) -> None:
    let_go = asyncio.Event()

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        context.progress(0.5, "half")
        paying(provider)
        await let_go.wait()
        return EchoResponse()

    await workers.start(serve(echo=echo))
    job = await calls.submit("Echo", EchoRequest())
    await until(lambda: len(provider.calls) == 1)
    await books.balance(1)
    row = await calls.until(job, lambda row: row.progress is not None)
    assert row.progress_message == "half"
    let_go.set()
    await calls.done(job)
    await books.balance(1)


async def test_a_transaction_of_the_jobs_own_books_with_its_commit_and_without(
    calls: Calls, workers: Workers, provider: Provider, books: Books
) -> None:
    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        async with context.transaction() as connection:
            await connection.execute("select 1")
        paying(provider)
        if context.attempt == 1:
            await connection.execute("commit")
        return EchoResponse()

    await workers.start(serve(echo=echo))
    policy = {"max_attempts": 2, "backoff_initial": timedelta(0)}
    job = await calls.submit("Echo", EchoRequest(), policy=policy)  # type: ignore[arg-type]
    row = await calls.done(job)
    await books.balance(row.attempt)


async def test_a_worker_that_is_killed_loses_nothing_that_was_flushed(
    calls: Calls, workers: Workers, services: Services, provider: Provider, books: Books
) -> None:
    worker = services.worker(
        "--servicer",
        "tests.support.provider:register",
        ROWCALL_LEASE="3s",
        **{LEDGER: str(provider.ledger), "PYTHONPATH": "."},
    )
    await asyncio.to_thread(worker.ready)
    jobs = await calls.submit_many("Echo", [EchoRequest(payload=f"0.{place}".encode()) for place in range(1, 10)])
    assert worker.process.stdout is not None
    for _ in jobs:
        assert (await asyncio.to_thread(worker.process.stdout.readline)).startswith("paid 0.")
    await asyncio.to_thread(worker.kill)
    assert (await books.booked())[0] == 9

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        paying(provider, "1")
        return EchoResponse()

    await workers.start(serve(echo=echo))
    await calls.all_done(jobs, seconds=60)
    await books.balance(18)


async def test_prices_are_read_again_when_their_file_changes(
    calls: Calls, workers: Workers, books: Books, tmp_path: Path
) -> None:
    prices = tmp_path / "prices.toml"
    prices.write_text("[[price]]\nmodel = 'delphi'\nfrom = 2020-01-01\ncurrency = 'EUR'\ncall = 1\n")

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        with telemetry.model_call(NAME, "delphi"):
            pass
        return EchoResponse()

    async def paid() -> Decimal:
        await calls.done(await calls.submit("Echo", EchoRequest()))
        [row] = await books.rows("select cost from rowcall.spend_entry order by spent_at desc limit 1")
        return Decimal(row[0])

    await workers.start(serve(echo=echo), prices=prices)
    assert await paid() == 1
    prices.write_text("[[price]]\nmodel = 'delphi'\nfrom = 2020-01-01\ncurrency = 'EUR'\ncall = 2.50\n")

    async def dearer() -> bool:
        return await paid() == Decimal("2.5")

    await until(dearer, every=0.2)
    prices.write_text("[[price]]\nmodel = 'delphi'\n")
    assert await paid() == Decimal("2.5"), "what was there before goes on"
