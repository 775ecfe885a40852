"""google.longrunning.Operations: with its own stubs, and with google-api-core's client, as Python's users have it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Self

import grpc
import psycopg
import pytest
from google.api_core import operation as api_operation
from google.api_core.exceptions import Aborted, Cancelled
from google.api_core.operations_v1 import OperationsClient
from google.longrunning import operations_pb2_grpc
from google.longrunning.operations_pb2 import (
    CancelOperationRequest,
    DeleteOperationRequest,
    GetOperationRequest,
    ListOperationsRequest,
    Operation,
    WaitOperationRequest,
)
from google.protobuf.duration_pb2 import Duration
from google.rpc.code_pb2 import Code

from rowcall.probe.v1.probe_pb2 import EchoRequest, EchoResponse, RunRequest, RunResponse
from rowcall.probe.v1.probe_pb2_grpc import ProbeServiceStub
from rowcall.v1.job_pb2 import JobMetadata, JobState
from rowcall.v1.job_service_pb2 import GetJobRequest, JobView
from rowcall.v1.job_service_pb2_grpc import JobServiceStub
from rowcall_gateway.server import Gateway
from rowcall_gateway.services import listing
from rowcall_gateway.shards import links
from rowcall_gateway.shards.waiters import Pace
from tests.fix_cluster import Cluster
from tests.fix_gateway import Bench, Gateways, Metadata, info_of, jobs, listening, tenant
from tests.fix_worker import Workers
from tests.support.waiting import until

NOW = ("prefer", "wait=0")
ACME = tenant("acme")


class Client:
    """A gateway's operations and probe, as one tenant."""

    def __init__(self, channel: grpc.aio.Channel, metadata: Metadata = ACME) -> None:
        self.operations = operations_pb2_grpc.OperationsStub(channel)
        self.probe = ProbeServiceStub(channel)
        self.metadata = metadata

    async def run(self, payload: bytes = b"", *more: tuple[str, str]) -> Operation:
        """Submits a job and does not wait."""
        return await self.probe.Run(RunRequest(payload=payload), timeout=20, metadata=(*self.metadata, NOW, *more))

    async def get(self, name: str) -> Operation:
        return await self.operations.GetOperation(GetOperationRequest(name=name), timeout=20, metadata=self.metadata)

    async def wait(self, name: str, seconds: float | None = None, deadline: float | None = 20) -> Operation:
        request = WaitOperationRequest(name=name)
        if seconds is not None:
            request.timeout.FromTimedelta(timedelta(seconds=seconds))
        return await self.operations.WaitOperation(request, timeout=deadline, metadata=self.metadata)

    async def cancel(self, name: str) -> None:
        await self.operations.CancelOperation(CancelOperationRequest(name=name), timeout=20, metadata=self.metadata)

    async def delete(self, name: str) -> None:
        await self.operations.DeleteOperation(DeleteOperationRequest(name=name), timeout=20, metadata=self.metadata)

    async def page(self, **fields: str | int) -> tuple[list[str], str]:
        """Names of a page of the list, and the token of the next."""
        request = ListOperationsRequest(**fields)  # type: ignore[arg-type]
        page = await self.operations.ListOperations(request, timeout=20, metadata=self.metadata)
        return [each.name for each in page.operations], page.next_page_token


@pytest.fixture
async def gateway(gateways: Gateways) -> Gateway:
    return await gateways.start()


@pytest.fixture
async def client(gateways: Gateways, gateway: Gateway) -> Client:
    return Client(await gateways.channel(gateway))


def metadata_of(operation: Operation) -> JobMetadata:
    found = JobMetadata()
    assert operation.metadata.Unpack(found)
    return found


async def reason_of(call: asyncio.Future[object] | Callable[[], object]) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call  # type: ignore[misc]
    return info_of(error.value).reason


