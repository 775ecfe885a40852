"""One servicer object, served directly and from behind the queue: equal answers, equal errors.

What remains different is listed in docs/servicers.md, and asserted here, so that the list stays true.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import grpc.aio
import pytest
from google.api_core.exceptions import FailedPrecondition, from_grpc_error
from google.longrunning.operations_pb2 import Operation
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import DebugInfo, ErrorInfo, PreconditionFailure, RequestInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from rowcall.errors import DOMAIN, read_envelope, status_of
from rowcall.probe.v1 import probe_pb2_grpc
from rowcall.probe.v1.probe_pb2 import AwaitRequest, AwaitResponse, EchoRequest, EchoResponse, RunRequest, RunResponse
from rowcall.v1.job_service_pb2 import GetJobRequest, JobView, ListJobsRequest
from rowcall.v1.job_service_pb2_grpc import JobServiceStub
from rowcall_worker import Worker, finished, response
from tests.fix_gateway import Gateways
from tests.fix_worker import Workers

NOTHING = grpc.StatusCode.OK
DETAIL = PreconditionFailure(violations=[PreconditionFailure.Violation(type="TOS", subject="acme")])


def rich_status(code: int = Code.FAILED_PRECONDITION) -> Status:
    """A status with a detail of the handler's own."""
    status = Status(code=code, message="terms not accepted")
    status.details.add().Pack(DETAIL)
    return status


DECLINED = ErrorInfo(reason="CARD_DECLINED", domain="shop.example", metadata={"card": "visa"})


def reasoned_status() -> Status:
    """A status with an ErrorInfo of the handler's own, and a detail behind it."""
    status = Status(code=Code.FAILED_PRECONDITION, message="declined")
    for detail in (DECLINED, DETAIL):
        status.details.add().Pack(detail)
    return status


def large_status() -> Status:
    """A status with more details than any client could take."""
    status = Status(code=Code.UNAVAILABLE, message="large")
    status.details.add().Pack(DebugInfo(detail="x" * 2_000_000))
    return status


STATUSES: dict[str, Callable[[], Status]] = {
    "abort with status": rich_status,
    "abort with a reason": reasoned_status,
    "large details": large_status,
}


class Ended(Exception):
    """What a handler raises that does not know gRPC."""


class AsyncServicer(probe_pb2_grpc.ProbeServiceServicer):
    """Does what the payload names, as `async def`."""

    async def Echo(self, request: EchoRequest, context: Any) -> EchoResponse:  # noqa: N802  the proto names it
        await asyncio.sleep(0)
        case = request.payload.decode()
        if case == "abort":
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such document")
        if case == "abort suppressed":
            with suppress(Exception):
                await context.abort(grpc.StatusCode.NOT_FOUND, "no such document")
        if case == "abort replaced":
            try:
                await context.abort(grpc.StatusCode.NOT_FOUND, "no such document")
            except Exception as error:
                raise Ended from error
        if case == "abort twice":
            with suppress(Exception):
                await context.abort(grpc.StatusCode.NOT_FOUND, "no such document")
            await context.abort(grpc.StatusCode.INTERNAL, "again")
        if case == "abort with the details set":
            context.set_details("set before")
            await context.abort(grpc.StatusCode.NOT_FOUND)
        if case in STATUSES:
            await context.abort_with_status(rpc_status.to_status(STATUSES[case]()))
        if case == "abort with trailing metadata":
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                "terms not accepted",
                (("grpc-status-details-bin", rich_status().SerializeToString()),),
            )
        if case == "transient":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "try later")
        said(case, context)
        if case == "unimplemented":
            await asyncio.to_thread(super().Echo, request, context)
        return EchoResponse(payload=request.payload)

    async def Run(self, request: RunRequest, context: Any) -> Operation:  # noqa: N802  the proto names it
        return finished(RunResponse(payload=request.payload))

    async def Await(self, request: AwaitRequest, context: Any) -> AwaitResponse:  # noqa: N802  the proto names it
        return AwaitResponse(payload=request.payload)


class SyncServicer(probe_pb2_grpc.ProbeServiceServicer):
    """Does the same as plain `def`."""

    def Echo(self, request: EchoRequest, context: Any) -> EchoResponse:  # noqa: N802  the proto names it
        case = request.payload.decode()
        if case == "abort":
            context.abort(grpc.StatusCode.NOT_FOUND, "no such document")
        if case == "abort suppressed":
            with suppress(Exception):
                context.abort(grpc.StatusCode.NOT_FOUND, "no such document")
        if case == "abort replaced":
            try:
                context.abort(grpc.StatusCode.NOT_FOUND, "no such document")
            except Exception as error:
                raise Ended from error
        if case == "abort with the details set":
            context.set_details("set before")
            context.abort(grpc.StatusCode.NOT_FOUND)
        if case == "abort with status":
            context.abort_with_status(rpc_status.to_status(rich_status()))
        if case == "transient":
            context.abort(grpc.StatusCode.UNAVAILABLE, "try later")
        said(case, context)
        if case == "unimplemented":
            super().Echo(request, context)
        return EchoResponse(payload=request.payload)

    def Run(self, request: RunRequest, context: Any) -> Operation:  # noqa: N802  the proto names it
        return finished(RunResponse(payload=request.payload))

    def Await(self, request: AwaitRequest, context: Any) -> AwaitResponse:  # noqa: N802  the proto names it
        return AwaitResponse(payload=request.payload)


