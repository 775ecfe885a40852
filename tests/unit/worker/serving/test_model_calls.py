"""What handlers record of their calls: where it is known whose they are, what is kept of them, and what is refused."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, cast
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from rowcall import forks
from rowcall.context import enter
from rowcall.errors import RowcallError
from rowcall.queue.model import ClaimedJob, Progress, Spent
from rowcall.queue.protocol import WorkQueue
from rowcall.queue.spend import Spend, SpendKind
from rowcall.telemetry import conventions
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall_worker import telemetry
from rowcall_worker.serving import spending
from rowcall_worker.serving.abilities import Abilities
from rowcall_worker.serving.attempt import AttemptState
from rowcall_worker.serving.direct import direct
from rowcall_worker.serving.prices import Price, Prices
from rowcall_worker.serving.progress import ProgressBoard

TRACE = "0af7651916cd43dd8448eb211c80319c"
PRICE = Price("openai", "gpt-7", date(2026, 1, 1), "USD", 1_000_000, Decimal("2.5"), Decimal(10), call=Decimal("0.001"))


class Shard:
    """A shard that takes what is told, or is away."""

    def __init__(self) -> None:
        self.away = False
        self.told: list[Spent] = []
        self.statements = 0

    async def report_progress(self, progress: Sequence[Progress], spent: Sequence[Spent] = ()) -> list[Progress]:
        self.statements += 1
        if self.away:
            raise RowcallError(ErrorReason.ERROR_REASON_SHARD_UNAVAILABLE, "away")
        self.told.extend(spent)
        return list(progress)


class Running:
    """An attempt that runs in the test's own context."""

    def __init__(self) -> None:
        self.shard = Shard()
        self.prices = Prices([PRICE])
        self.board = ProgressBoard(cast("WorkQueue", self.shard), self.prices, shard="a")
        job = ClaimedJob(
            tenant="acme", job_id=UUID(int=7), lease=3, attempt=1, lane=3, order_key=1, method_id=9, policy_id=1, request=b"",
            request_id=None, actor=None, traceparent=f"00-{TRACE}-00f067aa0ba902b7-01", tracestate=None, labels={}, lost=0,
        )  # fmt: skip
        self.attempt = AttemptState(job, worker="w", max_attempts=1)
        self.attempt.abilities = Abilities(cast("Any", None), cast("Any", None), self.board)

    @property
    def calls(self) -> list[Spend]:
        """What was recorded and is not written yet."""
        return list(self.board.spending.of(self.attempt.job))

    @property
    def call(self) -> Spend:
        """The one call that was recorded."""
        [call] = self.calls
        return call


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    """An attempt, whose context is the test's."""
    running = Running()
    enter(running.attempt)
    yield running
    await running.board.stop()


async def test_everything_that_is_said_of_a_call_is_kept(running: Running) -> None:
    enter(running.attempt)
    async with telemetry.model_call("openai", "gpt-7") as call:
        call.tokens(input=1200, output=80, cache_read=200)
        call.cost("0.0123", "USD")
        call.verdict("ok")
        await asyncio.sleep(0.01)
    spend = running.call
    assert (spend.call, spend.kind, spend.method_id, spend.provider, spend.model) == (
        1,
        SpendKind.MODEL,
        9,
        "openai",
        "gpt-7",
    )
    assert (spend.input_tokens, spend.output_tokens, spend.cost, spend.currency) == (1200, 80, Decimal("0.0123"), "USD")
    assert (spend.verdict, spend.trace_id) == ("ok", UUID(TRACE))
    assert spend.latency is not None
    assert timedelta(milliseconds=9) < spend.latency < timedelta(seconds=20)
    assert call.attributes == {
        conventions.GEN_AI_PROVIDER: "openai",
        conventions.GEN_AI_MODEL: "gpt-7",
        conventions.GEN_AI_INPUT_TOKENS: 1200,
        conventions.GEN_AI_OUTPUT_TOKENS: 80,
        conventions.GEN_AI_CACHE_READ_TOKENS: 200,
        conventions.COST: 0.0123,
        conventions.COST_CURRENCY: "USD",
        conventions.LATENCY: spend.latency.total_seconds(),
        conventions.VERDICT: "ok",
    }


def record() -> None:
    with telemetry.provider_call("maps") as call:
        call.cost(1, "EUR")


async def in_the_loop() -> None:
    record()


async def in_child_tasks() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(in_the_loop())


async def in_a_thread() -> None:
    await asyncio.to_thread(record)


async def in_an_executor() -> None:
    with ThreadPoolExecutor(1) as pool:
        await asyncio.get_running_loop().run_in_executor(pool, contextvars.copy_context().run, record)


async def in_another_thread_than_it_was_made_in() -> None:
    def within(call: telemetry.ProviderCall) -> None:
        with call:
            call.cost(1, "EUR")

    with ThreadPoolExecutor(1) as pool:
        await asyncio.get_running_loop().run_in_executor(pool, within, telemetry.provider_call("maps"))