async def test_an_operation_is_followed_from_row_to_answer(client: Client, bench: Bench) -> None:
    submitted = await client.run(b"p")
    assert (await client.get(submitted.name)) == submitted

    (held,) = await bench.claim()
    running = await client.get(submitted.name)
    assert (running.name, running.done) == (held.name, False)
    assert metadata_of(running).state == JobState.JOB_STATE_RUNNING
    assert metadata_of(running).attempt == 1

    await bench.answer(held, RunResponse(payload=b"p"))
    done = await client.get(submitted.name)
    response = RunResponse()
    assert done.done
    assert done.WhichOneof("result") == "response"
    assert done.response.Unpack(response)
    assert response.payload == b"p"
    assert metadata_of(done).state == JobState.JOB_STATE_SUCCEEDED


async def test_a_typed_calls_job_is_an_operation_too(client: Client, bench: Bench) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await client.probe.Echo(EchoRequest(), timeout=20, metadata=(*ACME, NOW))
    name = info_of(ended.value).metadata["operation"]
    (held,) = await bench.claim()
    await bench.answer(held, EchoResponse(payload=b"x"))

    operation = await client.get(name)

    response = EchoResponse()
    assert operation.response.type_url == "type.googleapis.com/rowcall.probe.v1.EchoResponse"
    assert operation.response.Unpack(response)
    assert response.payload == b"x"


async def test_an_unknown_name_is_not_found_and_no_name_is_invalid(client: Client) -> None:
    await client.run()
    unknown = "tenants/acme/operations/01890000-0000-7000-8000-000000000000"
    for call in (client.get, client.cancel, client.delete, client.wait):
        assert await reason_of(asyncio.ensure_future(call(unknown))) == "JOB_NOT_FOUND"
        assert await reason_of(asyncio.ensure_future(call("operations/7"))) == "INVALID_NAME"
        assert await reason_of(asyncio.ensure_future(call(unknown.upper()))) == "INVALID_NAME"


async def test_another_tenants_operation_is_out_of_reach(gateways: Gateways, bench: Bench, cluster: Cluster) -> None:
    # On one shard, so that nothing but the tenant is in between.
    gateway = await gateways.start(placement={"b": 0})
    client = Client(await gateways.channel(gateway))
    rival = Client(await gateways.channel(gateway), tenant("rival"))
    mine, done = [(await client.run()).name for _ in range(2)]
    await rival.run()
    held = {each.name: each for each in await bench.claim(3)}
    await bench.answer(held[done], RunResponse())

    for name in (mine, done):
        for call in (rival.get, rival.cancel, rival.delete, rival.wait):
            assert await reason_of(asyncio.ensure_future(call(name))) == "JOB_NOT_FOUND"
    assert await reason_of(asyncio.ensure_future(rival.page(name="tenants/acme"))) == "JOB_NOT_FOUND"
    assert not {mine, done} & set((await rival.page())[0])
    assert not metadata_of(await client.get(mine)).cancel_requested
    assert (await client.get(done)).done


async def test_a_waiting_job_is_cancelled(client: Client, cluster: Cluster, bench: Bench) -> None:
    operation = await client.run()

    await client.cancel(operation.name)

    cancelled = await client.get(operation.name)
    assert cancelled.done
    assert cancelled.WhichOneof("result") == "error"
    assert cancelled.error.code == Code.CANCELLED
    assert metadata_of(cancelled).state == JobState.JOB_STATE_CANCELLED
    assert await bench.look() == []
    # AIP-151: again, and of what is finished, is no error.
    await client.cancel(operation.name)


async def test_a_running_job_is_marked_and_finished_by_its_handler(client: Client, bench: Bench) -> None:
    operation = await client.run()
    (held,) = await bench.claim()

    await client.cancel(operation.name)

    marked = await client.get(operation.name)
    assert not marked.done
    assert metadata_of(marked).cancel_requested
    await bench.answer(held, RunResponse(payload=b"x"))
    assert (await client.get(operation.name)).WhichOneof("result") == "response"


