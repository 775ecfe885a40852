"""What a worker tells of attempts, as an exporter receives it and as the log has it, held against what their rows say."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import grpc
import psycopg
import pytest
from google.rpc.code_pb2 import Code
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode
from structlog.testing import capture_logs

from rowcall.probe.v1.probe_pb2 import EchoRequest, EchoResponse
from rowcall.telemetry.sampling import Sampling
from rowcall_worker import Fail, Snooze, telemetry
from rowcall_worker.serving.context import AsyncJobContext
from tests.fix_cluster import Cluster
from tests.fix_spans import Crowded, Told, attributes, id_of, parent_of, trace_of
from tests.fix_worker import Call, Calls, PolicyChanges, Workers, error_of, serve
from tests.support.waiting import until

TRACE = "0af7651916cd43dd8448eb211c80319c"
ABOVE = "b7ad6b7169203331"
ASKED = Call("acme", "r-1", "ann", f"00-{TRACE}-{ABOVE}-01")
"""Of a caller that records its trace."""
QUIET = Call(traceparent=f"00-{TRACE}-{ABOVE}-00")
"""Of one that does not."""
AT_ONCE: PolicyChanges = {"backoff_initial": timedelta(milliseconds=1), "backoff_maximum": timedelta(milliseconds=1)}

Handle = Callable[[EchoRequest, AsyncJobContext], Awaitable[EchoResponse]]


@pytest.fixture
def start(workers: Workers, told: Told) -> Callable[..., Awaitable[object]]:
    """Starts a worker that tells spans, with a handler of Echo."""

    async def start(handle: Handle, **changes: Any) -> object:
        return await workers.start(serve(echo=handle), spans=told.spans, sampling=told.sampling, **changes)

    return start


async def answer(_request: EchoRequest, _context: AsyncJobContext) -> EchoResponse:
    return EchoResponse()


async def one(told: Told) -> ReadableSpan:
    return await told.one("process probe")


async def test_an_attempts_span_says_what_its_row_says(calls: Calls, start: Any, told: Told) -> None:
    worker = await start(answer)
    job = await calls.submit("Echo", EchoRequest(), call=ASKED)

    row = await calls.done(job)

    span = await one(told)
    assert (trace_of(span), parent_of(span), id_of(span)) == (TRACE, ABOVE, row.span_id)
    assert (span.kind, span.status.status_code) == (SpanKind.CONSUMER, StatusCode.UNSET)
    assert attributes(span) == {
        "messaging.system": "rowcall",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "probe",
        "messaging.message.id": str(job.job_id),
        "rpc.response.status_code": "OK",
        "rowcall.tenant": "acme",
        "rowcall.actor": "ann",
        "rowcall.request_id": "r-1",
        "rowcall.operation": job.name,
        "rowcall.method": "rowcall.probe.v1.ProbeService/Echo",
        "rowcall.attempt": 1,
        "rowcall.lease": row.lease,
        "rowcall.state": "SUCCEEDED",
        "rowcall.outcome": "succeeded",
        "rowcall.shard": job.shard,
        "rowcall.worker": worker.name,
    }
    assert row.started_at is not None
    assert row.finished_at is not None
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.start_time <= span.end_time <= row.finished_at.timestamp() * 1e9
    assert span.start_time >= row.started_at.timestamp() * 1e9 - 1e6


async def test_who_does_not_ask_is_told_of_only_where_something_failed_or_was_tried_again(
    calls: Calls, start: Any, told: Told
) -> None:
    async def handle(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        if request.payload == b"bad":
            raise Fail(grpc.StatusCode.INVALID_ARGUMENT, "no")
        if request.payload == b"again" and context.attempt == 1:
            raise LookupError
        return EchoResponse()

    await start(handle)
    jobs = [
        await calls.submit("Echo", EchoRequest(payload=payload), call=QUIET, policy=AT_ONCE)
        for payload in (b"good", b"bad", b"again")
    ]

    good, bad, again = await calls.all_done(jobs)

    spans = {id_of(span): span for span in await told.some(3, "process probe")}
    assert good.span_id not in spans
    failed = spans[str(bad.span_id)]
    assert (failed.status.status_code, failed.status.description) == (StatusCode.ERROR, "HANDLER_ERROR")
    assert {attributes(failed)[name] for name in ("error.type", "rpc.response.status_code")} == {"INVALID_ARGUMENT"}
    assert (attributes(failed)["rowcall.state"], attributes(failed)["rowcall.outcome"]) == ("FAILED", "failed")
    first, second = spans[str(again.attempts[0].span_id)], spans[str(again.span_id)]
    assert (first.status.status_code, first.status.description) == (StatusCode.ERROR, "HANDLER_EXCEPTION")
    assert attributes(first)["rpc.response.status_code"] == "UNKNOWN"
    assert (attributes(first)["rowcall.state"], attributes(first)["rowcall.outcome"]) == ("SCHEDULED", "retried")
    assert (attributes(second)["rowcall.outcome"], attributes(second)["rowcall.attempt"]) == ("succeeded", 2)
    assert second.status.status_code is StatusCode.UNSET
    assert {trace_of(span) for span in spans.values()} == {TRACE}


async def test_a_snooze_is_no_failure(calls: Calls, start: Any, told: Told) -> None:
    snoozed: list[int] = []

    async def handle(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        if not snoozed:
            snoozed.append(1)
            raise Snooze(timedelta(milliseconds=1))
        return EchoResponse()

    await start(handle)
    await calls.done(await calls.submit("Echo", EchoRequest(), call=ASKED))

    first, second = await told.some(2, "process probe")
    assert [attributes(span)["rowcall.outcome"] for span in (first, second)] == ["snoozed", "succeeded"]
    assert first.status.status_code is StatusCode.UNSET
    assert "rpc.response.status_code" not in attributes(first)


async def test_a_cancelled_job_has_the_rows_code_and_is_no_error(calls: Calls, start: Any, told: Told) -> None:
    begun = asyncio.Event()

    async def handle(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        begun.set()
        await asyncio.sleep(60)
        return EchoResponse()

    await start(handle)
    job = await calls.submit("Echo", EchoRequest(), call=ASKED)
    await begun.wait()
    await calls.cancel(job)
    await calls.done(job)

    span = await one(told)
    assert (attributes(span)["rowcall.outcome"], attributes(span)["rpc.response.status_code"]) == (
        "cancelled",
        "CANCELLED",
    )
    assert span.status.status_code is StatusCode.UNSET


async def test_a_job_that_was_cancelled_while_its_attempt_failed_has_the_rows_code(
    calls: Calls, start: Any, told: Told
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def handle(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        begun.set()
        await go_on.wait()
        raise LookupError

    # So long a lease that nobody hears of it before the attempt has failed.
    await start(handle, lease=timedelta(minutes=1))
    job = await calls.submit("Echo", EchoRequest(), call=ASKED)
    await begun.wait()
    await calls.cancel(job, hinted=False)
    go_on.set()
    row = await calls.done(job)

    span = await one(told)
    assert error_of(row).code == Code.CANCELLED
    assert (attributes(span)["rowcall.outcome"], attributes(span)["rpc.response.status_code"]) == (
        "cancelled",
        "CANCELLED",
    )


async def test_calls_of_models_and_providers_are_told_below_their_attempt(calls: Calls, start: Any, told: Told) -> None:
    async def handle(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        async with telemetry.model_call("openai", "gpt-7") as call:
            call.tokens(input=100, output=7)
            call.cost("0.25", "EUR")
        with telemetry.provider_call("maps"):
            raise ConnectionError

    await start(handle)
    await calls.done(await calls.submit("Echo", EchoRequest(), call=QUIET, policy={"max_attempts": 1}))

    attempt = await one(told)
    model, provider = await told.one("model_call gpt-7"), await told.one("provider_call maps")
    assert {(trace_of(span), parent_of(span), span.kind) for span in (model, provider)} == {
        (TRACE, id_of(attempt), SpanKind.CLIENT)
    }
    assert {
        "gen_ai.operation.name": "model_call",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-7",
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.output_tokens": 7,
        "rowcall.cost.amount": 0.25,
        "rowcall.cost.currency": "EUR",
        "rowcall.call": 1,
        "rowcall.operation": attributes(attempt)["rowcall.operation"],
    }.items() <= attributes(model).items()
    assert (model.status.status_code, provider.status.status_code) == (StatusCode.UNSET, StatusCode.ERROR)
    assert (provider.status.description, attributes(provider)["error.type"]) == ("ConnectionError",) * 2
    times = [attempt.start_time, model.start_time, model.end_time, provider.start_time, provider.end_time]
    assert [*times, attempt.end_time] == sorted([*times, attempt.end_time], key=lambda moment: moment or 0)


async def test_calls_of_an_attempt_whose_span_found_no_room_are_dropped_with_it(
    calls: Calls, workers: Workers, crowded: Crowded
) -> None:
    async def handle(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        with telemetry.provider_call("maps"):
            return EchoResponse()

    worker = await workers.start(serve(echo=handle), spans=crowded.spans, sampling=Sampling(1))
    await calls.done(await calls.submit("Echo", EchoRequest()))
    # What is told of an attempt is told by the end of its worker.
    await worker.drain(timedelta(seconds=20))
    await asyncio.to_thread(crowded.spans.shutdown)

    assert crowded.names == ["first", "second"]


async def test_a_result_that_no_longer_counts_is_told_as_that(
    cluster: Cluster, calls: Calls, start: Any, told: Told
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def handle(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        if not begun.is_set():
            begun.set()
            await go_on.wait()
        return EchoResponse()

    await start(handle)
    job = await calls.submit("Echo", EchoRequest(), call=QUIET)
    await begun.wait()
    async with await psycopg.AsyncConnection.connect(cluster.shards[job.shard]) as connection:
        await connection.execute("update rowcall.job set lease = lease + 1")
    go_on.set()

    span = await one(told)
    assert (attributes(span)["rowcall.outcome"], span.status.description) == ("fenced", "FENCED")
    assert "rowcall.state" not in attributes(span)


async def test_by_setting_an_attempt_is_linked_and_stays_in_the_trace(calls: Calls, start: Any, told: Told) -> None:
    await start(answer, trace_relation="link")
    await calls.done(await calls.submit("Echo", EchoRequest(), call=ASKED))

    span = await one(told)
    assert (trace_of(span), parent_of(span)) == (TRACE, None)
    assert [f"{link.context.span_id:016x}" for link in span.links] == [ABOVE]


async def test_a_job_without_a_trace_has_one_that_all_its_attempts_share(calls: Calls, start: Any, told: Told) -> None:
    seen: list[str] = []

    async def handle(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        seen.append(telemetry.trace_headers()["traceparent"][3:35])
        if context.attempt == 1:
            raise LookupError
        return EchoResponse()

    await start(handle)
    await calls.done(await calls.submit("Echo", EchoRequest(), policy=AT_ONCE))

    spans = await told.some(2, "process probe")
    assert [trace_of(span) for span in spans] == seen
    assert len(set(seen)) == 1
    assert {parent_of(span) for span in spans} == {None}


async def test_what_handlers_tell_themselves_lies_below_their_attempt(calls: Calls, start: Any, told: Told) -> None:
    async def handle(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        def look() -> None:
            with trace.get_tracer("documents").start_as_current_span("look it up") as span:
                span.set_attribute("pages", 3)

        await asyncio.to_thread(look)
        return EchoResponse()

    await start(handle)
    jobs = [await calls.submit("Echo", EchoRequest(), call=call) for call in (QUIET, ASKED)]
    await calls.all_done(jobs)

    attempt, span = await one(told), await told.one("look it up")
    assert (trace_of(span), parent_of(span)) == (TRACE, id_of(attempt))
    assert attributes(span) == {"pages": 3, "rowcall.tenant": "acme", "rowcall.operation": jobs[1].name}


async def test_where_nobody_wants_spans_none_is_made(calls: Calls, workers: Workers) -> None:
    found: list[object] = []

    async def handle(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        found.append(context._state.recorded)
        found.append(trace.get_current_span().get_span_context().is_valid)
        return EchoResponse()

    await workers.start(serve(echo=handle))
    await calls.done(await calls.submit("Echo", EchoRequest(), call=ASKED))
    assert found == [None, False]


@pytest.mark.parametrize(("lines", "wanted"), [("sampled", 1), ("all", 2)])
async def test_attempts_that_went_well_have_lines_as_is_set(
    calls: Calls, workers: Workers, lines: str, wanted: int
) -> None:
    with capture_logs() as captured:
        await workers.start(serve(echo=answer), sampling=Sampling(0, asked=9), attempt_lines=lines)
        for call in (QUIET, ASKED):
            await calls.done(await calls.submit("Echo", EchoRequest(), call=call))
        # One by one: the line of the first is there before the second is begun.
        await until(lambda: [line["event"] for line in captured].count("attempt") >= wanted)

    found = [line for line in captured if line["event"] == "attempt"]
    assert [line["state"] for line in found] == ["SUCCEEDED"] * wanted
