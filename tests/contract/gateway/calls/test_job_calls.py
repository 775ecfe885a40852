"""Typed and Operation-returning calls as a client with generated stubs sees them: answers, joins, ends, headers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from importlib import resources
from typing import Any

import grpc
import psycopg
import pytest
from google.longrunning.operations_pb2 import Operation
from google.rpc.error_details_pb2 import ErrorInfo, RequestInfo
from google.rpc.status_pb2 import Status

from rowcall.errors import handler_status, status_of
from rowcall.probe.v1 import probe_pb2_grpc
from rowcall.probe.v1.probe_pb2 import AwaitRequest, AwaitResponse, EchoRequest, EchoResponse, RunRequest, RunResponse
from rowcall.v1.job_pb2 import JobMetadata, JobState
from tests.fix_cluster import Cluster
from tests.fix_gateway import Bench, Gateways, Metadata, in_time, info_of, jobs, keyed, refused, tenant, trailer
from tests.fix_worker import Workers
from tests.support.waiting import until

ECHO = "/rowcall.probe.v1.ProbeService/Echo"
SERVICE_CONFIG = resources.files("rowcall_gateway") / "service_config.json"


def rows(cluster: Cluster) -> list[tuple[str, str, int]]:
    """Name, state and attempt of every job there is."""
    return [(name, state, attempt) for name, state, attempt in jobs(cluster, "name, state, attempt")]


async def test_a_typed_call_is_answered_with_its_response(gateways: Gateways, workers: Workers) -> None:
    gateway = await gateways.start()
    worker = await workers.start()
    probe = await gateways.probe(gateway)

    answers = [
        await probe.Echo(EchoRequest(payload=b"hello"), timeout=20, metadata=tenant(f"tenant-{number}"))
        for number in range(6)
    ]

    assert {(answer.payload, answer.worker, answer.attempt) for answer in answers} == {(b"hello", worker.name, 1)}


async def test_a_call_that_outlives_its_deadline_is_told_so_and_joined_again(
    gateways: Gateways, bench: Bench, cluster: Cluster
) -> None:
    probe = await gateways.probe(await gateways.start())
    request = EchoRequest(payload=b"slow")

    error = await refused(in_time(lambda seconds: probe.Echo(request, timeout=seconds, metadata=keyed("k"))))

    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    info = info_of(error)
    assert (info.domain, info.reason, info.metadata["origin"]) == ("rowcall.dev", "STILL_RUNNING", "GATEWAY")
    name = info.metadata["operation"]
    assert trailer(error, "rowcall-operation") == name
    assert rows(cluster) == [(name, "READY", 0)]
    about = [detail for detail in status_of(error).details if detail.Is(RequestInfo.DESCRIPTOR)]
    assert RequestInfo.FromString(about[0].value).request_id == "k"

    again = asyncio.ensure_future(_echo(probe.Echo(request, timeout=20, metadata=keyed("k"))))
    (held,) = await bench.claim()
    assert held.name == name
    await bench.answer(held, EchoResponse(payload=b"slow", attempt=1))
    assert (await again).payload == b"slow"

    # Its answer stays: no worker is asked again.
    stored = await probe.Echo(request, timeout=20, metadata=keyed("k"))
    assert stored == EchoResponse(payload=b"slow", attempt=1)
    assert rows(cluster) == [(name, "SUCCEEDED", 1)]


async def _echo(call: grpc.aio.UnaryUnaryCall[EchoRequest, EchoResponse]) -> EchoResponse:
    return await call


@pytest.mark.parametrize(
    ("metadata", "advice"),
    [
        (keyed("k"), "call again with the same idempotency-key"),
        (tenant("default"), "await the operation. Calling again would submit another job"),
    ],
)
async def test_a_call_whose_time_is_up_is_advised_by_whether_it_has_a_key(
    gateways: Gateways, metadata: Metadata, advice: str
) -> None:
    probe = await gateways.probe(await gateways.start())

    error = await refused(in_time(lambda seconds: probe.Echo(EchoRequest(), timeout=seconds, metadata=metadata)))

    assert info_of(error).reason == "STILL_RUNNING"
    assert advice in str(error.details())


async def test_an_abandoned_calls_job_is_finished_by_a_worker_and_its_answer_kept(
    gateways: Gateways, workers: Workers, cluster: Cluster
) -> None:
    probe = await gateways.probe(await gateways.start())
    await workers.start()
    request = AwaitRequest(payload=b"late")
    request.work.FromMilliseconds(2_500)

    error = await refused(probe.Await(request, timeout=1.5, metadata=keyed("k")))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED

    answer = await probe.Await(request, timeout=20, metadata=keyed("k"))

    assert (answer.payload, answer.attempt) == (b"late", 1)
    assert [(state, attempt) for _, state, attempt in rows(cluster)] == [("SUCCEEDED", 1)]


async def test_details_of_many_calls_that_end_together_arrive_in_time(gateways: Gateways) -> None:
    gateway = await gateways.start()
    probe = await gateways.probe(gateway)

    errors = await asyncio.gather(
        *(refused(probe.Echo(EchoRequest(), timeout=8, metadata=tenant(f"t{number % 5}"))) for number in range(40))
    )

    # A bare DEADLINE_EXCEEDED of the client's own would have no details.
    assert {info_of(error).reason for error in errors} == {"STILL_RUNNING"}


async def test_wait_0_is_fire_and_forget(gateways: Gateways, bench: Bench, cluster: Cluster) -> None:
    probe = await gateways.probe(await gateways.start())

    started = time.monotonic()
    error = await refused(probe.Echo(EchoRequest(), timeout=20, metadata=keyed("k", ("prefer", "wait=0"))))

    assert time.monotonic() - started < 5, "nothing was waited for"
    assert info_of(error).reason == "STILL_RUNNING"
    assert rows(cluster) == [(info_of(error).metadata["operation"], "READY", 0)]
    # Done by now: the same call with the same preference is the answer.
    (held,) = await bench.claim()
    await bench.answer(held, EchoResponse(payload=b"x"))
    answer = await probe.Echo(EchoRequest(), timeout=20, metadata=keyed("k", ("prefer", "wait=0")))
    assert answer.payload == b"x"


async def test_a_call_without_a_deadline_waits_as_long_as_calls_may(gateways: Gateways) -> None:
    probe = await gateways.probe(await gateways.start(max_call_wait=timedelta(milliseconds=300)))

    started = time.monotonic()
    error = await refused(probe.Echo(EchoRequest()))

    assert 0.3 <= time.monotonic() - started < 5
    assert info_of(error).reason == "STILL_RUNNING"


async def test_a_preferred_wait_ends_a_typed_call_before_its_deadline(gateways: Gateways) -> None:
    probe = await gateways.probe(await gateways.start())

    started = time.monotonic()
    error = await refused(probe.Echo(EchoRequest(), timeout=30, metadata=(("prefer", "wait=1"),)))

    assert 1 <= time.monotonic() - started < 10
    assert info_of(error).reason == "STILL_RUNNING"


async def test_an_operation_is_done_when_it_finishes_within_the_wait(gateways: Gateways, workers: Workers) -> None:
    probe = await gateways.probe(await gateways.start())
    worker = await workers.start()

    operation = await probe.Run(RunRequest(payload=b"p"), timeout=20, metadata=tenant("acme", ("prefer", "wait=10")))

    assert operation.done
    assert operation.WhichOneof("result") == "response"
    assert operation.response.type_url == "type.googleapis.com/rowcall.probe.v1.RunResponse"
    response = RunResponse()
    assert operation.response.Unpack(response)
    assert response == RunResponse(payload=b"p", worker=worker.name, attempt=1)
    metadata = JobMetadata()
    assert operation.metadata.Unpack(metadata)
    assert metadata.method == "rowcall.probe.v1.ProbeService/Run"
    assert metadata.state == JobState.JOB_STATE_SUCCEEDED
    assert (metadata.queue, metadata.attempt) == ("probe", 1)
    assert metadata.finish_time.ToDatetime() >= metadata.start_time.ToDatetime() >= metadata.create_time.ToDatetime()


@pytest.mark.parametrize("by", ["the deadline", "a preference"])
async def test_an_operation_is_returned_unfinished_when_the_wait_is_over(
    gateways: Gateways, cluster: Cluster, by: str
) -> None:
    probe = await gateways.probe(await gateways.start())

    if by == "the deadline":
        asked = keyed("k", ("prefer", "wait=60"))
        operation: Operation = await in_time(lambda seconds: probe.Run(RunRequest(), timeout=seconds, metadata=asked))
    else:
        started = time.monotonic()
        operation = await probe.Run(RunRequest(), metadata=(("prefer", "wait=1"),))
        assert time.monotonic() - started < 20

    assert not operation.done
    assert operation.WhichOneof("result") is None
    metadata = JobMetadata()
    assert operation.metadata.Unpack(metadata)
    assert metadata.state == JobState.JOB_STATE_READY
    assert rows(cluster) == [(operation.name, "READY", 0)]


def watched(channel: grpc.aio.Channel) -> Callable[..., grpc.aio.UnaryStreamCall[bytes, bytes]]:
    """Echo, called in the one way in which Python's client tells of headers before the answer is there."""
    stub: Callable[..., grpc.aio.UnaryStreamCall[bytes, bytes]] = channel.unary_stream(ECHO)
    return stub