@pytest.mark.parametrize(
    "where", [in_the_loop, in_child_tasks, in_a_thread, in_an_executor, in_another_thread_than_it_was_made_in]
)
async def test_a_call_is_its_attempts_wherever_it_is_made(running: Running, where: Callable[[], Any]) -> None:
    enter(running.attempt)
    await where()
    await where()
    assert [(call.call, call.provider, call.kind, call.cost) for call in running.calls] == [
        (1, "maps", SpendKind.PROVIDER, Decimal(1)),
        (2, "maps", SpendKind.PROVIDER, Decimal(1)),
    ]


async def test_a_thread_without_the_context_is_told_so() -> None:
    with ThreadPoolExecutor(1) as pool, pytest.raises(RuntimeError, match=r"contextvars.copy_context\(\).run"):
        await asyncio.get_running_loop().run_in_executor(pool, record)


async def test_outside_of_a_job_there_is_nothing_to_record() -> None:
    with pytest.raises(RuntimeError, match="within a handler of a job, and here is none"):
        telemetry.model_call("openai", "gpt-7")
    with pytest.raises(RuntimeError, match="within a handler of a job, and here is none"):
        await telemetry.flush()


async def test_a_handler_that_is_served_directly_goes_on_and_nothing_is_recorded() -> None:
    with direct():
        with telemetry.model_call("openai", "gpt-7") as call:
            call.tokens(input=1, output=2)
        assert await telemetry.flush()
        assert telemetry.flush_in_thread()
    assert call.attributes[conventions.GEN_AI_INPUT_TOKENS] == 1


async def test_an_exception_is_recorded_with_its_type_and_goes_on(running: Running) -> None:
    enter(running.attempt)
    call = telemetry.model_call("openai", "gpt-7")

    async def used() -> None:
        async with call:
            call.tokens(input=400_000, output=0)
            raise ZeroDivisionError

    async def cancelled() -> None:
        async with telemetry.model_call("openai", "gpt-7"):
            raise asyncio.CancelledError

    with pytest.raises(ZeroDivisionError):
        await used()
    with pytest.raises(asyncio.CancelledError):
        await cancelled()
    assert [(each.verdict, each.cost) for each in running.calls] == [
        ("ZeroDivisionError", Decimal("1.001")),
        ("CancelledError", None),
    ], "what was used is paid for; whether what was not answered is, nobody knows"
    assert call.attributes[conventions.ERROR_TYPE] == "ZeroDivisionError"


async def test_what_a_call_does_not_say_the_price_table_does(running: Running) -> None:
    enter(running.attempt)
    for model in ("gpt-7", "gpt-6"):
        with telemetry.model_call("openai", model) as call:
            call.tokens(input=1_000_000, output=100)
    with telemetry.model_call("openai", "gpt-7") as call:
        call.cost(0, "EUR")
    assert [(each.cost, each.currency) for each in running.calls] == [
        (Decimal("2.502"), "USD"),
        (None, None),
        (0, "EUR"),
    ]


async def test_a_price_that_cannot_be_told_leaves_the_call_without(running: Running) -> None:
    enter(running.attempt)
    running.prices.replace(Prices([Price("", "gpt-7", date(2026, 1, 1), "USD", 1, Decimal(10**9))]))
    with capture_logs() as logs, telemetry.model_call("openai", "gpt-7") as call:
        call.tokens(input=2**53)
    assert running.call.cost is None
    assert [line["event"] for line in logs] == ["a call's cost cannot be told by the price table"]


@pytest.mark.parametrize(
    ("wrong", "error", "told"),
    [
        (lambda call: call.tokens(input=-1), ValueError, "input_tokens is -1"),
        (lambda call: call.tokens(output=2**60), ValueError, "output_tokens is"),
        (lambda call: call.tokens(input=1.5), TypeError, "input tokens are a whole number, not 1.5"),
        (lambda call: call.tokens(input=True), TypeError, "input tokens are a whole number"),
        (
            lambda call: call.tokens(input=5, cache_read=4, cache_write=2),
            ValueError,
            "together they are 0 to all of the input, 5",
        ),
        (lambda call: call.tokens(input=5, cache_read=-1), ValueError, "cache_read is -1"),
        (lambda call: call.cost(float("nan"), "EUR"), ValueError, "cost is NaN"),
        (lambda call: call.cost(float("inf"), "EUR"), ValueError, "cost is Infinity"),
        (lambda call: call.cost(-1, "EUR"), ValueError, "cost is -1"),
        (lambda call: call.cost(10**12, "EUR"), ValueError, "cost is 1"),
        (lambda call: call.cost("much", "EUR"), ValueError, "a cost is a number, not 'much'"),
        (lambda call: call.cost(None, "EUR"), TypeError, "not a NoneType"),
        (lambda call: call.cost(1, "XYZ"), ValueError, "currency is 'XYZ'"),
        (lambda call: call.cost(1, "eur"), ValueError, "currency is 'eur'"),
        (lambda call: call.cost(1, None), ValueError, "go together"),
        (lambda call: call.verdict(3), TypeError, "verdict is a str, not a int"),
        (lambda call: call.verdict("x" * 256), ValueError, "verdict has NUL"),
        (lambda call: call.__enter__(), RuntimeError, "made already"),
    ],
)
async def test_what_cannot_be_kept_is_refused_where_it_is_said(
    running: Running, wrong: Callable[[Any], None], error: type[Exception], told: str
) -> None:
    enter(running.attempt)
    with telemetry.model_call("openai", "gpt-7") as call:
        call.tokens(input=7)
        with pytest.raises(error) as caught:
            wrong(call)
    assert told in str(caught.value)
    assert running.call.input_tokens == 7, "what was said before it stands"