@pytest.mark.parametrize("hints", [True, False])
async def test_who_waits_for_a_job_hears_of_its_cancellation(gateways: Gateways, hints: bool, cluster: Cluster) -> None:
    clients = [Client(await gateways.channel(await gateways.start(hints=hints))) for _ in range(2)]
    call = asyncio.ensure_future(_echo(clients[0]))
    await until(lambda: len(jobs(cluster, "name")) == 1)
    ((name,),) = jobs(cluster, "name")

    await clients[1].cancel(name)

    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await call
    assert ended.value.code() is grpc.StatusCode.CANCELLED
    assert info_of(ended.value).reason == "JOB_CANCELLED"
    assert info_of(ended.value).metadata["operation"] == name


@pytest.mark.hinted("only a hint could wake the call here")
@pytest.mark.parametrize("other", [False, True])
async def test_a_cancellation_is_hinted_at(
    gateways: Gateways, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, other: bool
) -> None:
    """Asking comes too late here, whether the cancelling gateway is the one that waits or another."""
    monkeypatch.setattr(links, "HINTED", Pace(first=timedelta(hours=1), most=timedelta(hours=1)))
    waiting = await gateways.start()
    cancelling = await gateways.start() if other else waiting
    client = Client(await gateways.channel(cancelling))
    await until(lambda: listening(cluster) >= (2 if other else 1) * len(cluster.shards))
    call = asyncio.ensure_future(_echo(Client(await gateways.channel(waiting))))
    await until(lambda: len(jobs(cluster, "name")) == 1)
    ((name,),) = jobs(cluster, "name")

    await client.cancel(name)

    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await call
    assert info_of(ended.value).reason == "JOB_CANCELLED"


async def _echo(client: Client) -> EchoResponse:
    return await client.probe.Echo(EchoRequest(), timeout=20, metadata=ACME)


async def test_a_finished_operation_is_deleted_and_an_unfinished_is_not(client: Client, bench: Bench) -> None:
    operation = await client.run(b"p", ("idempotency-key", "k"))
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await client.delete(operation.name)
    assert ended.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert info_of(ended.value).reason == "JOB_NOT_FINISHED"
    assert info_of(ended.value).metadata["state"] == "READY"

    (held,) = await bench.claim()
    await bench.answer(held, RunResponse())
    await client.delete(operation.name)

    assert await reason_of(asyncio.ensure_future(client.get(operation.name))) == "JOB_NOT_FOUND"
    # The key is not free again: the call is not run a second time.
    assert await reason_of(asyncio.ensure_future(client.run(b"p", ("idempotency-key", "k")))) == "OPERATION_DELETED"


async def test_waiting_ends_with_the_job(client: Client, bench: Bench) -> None:
    operation = await client.run()
    wait = asyncio.ensure_future(client.wait(operation.name))
    (held,) = await bench.claim()
    assert not wait.done()

    await bench.answer(held, RunResponse(payload=b"x"))

    assert (await wait).WhichOneof("result") == "response"
    # Of what is done, at once.
    assert (await client.wait(operation.name, 20)).done


@pytest.mark.parametrize(("seconds", "deadline"), [(0.5, 20), (20, 0.5), (None, 0.5), (0, 20)])
async def test_waiting_ends_with_the_shorter_of_timeout_and_deadline(
    client: Client, seconds: float | None, deadline: float
) -> None:
    operation = await client.run()

    started = time.monotonic()
    waited = await client.wait(operation.name, seconds, deadline)

    assert not waited.done
    assert waited.name == operation.name
    assert time.monotonic() - started < 5


async def test_waiting_is_bounded_by_how_long_calls_may_wait(gateways: Gateways) -> None:
    client = Client(await gateways.channel(await gateways.start(max_call_wait=timedelta(milliseconds=200))))
    operation = await client.run()

    assert not (await client.wait(operation.name, deadline=None)).done
    assert not (await client.wait(operation.name, seconds=10**9, deadline=None)).done