async def test_without_a_key_the_name_comes_ahead_of_the_answer(gateways: Gateways, bench: Bench) -> None:
    """Early headers commit the call, so that gRPC does not submit it a second time."""
    echo = watched(await gateways.channel(await gateways.start()))

    call = echo(b"", timeout=20)
    headers = dict(await asyncio.wait_for(call.initial_metadata(), 10))
    assert not call.done()

    (held,) = await bench.claim()
    assert headers["rowcall-operation"] == held.name
    await bench.answer(held, EchoResponse(payload=b"x"))
    assert await call.read() == EchoResponse(payload=b"x").SerializeToString()
    assert dict(await call.trailing_metadata())["rowcall-operation"] == held.name


async def test_with_a_key_the_headers_are_held_back_until_the_answer(gateways: Gateways, bench: Bench) -> None:
    """A call without headers is one that gRPC may repeat: it joins its own job."""
    echo = watched(await gateways.channel(await gateways.start()))

    call = echo(b"", timeout=20, metadata=keyed("k"))
    headers = asyncio.ensure_future(call.initial_metadata())
    (held,) = await bench.claim()
    await asyncio.wait({headers}, timeout=0.3)
    assert not headers.done()

    await bench.answer(held, EchoResponse(payload=b"x"))
    assert await call.read() == EchoResponse(payload=b"x").SerializeToString()
    assert "rowcall-operation" not in dict(await headers)
    assert dict(await call.trailing_metadata())["rowcall-operation"] == held.name