def said(case: str, context: Any) -> None:
    """The cases that need no await."""
    if case == "code and details":
        context.set_code(grpc.StatusCode.ALREADY_EXISTS)
        context.set_details("there is one")
    if case == "code alone":
        context.set_code(grpc.StatusCode.DATA_LOSS)
    if case == "details alone":
        context.set_details("not an error")
    if case == "code OK":
        context.set_code(grpc.StatusCode.OK)
    if case == "trailing metadata":
        context.set_code(grpc.StatusCode.FAILED_PRECONDITION)
        context.set_details("terms not accepted")
        context.set_trailing_metadata((("grpc-status-details-bin", rich_status().SerializeToString()),))
    if case == "exception":
        raise Ended("its text")
    if case == "exception after OK":
        context.set_code(grpc.StatusCode.OK)
        raise Ended("its text")
    if case == "exception after a code":
        context.set_code(grpc.StatusCode.OUT_OF_RANGE)
        context.set_details("past the end")
        raise Ended("its text")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a caller gets."""

    code: grpc.StatusCode
    message: str
    details: tuple[str, ...]
    """Of the handler's own making."""
    payload: bytes | None


class Stub(Protocol):
    """What calls the servicer."""

    async def __call__(self, case: str) -> Answer: ...


def caller(channel: grpc.aio.Channel) -> Stub:
    """Calls Echo over a channel."""
    stub = probe_pb2_grpc.ProbeServiceStub(channel)

    async def call(case: str) -> Answer:
        try:
            answered = await stub.Echo(EchoRequest(payload=case.encode()), timeout=20)
        except grpc.aio.AioRpcError as error:
            return Answer(error.code(), error.details() or "", tuple(own_details(status_of(error))), None)
        return Answer(NOTHING, "", (), answered.payload)

    return call


def own_details(status: Status) -> Iterator[str]:
    for detail in status.details:
        if not is_ours(detail):
            yield str(without_our_keys(detail))


def is_ours(detail: AnyMessage) -> bool:
    info, asked = ErrorInfo(), RequestInfo()
    if detail.Unpack(info):
        return info.domain == DOMAIN
    return detail.Unpack(asked) and asked.serving_data.startswith(f"{DOMAIN} ")


def without_our_keys(detail: AnyMessage) -> AnyMessage:
    info, bare = ErrorInfo(), AnyMessage()
    if not detail.Unpack(info):
        return detail
    for key in [key for key in info.metadata if key.startswith("rowcall_")]:
        del info.metadata[key]
    bare.Pack(info)
    return bare


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


Make = Callable[[], probe_pb2_grpc.ProbeServiceServicer]


async def by_aio(stack: AsyncExitStack, servicer: probe_pb2_grpc.ProbeServiceServicer) -> grpc.aio.Channel:
    """Served by grpc.aio, sync handlers in its threads."""
    server = grpc.aio.server(migration_thread_pool=stack.enter_context(ThreadPoolExecutor(4)))
    probe_pb2_grpc.add_ProbeServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    stack.push_async_callback(server.stop, None)
    return await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))


async def by_plain_grpc(stack: AsyncExitStack, servicer: probe_pb2_grpc.ProbeServiceServicer) -> grpc.aio.Channel:
    """Served by grpc.server."""
    server = grpc.server(stack.enter_context(ThreadPoolExecutor(4)))
    probe_pb2_grpc.add_ProbeServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    stack.callback(lambda: server.stop(None).wait())
    return await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))


async def behind_the_queue(
    gateways: Gateways, workers: Workers, servicer: probe_pb2_grpc.ProbeServiceServicer
) -> grpc.aio.Channel:
    """Served by a worker, called through a gateway."""

    def register(worker: Worker) -> None:
        probe_pb2_grpc.add_ProbeServiceServicer_to_server(servicer, worker)

    await workers.start(register)
    return await gateways.channel(await gateways.start())


SHARED = (
    "returns",
    "abort",
    "abort replaced",
    "abort with the details set",
    "transient",
    "code and details",
    "code alone",
    "details alone",
    "code OK",
    "trailing metadata",
)
AIO_ONLY = (
    "abort suppressed",
    "abort with status",
    "abort with a reason",
    "abort with trailing metadata",
    "abort twice",
)
MESSAGE_DIFFERS = ("exception", "exception after OK", "exception after a code", "unimplemented")