async def test_the_list_has_all_of_a_tenants_operations_newest_first(client: Client, bench: Bench) -> None:
    names = [(await client.run()).name for _ in range(7)]
    for held in (await bench.claim(7))[:3]:
        await bench.answer(held, RunResponse())

    for parent in ("", "tenants/acme", "tenants/acme/operations", "operations"):
        assert (await client.page(name=parent))[0] == names[::-1]

    pages: list[list[str]] = []
    token = ""
    while True:
        page, token = await client.page(page_size=3, page_token=token)
        pages.append(page)
        if not token:
            break
    assert [len(page) for page in pages] == [3, 3, 1]
    assert [name for page in pages for name in page] == names[::-1]


async def test_the_list_is_filtered(client: Client, bench: Bench) -> None:
    runs = [(await client.run()).name for _ in range(3)]
    (held, *_) = await bench.claim(3)
    await bench.answer(held, RunResponse())
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await client.probe.Echo(EchoRequest(), timeout=20, metadata=(*ACME, NOW))
    echo = info_of(ended.value).metadata["operation"]

    assert (await client.page(filter="done=true"))[0] == [held.name]
    assert set((await client.page(filter="done=false"))[0]) == {*runs, echo} - {held.name}
    method = 'method="rowcall.probe.v1.ProbeService/{}"'
    assert (await client.page(filter=method.format("Echo")))[0] == [echo]
    assert (await client.page(filter=f"{method.format('Run')} AND done=true"))[0] == [held.name]
    assert (await client.page(filter=method.format("Nobody")))[0] == []
    assert await reason_of(asyncio.ensure_future(client.page(filter="state=READY"))) == "INVALID_FILTER"


async def test_a_page_token_is_only_good_for_its_own_list(client: Client, gateways: Gateways, gateway: Gateway) -> None:
    for _ in range(3):
        await client.run()
    _, token = await client.page(page_size=1)
    rival = Client(await gateways.channel(gateway), tenant("rival"))
    await rival.run()

    assert len((await client.page(page_size=1, page_token=token))[0]) == 1
    for page in (
        client.page(page_token=token, filter="done=false"),
        rival.page(page_token=token),
        client.page(page_token=token[:-4] + "AAAA"),
        client.page(page_token="not base64"),
        client.page(page_token="AAAA"),
    ):
        assert await reason_of(asyncio.ensure_future(page)) == "INVALID_PAGE_TOKEN"
    assert await reason_of(asyncio.ensure_future(client.page(page_size=-1))) == "INVALID_REQUEST"