class Faulty(grpc.GenericRpcHandler):
    """A server on the way that is unavailable, as a proxy is whose backend is away; it counts."""

    def __init__(self) -> None:
        self.calls = 0

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        async def unavailable(_request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
            self.calls += 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "no backend")

        return grpc.unary_unary_rpc_method_handler(unavailable)


@pytest.fixture
async def faulty() -> AsyncIterator[tuple[Faulty, str]]:
    handler = Faulty()
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield handler, f"127.0.0.1:{port}"
    await server.stop(0)


@pytest.mark.parametrize("metadata", [(), keyed("k")])
async def test_a_call_that_grpc_repeats_needs_a_key(
    gateways: Gateways,
    workers: Workers,
    cluster: Cluster,
    faulty: tuple[Faulty, str],
    metadata: tuple[tuple[str, str], ...],
) -> None:
    gateway = await gateways.start()
    await workers.start()
    # One call after the other goes to one and the other server; a retry thus gets from the proxy to the gateway.
    config = {**json.loads(SERVICE_CONFIG.read_text()), "loadBalancingConfig": [{"round_robin": {}}]}
    options = (("grpc.service_config", json.dumps(config)), ("grpc.use_local_subchannel_pool", 1))
    async with grpc.aio.insecure_channel(f"ipv4:{faulty[1]},{gateway.address}", options=options) as channel:
        probe = probe_pb2_grpc.ProbeServiceStub(channel)
        reasons: set[str] = set()
        while not faulty[0].calls:
            try:
                await probe.Echo(EchoRequest(payload=b"x"), timeout=20, metadata=metadata)
                reasons.add("answered")
            except grpc.aio.AioRpcError as error:
                reasons.add(f"{error.code().name} {info_of(error).reason}")

    if metadata:
        assert reasons == {"answered"}
        assert len(rows(cluster)) == 1
    else:
        assert reasons - {"answered"} == {"FAILED_PRECONDITION IDEMPOTENCY_KEY_REQUIRED"}