@pytest.mark.parametrize(
    ("names", "error", "told"),
    [
        (("", "gpt-7"), ValueError, "provider is empty"),
        (("openai", ""), ValueError, "model is empty"),
        (("openai", None), TypeError, "model is a str, not a NoneType"),
        ((7, "gpt-7"), TypeError, "provider is a str, not a int"),
        (("x" * 256, "gpt-7"), ValueError, "more than 255"),
        (("openai", "a\0b"), ValueError, "has NUL"),
        (("openai", "\ud800"), ValueError, "half a surrogate"),
    ],
)
async def test_names_that_cannot_be_kept_are_refused(
    running: Running, names: tuple[Any, Any], error: type[Exception], told: str
) -> None:
    enter(running.attempt)
    with pytest.raises(error, match=told):
        telemetry.model_call(*names)
    assert running.calls == []


async def test_a_float_costs_what_it_is_written_as(running: Running) -> None:
    enter(running.attempt)
    for amount in (0.1, 0.1 + 0.2, 1e-13, Decimal("0.1234567890123")):
        with telemetry.provider_call("maps") as call:
            call.cost(amount, "EUR")
    assert [each.cost for each in running.calls] == [
        Decimal("0.1"), Decimal("0.3"), Decimal(0), Decimal("0.123456789012"),
    ]  # fmt: skip


async def test_an_attempt_that_is_over_has_spent_it_all_the_same(running: Running) -> None:
    enter(running.attempt)
    with telemetry.provider_call("maps"):
        running.attempt.give_up()
    with telemetry.provider_call("maps"):
        pass
    assert [each.call for each in running.calls] == [1, 2]


async def test_a_flush_writes_at_once_and_says_whether_it_could(running: Running) -> None:
    enter(running.attempt)
    loop = asyncio.get_running_loop()
    for _ in range(3):
        record()
        asked_at = loop.time()
        assert await telemetry.flush()
        assert loop.time() - asked_at < 0.9, "sooner than once a second"
    assert await asyncio.to_thread(telemetry.flush_in_thread), "nothing to be written"
    await asyncio.to_thread(record)
    assert await asyncio.to_thread(telemetry.flush_in_thread)
    assert [each.spend.call for each in running.shard.told] == [1, 2, 3, 4]
    with pytest.raises(RuntimeError, match=r"await telemetry\.flush"):
        telemetry.flush_in_thread()


async def test_a_shard_that_is_away_is_told_later_and_not_asked_without_end(running: Running) -> None:
    enter(running.attempt)
    running.shard.away = True
    record()
    assert not await telemetry.flush(0.5)
    assert running.shard.statements == 1, "however great the hurry"
    assert running.call.call == 1
    running.shard.away = False
    assert await telemetry.flush()
    assert [each.spend.call for each in running.shard.told] == [1]


async def test_what_waits_is_bounded_and_what_is_lost_is_told(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spending, "MAX_WAITING", 5)
    enter(running.attempt)
    with capture_logs() as logs:
        for _ in range(8):
            record()
        assert len(running.board.spending) == 5
        assert await telemetry.flush()
    assert [(line["event"], line.get("limit"), line.get("lost")) for line in logs] == [
        ("what calls cost is not kept: too much of it waits for the shard", 5, None),
        ("what calls cost was not kept", None, 3),
    ]
    assert len(running.board.spending) == 0


async def test_a_drain_writes_what_was_spent_last(running: Running) -> None:
    enter(running.attempt)
    record()
    assert await telemetry.flush()
    record()
    await running.board.stop()
    assert [each.spend.call for each in running.shard.told] == [1, 2]


async def test_a_child_that_a_handler_forked_records_nothing(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(running.attempt)
    with telemetry.provider_call("maps"):
        monkeypatch.setattr(forks, "_child", True)
    with pytest.raises(RuntimeError, match="only the worker can do something for its job"):
        telemetry.provider_call("maps")
    monkeypatch.setattr(forks, "_child", False)
    assert running.calls == []


async def test_a_thread_that_outlives_its_worker_is_not_held_up_by_a_flush(running: Running) -> None:
    enter(running.attempt)
    loop = asyncio.new_event_loop()
    loop.close()
    running.board.loop = loop
    record()
    assert not await asyncio.to_thread(telemetry.flush_in_thread)
    # Nobody is left to whom it could be told.
    running.board.spending.written(running.board.spending.first(1))
