"""What a handler sees: its call in the context variables, wherever it goes on, and gRPC's context of the job."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar

import grpc
import grpc.aio
import pytest
from google.longrunning.operations_pb2 import Operation
from google.protobuf.duration_pb2 import Duration

from rowcall import context as call_context
from rowcall.context import CallContext
from rowcall.probe.v1.probe_pb2 import EchoRequest, EchoResponse, RunRequest, RunResponse
from rowcall.v1.job_pb2 import AttemptOutcome, JobState
from rowcall_worker import JobContext, finished
from rowcall_worker.serving.context import AsyncJobContext, SyncJobContext
from tests.fix_services import Services
from tests.fix_worker import Call, Calls, Job, Workers, error_of, serve

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE_ID}-b7ad6b7169203331-01"
CALL = Call("acme", "r-1", "ann", TRACEPARENT, {"customer": "c-7"})


def check(call: CallContext | None, job: Job) -> str:
    """Checks that a call is that of a job; returns its span."""
    assert call is not None
    assert (call.tenant, call.actor, call.request_id) == ("acme", "ann", "r-1")
    assert (call.operation, call.attempt) == (job.name, 1)
    assert (call.trace.trace_id, call.trace.sampled) == (TRACE_ID, True)
    assert call.trace.span_id != "b7ad6b7169203331"
    return call.trace.span_id


async def test_the_call_follows_an_async_handler_into_tasks_and_threads(calls: Calls, workers: Workers) -> None:
    seen: dict[str, CallContext | None] = {}

    async def child() -> None:
        await asyncio.sleep(0)
        seen["child task"] = call_context.current()

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        seen["handler"] = call_context.current()
        await asyncio.gather(child(), asyncio.sleep(0))
        seen["to_thread"] = await asyncio.to_thread(call_context.current)
        seen["default executor"] = await asyncio.get_running_loop().run_in_executor(None, call_context.current)
        with ThreadPoolExecutor(1) as pool:
            copied = contextvars.copy_context()
            seen["executor"] = await asyncio.wrap_future(pool.submit(copied.run, call_context.current))
        return EchoResponse()

    await workers.start(serve(echo=echo))
    job = await calls.submit("Echo", EchoRequest(), call=CALL)
    row = await calls.done(job)
    assert set(seen) == {"handler", "child task", "to_thread", "default executor", "executor"}
    # The row's attempt has the very span that the handler ran in.
    assert {check(call, job) for call in seen.values()} == {row.span_id}
    assert call_context.current() is None


async def test_the_call_follows_a_sync_handler_into_its_thread(calls: Calls, workers: Workers) -> None:
    seen: list[CallContext | None] = []
    threads: list[str] = []

    def echo(request: EchoRequest, context: SyncJobContext) -> EchoResponse:
        seen.append(call_context.current())
        threads.append(threading.current_thread().name)
        return EchoResponse()

    await workers.start(serve(echo=echo))
    job = await calls.submit("Echo", EchoRequest(), call=CALL)
    row = await calls.done(job)
    assert [check(call, job) for call in seen] == [row.span_id]
    assert threads[0].startswith("rowcall-handler")
    # The thread is used again: the next job there is not taken for this one.
    other = await calls.submit("Echo", EchoRequest(), call=Call("acme", actor="bob"))
    await calls.done(other)
    assert seen[1] is not None
    assert (seen[1].actor, seen[1].request_id, seen[1].operation) == ("bob", None, other.name)


@pytest.mark.parametrize("sync", [False, True])
async def test_the_call_goes_on_at_another_worker_when_its_own_was_killed(
    calls: Calls, workers: Workers, services: Services, *, sync: bool
) -> None:
    seen: list[CallContext | None] = []

    def run_in_thread(request: RunRequest, context: SyncJobContext) -> Operation:
        seen.append(call_context.current())
        return finished(RunResponse())

    async def run(request: RunRequest, context: AsyncJobContext) -> Operation:
        seen.append(call_context.current())
        return finished(RunResponse())

    first = services.worker(ROWCALL_LEASE="1s")
    await asyncio.to_thread(first.ready)
    job = await calls.submit("Run", RunRequest(work=Duration(seconds=60)), call=CALL)
    running = await calls.until(job, lambda row: row.state == JobState.JOB_STATE_RUNNING)
    await workers.start(serve(run=run_in_thread if sync else run))
    await asyncio.to_thread(first.kill)
    row = await calls.done(job, seconds=60)
    assert [each.outcome for each in row.attempts] == [AttemptOutcome.ATTEMPT_OUTCOME_LOST]
    # The same call, at a place of its own in the same trace.
    assert [check(call, job) for call in seen] == [row.span_id]
    assert row.span_id != running.span_id


@pytest.mark.parametrize("sync", [False, True])
async def test_what_a_handler_sets_stays_with_its_attempt(calls: Calls, workers: Workers, *, sync: bool) -> None:
    variable: ContextVar[str] = ContextVar("variable", default="unset")
    variable.set("by the process")
    found: list[str] = []

    def look_and_set(request: EchoRequest, context: JobContext) -> EchoResponse:
        found.append(variable.get())
        variable.set("by a handler")
        return EchoResponse()

    async def echo(request: EchoRequest, context: JobContext) -> EchoResponse:
        return look_and_set(request, context)

    await workers.start(serve(echo=look_and_set if sync else echo), slots=1, threads=1)
    variable.set("after the start")
    await calls.all_done(await calls.submit_many("Echo", [EchoRequest()] * 3))
    assert found == ["by the process"] * 3


async def test_the_context_tells_of_the_job(calls: Calls, workers: Workers) -> None:
    contexts: list[JobContext] = []
    metadata: list[dict[str, str | bytes]] = []

    async def echo(request: EchoRequest, context: grpc.aio.ServicerContext[EchoRequest, EchoResponse]) -> EchoResponse:
        assert isinstance(context, JobContext)
        contexts.append(context)
        metadata.append(dict(context.invocation_metadata() or ()))
        assert 0 < context.time_remaining() <= 300
        return EchoResponse()

    worker = await workers.start(serve(echo=echo))
    job = await calls.submit("Echo", EchoRequest(), call=CALL)
    await calls.done(job)
    (context,) = contexts
    assert (context.tenant, context.actor, context.request_id) == ("acme", "ann", "r-1")
    assert (context.operation, context.worker) == (job.name, worker.name)
    assert (context.attempt, context.max_attempts) == (1, 3)
    assert context.labels == {"customer": "c-7"}
    assert context.done()
    assert not context.is_active()
    traceparent = metadata[0].pop("traceparent")
    assert isinstance(traceparent, str)
    assert traceparent.startswith(f"00-{TRACE_ID}-")
    assert metadata[0] == {
        "rowcall-tenant": "acme",
        "rowcall-actor": "ann",
        "rowcall-operation": job.name,
        "rowcall-label-customer": "c-7",
        "idempotency-key": "r-1",
    }


async def test_callbacks_are_called_when_the_attempt_ends(calls: Calls, workers: Workers) -> None:
    called: list[str] = []

    def bad(_: object) -> None:
        called.append("bad")
        raise ValueError("a callback's own fault")

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        context.add_done_callback(bad)
        context.add_done_callback(lambda ended: called.append("async" if ended is context else "?"))
        assert not called
        return EchoResponse()

    def run(request: object, context: SyncJobContext) -> object:
        assert context.add_callback(lambda: called.append("sync"))
        context.abort(grpc.StatusCode.NOT_FOUND, "no")

    await workers.start(serve(echo=echo, run=run))
    await calls.done(await calls.submit("Echo", EchoRequest()))
    assert called == ["bad", "async"]
    assert error_of(await calls.done(await calls.submit("Run", EchoRequest()))).message == "no"
    assert called == ["bad", "async", "sync"]