async def test_one_key_names_one_job_of_one_method_and_one_request(
    gateways: Gateways, bench: Bench, cluster: Cluster
) -> None:
    probe = await gateways.probe(await gateways.start())
    now = ("prefer", "wait=0")
    first = info_of(await refused(probe.Echo(EchoRequest(payload=b"1"), timeout=20, metadata=keyed("k", now))))

    other = await refused(probe.Echo(EchoRequest(payload=b"2"), timeout=20, metadata=keyed("k", now)))
    assert other.code() is grpc.StatusCode.ALREADY_EXISTS
    assert info_of(other).reason == "IDEMPOTENCY_KEY_REUSED"
    assert info_of(other).metadata["operation"] == first.metadata["operation"]
    assert trailer(other, "rowcall-operation") == first.metadata["operation"]
    assert len(rows(cluster)) == 1

    operation = await probe.Run(RunRequest(payload=b"2"), timeout=20, metadata=keyed("k", now))
    assert operation.name != first.metadata["operation"]
    neighbour = await refused(probe.Echo(EchoRequest(payload=b"2"), timeout=20, metadata=tenant("b", *keyed("k", now))))
    assert info_of(neighbour).metadata["operation"].startswith("tenants/b/")
    assert len(rows(cluster)) == 3


async def test_a_joined_operation_is_the_same_operation(gateways: Gateways, bench: Bench) -> None:
    probe = await gateways.probe(await gateways.start())

    async def run() -> Operation:
        return await probe.Run(RunRequest(payload=b"p"), timeout=20, metadata=keyed("k", ("prefer", "wait=0")))

    first = await run()
    (held,) = await bench.claim()
    await bench.answer(held, RunResponse(payload=b"p"))
    second = await run()

    assert (first.name, first.done, second.name, second.done) == (held.name, False, held.name, True)


async def test_the_jobs_own_failure_is_the_calls(gateways: Gateways, bench: Bench, cluster: Cluster) -> None:
    """Code, message and details as stored; and no stock retry, which would only get the same again."""
    probe = await gateways.probe(await gateways.start(), ("grpc.service_config", SERVICE_CONFIG.read_text()))
    stored = Status(code=grpc.StatusCode.UNAVAILABLE.value[0], message="The printer is on fire.")
    stored.details.add().Pack(ErrorInfo(reason="ON_FIRE", domain="printers.example", metadata={"floor": "3"}))
    stored = handler_status(stored, operation="", attempt=1, trace_id="")

    call = asyncio.ensure_future(refused(probe.Echo(EchoRequest(), timeout=20, metadata=keyed("k"))))
    (held,) = await bench.claim()
    await bench.fail(held, stored)
    error = await call

    assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, "The printer is on fire.")
    printer = ErrorInfo()
    assert status_of(error).details[0].Unpack(printer)
    assert (printer.domain, printer.reason, printer.metadata["floor"]) == ("printers.example", "ON_FIRE", "3")
    assert printer.metadata["rowcall_operation"] == held.name, "filled in on its way"
    assert (info_of(error).metadata["origin"], info_of(error).metadata["attempt"]) == ("JOB", "1")
    assert trailer(error, "grpc-retry-pushback-ms") == "-1"
    assert trailer(error, "rowcall-operation") == held.name

    # The same call again: the stored error, not another run.
    again = await refused(probe.Echo(EchoRequest(), timeout=20, metadata=keyed("k")))
    assert (again.code(), again.details()) == (error.code(), error.details())
    assert rows(cluster) == [(held.name, "FAILED", 1)]