async def test_a_page_of_large_answers_is_one_that_clients_can_take(
    client: Client, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gRPC's clients refuse messages above 4 MiB."""
    monkeypatch.setattr(listing, "PAGE_BYTES", 2000)
    names = [(await client.run()).name for _ in range(5)]
    for held in await bench.claim(5):
        await bench.answer(held, RunResponse(payload=b"x" * 900))

    first, token = await client.page()
    second, end = await client.page(page_token=token)

    assert (first + second, end) == (names[::-1], "")
    assert len(first) == 3


async def test_a_tenant_that_never_called_has_no_operations_and_is_not_placed(
    client: Client, gateways: Gateways, gateway: Gateway, cluster: Cluster
) -> None:
    nobody = Client(await gateways.channel(gateway), tenant("nobody"))

    assert await nobody.page() == ([], "")
    assert (
        await reason_of(
            asyncio.ensure_future(nobody.get("tenants/nobody/operations/01890000-0000-7000-8000-000000000000"))
        )
        == "JOB_NOT_FOUND"
    )

    with psycopg.connect(cluster.catalogue_dsn) as connection:
        assert connection.execute("select tenant from rowcall_catalogue.tenant").fetchall() == []


async def test_an_answer_has_its_type_at_a_gateway_without_its_image(
    gateways: Gateways, client: Client, bench: Bench
) -> None:
    """Any gateway may be asked for any job; google-api-core's future unpacks nothing but the real type."""
    operation = await client.run()
    (held,) = await bench.claim()
    await bench.answer(held, RunResponse(payload=b"x"))
    without_probe = Client(await gateways.channel(await gateways.start(probe=False)))

    answer = RunResponse()
    for found in (
        await without_probe.get(operation.name),
        (await without_probe.operations.ListOperations(ListOperationsRequest(), timeout=20, metadata=ACME)).operations[
            0
        ],
    ):
        assert found.response.type_url == "type.googleapis.com/rowcall.probe.v1.RunResponse"
        assert found.response.Unpack(answer)
        assert answer == RunResponse(payload=b"x")


async def test_a_request_and_an_answer_have_their_types_in_the_jobs_of_a_gateway_without_their_image(
    gateways: Gateways, client: Client, bench: Bench
) -> None:
    operation = await client.run(b"q")
    (held,) = await bench.claim()
    await bench.answer(held, RunResponse(payload=b"x"))
    stub = JobServiceStub(await gateways.channel(await gateways.start(probe=False)))
    asked, answer = RunRequest(), RunResponse()
    request = GetJobRequest(name=operation.name, view=JobView.JOB_VIEW_FULL)
    job = (await stub.GetJob(request, timeout=20, metadata=ACME)).job
    assert job.request.Unpack(asked)
    assert job.response.Unpack(answer)
    assert (asked.payload, answer.payload) == (b"q", b"x")


async def test_an_answer_of_a_method_that_nobody_published_is_readable_bytes(
    gateways: Gateways, client: Client, bench: Bench, cluster: Cluster
) -> None:
    operation = await client.run()
    (held,) = await bench.claim()
    await bench.answer(held, RunResponse(payload=b"x"))
    without_probe = Client(await gateways.channel(await gateways.start(probe=False)))
    for dsn in cluster.shards.values():
        with psycopg.connect(dsn) as connection:
            connection.execute("update rowcall.method set request_type = null, response_type = null")

    found = await without_probe.get(operation.name)

    assert found.response.type_url == "type.googleapis.com/google.protobuf.BytesValue"
    assert RunResponse(payload=b"x").SerializeToString() in found.response.value


class Stock:
    """google-api-core's synchronous client, in a thread, as its users have it."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address)
        # google-api-core has types and does not say so.
        self.client: Any = OperationsClient(self.channel)  # type: ignore[no-untyped-call]
        self.probe = ProbeServiceStub(self.channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()

    def run(self, request: RunRequest) -> Any:
        operation = self.probe.Run(request, timeout=20, metadata=(*ACME, NOW))
        follow: Any = api_operation.from_gapic
        return follow(operation, self.client, RunResponse, metadata_type=JobMetadata, grpc_metadata=list(ACME))


async def test_google_api_cores_future_has_the_result(gateway: Gateway, workers: Workers) -> None:
    await workers.start()

    def follow() -> tuple[RunResponse, JobMetadata, bool]:
        with Stock(gateway.address) as stock:
            future = stock.run(RunRequest(payload=b"p", work=Duration(nanos=100_000_000)))
            result = future.result(timeout=30)
            return result, future.metadata, future.done()

    response, metadata, done = await asyncio.to_thread(follow)

    assert (response.payload, response.attempt, done) == (b"p", 1, True)
    assert metadata.state == JobState.JOB_STATE_SUCCEEDED


async def test_google_api_cores_future_has_the_error(gateway: Gateway, workers: Workers) -> None:
    await workers.start()

    def follow() -> None:
        with Stock(gateway.address) as stock:
            stock.run(RunRequest(fail_code=Code.ABORTED)).result(timeout=60)

    with pytest.raises(Aborted):
        await asyncio.to_thread(follow)


async def test_google_api_cores_client_gets_lists_cancels_and_deletes(gateway: Gateway) -> None:
    def follow() -> None:
        with Stock(gateway.address) as stock:
            future = stock.run(RunRequest())
            name = future.operation.name
            assert not future.done()
            listed = stock.client.list_operations("tenants/acme", "done=false", metadata=list(ACME))
            assert [each.name for each in listed] == [name]
            assert future.cancel()
            assert future.cancelled()
            with pytest.raises(Cancelled):
                future.result(timeout=30)
            stock.client.delete_operation(name, metadata=list(ACME))
            assert list(stock.client.list_operations("tenants/acme", "", metadata=list(ACME))) == []

    await asyncio.to_thread(follow)