async def test_an_async_servicer_answers_as_behind_grpc_aio(
    stack: AsyncExitStack, gateways: Gateways, workers: Workers
) -> None:
    servicer = AsyncServicer()
    direct = caller(await by_aio(stack, servicer))
    queued = caller(await behind_the_queue(gateways, workers, servicer))
    for case in (*SHARED, *AIO_ONLY):
        assert (case, await queued(case)) == (case, await direct(case))
    rich = await queued("abort with status")
    assert rich.details == tuple(own_details(rich_status()))


async def test_google_api_core_finds_the_handlers_own_reason(
    stack: AsyncExitStack, gateways: Gateways, workers: Workers
) -> None:
    """It reads one ErrorInfo: were there two, it would be ours."""
    servicer = AsyncServicer()
    channels = [await by_aio(stack, servicer), await behind_the_queue(gateways, workers, servicer)]
    found = [await api_core_error(channel) for channel in channels]
    assert [(type(each), each.reason, each.domain) for each in found] == 2 * [
        (FailedPrecondition, "CARD_DECLINED", "shop.example")
    ]
    direct, queued = (dict(each.metadata) for each in found)
    assert direct == {"card": "visa"}
    assert queued.items() > direct.items()
    ours = {key for key in queued if key not in direct}
    assert ours == {"rowcall_origin", "rowcall_operation", "rowcall_attempt", "rowcall_trace_id"}


async def api_core_error(channel: grpc.aio.Channel) -> Any:
    """The exception that google-api-core's clients get."""
    stub = probe_pb2_grpc.ProbeServiceStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Echo(EchoRequest(payload=b"abort with a reason"), timeout=20)
    return from_grpc_error(caught.value)  # type: ignore[no-untyped-call]


async def test_a_sync_servicer_answers_as_behind_grpc_aio_and_plain_grpc(
    stack: AsyncExitStack, gateways: Gateways, workers: Workers
) -> None:
    servicer = SyncServicer()
    direct = caller(await by_aio(stack, servicer))
    plain = caller(await by_plain_grpc(stack, servicer))
    queued = caller(await behind_the_queue(gateways, workers, servicer))
    for case in SHARED:
        answer = await queued(case)
        assert (case, answer) == (case, await direct(case))
        if case != "abort with the details set":  # which grpc.server's abort has no default for
            assert (case, answer) == (case, await plain(case))
    # grpc.aio's own context for sync handlers lacks the method.
    assert await queued("abort with status") == await plain("abort with status")
    assert await queued("abort suppressed") == await direct("abort suppressed")
    assert await queued("unimplemented") == await plain("unimplemented")


async def test_what_differs_is_the_text_of_exceptions(
    stack: AsyncExitStack, gateways: Gateways, workers: Workers
) -> None:
    servicer = AsyncServicer()
    direct = caller(await by_aio(stack, servicer))
    queued = caller(await behind_the_queue(gateways, workers, servicer))
    answers = {case: (await direct(case), await queued(case)) for case in MESSAGE_DIFFERS}
    for case, (one, other) in answers.items():
        assert (case, other.code, other.details) == (case, one.code, one.details)
    assert answers["exception"][0].message.endswith("its text")
    assert (
        answers["exception"][1].message == "The handler raised Ended. The worker's log has where, under the trace id."
    )
    assert answers["exception after a code"][1].message == "past the end"
    assert answers["unimplemented"][1].message == "Method not implemented!"


async def test_a_job_with_large_details_can_be_looked_at_by_a_stock_client(
    gateways: Gateways, workers: Workers
) -> None:
    """Which takes 4 MiB; each of three attempts ended with two megabytes."""
    channel = await behind_the_queue(gateways, workers, AsyncServicer())
    assert (await caller(channel)("large details")).message == "large"
    jobs = JobServiceStub(channel)
    [listed] = (await jobs.ListJobs(ListJobsRequest(), timeout=20)).jobs
    job = (await jobs.GetJob(GetJobRequest(name=listed.name, view=JobView.JOB_VIEW_FULL), timeout=20)).job
    assert [each.error.message for each in job.attempts] == 3 * ["large"]
    for shown in (job.error, listed.error, *(each.error for each in job.attempts)):
        info = read_envelope(shown)
        assert info is not None
        assert info.metadata["left_out"] == "google.rpc.DebugInfo (2000004 bytes)"


@pytest.mark.parametrize("make", [AsyncServicer, SyncServicer])
async def test_an_operation_holds_what_the_handler_finished(
    stack: AsyncExitStack, gateways: Gateways, workers: Workers, make: Make
) -> None:
    servicer = make()
    direct, queued = [
        await probe_pb2_grpc.ProbeServiceStub(channel).Run(RunRequest(payload=b"p"), timeout=20)
        for channel in (await by_aio(stack, servicer), await behind_the_queue(gateways, workers, servicer))
    ]
    assert response(queued, RunResponse) == response(direct, RunResponse) == RunResponse(payload=b"p")
    # The gateway names it and says where it stands.
    assert queued.name.startswith("tenants/default/operations/")
    assert queued.HasField("metadata")
    assert not direct.name