async def test_cancelling_a_call_does_not_cancel_its_job(gateways: Gateways, bench: Bench, cluster: Cluster) -> None:
    probe = await gateways.probe(await gateways.start())

    call = probe.Echo(EchoRequest(payload=b"x"), timeout=20, metadata=keyed("k"))
    await until(lambda: len(rows(cluster)) == 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call

    (held,) = await bench.claim()
    await bench.answer(held, EchoResponse(payload=b"x"))
    assert (await probe.Echo(EchoRequest(payload=b"x"), timeout=20, metadata=keyed("k"))).payload == b"x"
    assert rows(cluster) == [(held.name, "SUCCEEDED", 1)]


async def test_bytes_go_through_as_they_came(gateways: Gateways, bench: Bench) -> None:
    """A newer client's fields, and an older gateway: nothing is lost on the way, and nothing added."""
    gateway = await gateways.start()
    channel = await gateways.channel(gateway)
    raw: Callable[..., grpc.aio.UnaryUnaryCall[bytes, bytes]] = channel.unary_unary(ECHO)
    # Field 1 twice (the last one counts), and field 500, which nobody knows.
    request = b"\x0a\x01a\x0a\x01b" + b"\xa2\x1f\x03new"
    response = EchoResponse(payload=b"answer").SerializeToString() + b"\xa2\x1f\x04more"

    call = asyncio.ensure_future(_raw(raw(request, timeout=20)))
    (held,) = await bench.claim()
    assert held.job.request == request
    await bench.answer(held, EchoResponse.FromString(response))

    assert await call == response


async def _raw(call: grpc.aio.UnaryUnaryCall[bytes, bytes]) -> bytes:
    return await call


async def test_an_empty_message_is_a_message(gateways: Gateways, bench: Bench) -> None:
    probe = await gateways.probe(await gateways.start())

    call = asyncio.ensure_future(_echo(probe.Echo(EchoRequest(), timeout=20)))
    (held,) = await bench.claim()
    assert held.job.request == b""
    await bench.answer(held, EchoResponse())

    assert await call == EchoResponse()


async def test_a_deleted_operation_keeps_its_key(gateways: Gateways, bench: Bench, cluster: Cluster) -> None:
    gateway = await gateways.start()
    probe = await gateways.probe(gateway)
    await refused(probe.Echo(EchoRequest(), timeout=20, metadata=keyed("k", ("prefer", "wait=0"))))
    (held,) = await bench.claim()
    await bench.answer(held, EchoResponse())
    with psycopg.connect(cluster.shards[held.shard], autocommit=True) as connection:
        connection.execute("select rowcall.delete_job(%s, %s)", [held.job.tenant, held.job.job_id])

    error = await refused(probe.Echo(EchoRequest(), timeout=20, metadata=keyed("k")))

    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert info_of(error).reason == "OPERATION_DELETED"
    assert info_of(error).metadata["operation"] == held.name
    assert rows(cluster) == []


async def test_64_calls_with_one_key_through_two_gateways_are_one_row_and_one_answer(
    gateways: Gateways, workers: Workers, cluster: Cluster
) -> None:
    probes = [await gateways.probe(await gateways.start()) for _ in range(2)]
    await workers.start()
    request = AwaitRequest(payload=b"once")
    request.work.FromMilliseconds(100)

    async def call(number: int) -> AwaitResponse:
        return await probes[number % 2].Await(request, timeout=30, metadata=keyed("k"))

    answers = await asyncio.gather(*(call(number) for number in range(64)))

    assert len({answer.SerializeToString() for answer in answers}) == 1
    assert [(state, attempt) for _, state, attempt in rows(cluster)] == [("SUCCEEDED", 1)]

    async def other(number: int) -> grpc.aio.AioRpcError:
        return await refused(probes[number % 2].Await(AwaitRequest(payload=b"other"), timeout=30, metadata=keyed("k")))

    errors = await asyncio.gather(*(other(number) for number in range(8)))
    assert {info_of(error).reason for error in errors} == {"IDEMPOTENCY_KEY_REUSED"}
