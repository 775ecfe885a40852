"""Fixtures: gateways in the test's own process, channels to them, and the other side of the queue worked by hand.

A `Bench` claims and settles jobs itself, when the test says so, where a worker would be too quick to see what a gateway
does meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, LiteralString, TypeVar, cast
from uuid import UUID, uuid4

import grpc.aio
import psycopg
import pytest
from google.longrunning.operations_pb2 import Operation
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from psycopg import sql

from rowcall.catalogue.images import Catalogue, load_catalogue
from rowcall.catalogue.model import JobMethod
from rowcall.errors import read_envelope, status_of
from rowcall.names import operation_name
from rowcall.options.v1.job_pb2 import Priority
from rowcall.probe.v1 import probe_pb2_grpc
from rowcall.queue.model import ClaimedJob, Progress, Settlement
from rowcall.queue.postgres.hints import PostgresNotifier
from rowcall.queue.postgres.tenants import PostgresTenantAdmin
from rowcall.queue.postgres.work import PostgresWorkQueue
from rowcall.sharding import GATEWAY_WORKLOADS, WORKER_WORKLOADS, Router, Workload
from rowcall.v1.job_pb2 import JobState
from rowcall_gateway.edge import deadlines
from rowcall_gateway.edge.telemetry import Traces
from rowcall_gateway.server import Gateway
from rowcall_gateway.settings import GatewaySettings
from tests.fix_cluster import Cluster

Metadata = tuple[tuple[str, str], ...]
LANES = len([number for number in Priority.values() if number])
CLAIM_SECONDS = 20.0


class Gateways:
    """Starts gateways on the test's cluster, and channels to them."""

    def __init__(self, cluster: Cluster, stack: AsyncExitStack) -> None:
        self._cluster = cluster
        self._stack = stack

    def settings(self, **changes: Any) -> GatewaySettings:
        """A gateway's settings, on a port that is free."""
        defaults: dict[str, Any] = {
            **self._cluster.gateway.settings,
            "listen": "127.0.0.1:0",
            "grace": timedelta(seconds=5),
        }
        return GatewaySettings(**{**defaults, **changes})

    async def start(
        self,
        *,
        router: Router | None = None,
        traces: Traces | None = None,
        **changes: Any,
    ) -> Gateway:
        """A gateway that is stopped at the end of the test."""
        gateway = Gateway(self.settings(**changes), router=router, traces=traces)
        await gateway.start()
        self._stack.push_async_callback(gateway.stop)
        return gateway

    async def channel(self, gateway: Gateway, *options: tuple[str, object]) -> grpc.aio.Channel:
        """A channel of its own, as a process of its own would have it."""
        return await self._stack.enter_async_context(
            grpc.aio.insecure_channel(gateway.address, options=(("grpc.use_local_subchannel_pool", 1), *options))
        )

    async def probe(self, gateway: Gateway, *options: tuple[str, object]) -> probe_pb2_grpc.ProbeServiceAsyncStub:
        """The probe's stub on a channel of its own."""
        return probe_pb2_grpc.ProbeServiceStub(await self.channel(gateway, *options))


@dataclass(frozen=True, slots=True)
class HeldJob:
    """A job that the bench has claimed."""

    shard: str
    job: ClaimedJob

    @property
    def name(self) -> str:
        """The name of its operation."""
        return operation_name(self.job.tenant, self.job.job_id)


class Bench:
    """Works jobs by hand: a real worker's half of the queue, without its haste."""

    def __init__(self, router: Router, cluster: Cluster, stack: AsyncExitStack) -> None:
        self._router = router
        self._cluster = cluster
        self._stack = stack
        self._worker_id = uuid4()
        self._queues: dict[str, PostgresWorkQueue] = {}
        self._notifiers: dict[str, PostgresNotifier] = {}
        self._methods = list(load_catalogue().methods)

    @property
    def worker_id(self) -> UUID:
        """Its identity as a worker."""
        return self._worker_id

    def serve(self, catalogue: Catalogue) -> None:
        """From now on claims jobs of these methods too."""
        self._methods += [method for method in catalogue.methods if method not in self._methods]

    async def open(self) -> None:
        """Registers as a worker on every shard."""
        for name, shard in self._router.shards.items():
            queue = PostgresWorkQueue(
                shard.pool(Workload.CLAIM), shard.pool(Workload.SETTLE), shard.pool(Workload.MAINTENANCE)
            )
            await queue.register_worker(self._worker_id, "bench", timedelta(hours=1))
            self._queues[name] = queue

    def notify(self) -> None:
        """From now on tells waiting gateways of what it settles, as a worker does."""
        for name, dsn in self._cluster.worker.shards.items():
            notifier = PostgresNotifier(dsn)
            notifier.start()
            self._stack.push_async_callback(notifier.close)
            self._notifiers[name] = notifier

    async def claim(self, count: int = 1) -> list[HeldJob]:
        """Claims jobs until there are as many; other methods' too."""
        held: list[HeldJob] = []
        async with asyncio.timeout(CLAIM_SECONDS):
            while len(held) < count:
                held += await self.look(count - len(held))
                await asyncio.sleep(0.005)
        return held

    async def look(self, limit: int = 1000) -> list[HeldJob]:
        """Claims what is ready now."""
        held: list[HeldJob] = []
        for name, queue in self._queues.items():
            methods = [await queue.method_id(method) for method in self._methods]
            for row in await queue.queues():
                found = await queue.claim(self._worker_id, row.queue_id, methods, limit - len(held), start=[0] * LANES)
                held += [HeldJob(name, job) for job in found]
        return held

    async def answer(self, held: HeldJob, response: Message) -> None:
        """Settles a job with a response."""
        await self._settle(held, JobState.JOB_STATE_SUCCEEDED, response=response.SerializeToString())

    async def fail(self, held: HeldJob, status: Status, *, location: str | None = None) -> None:
        """Settles a job with an error, raised there."""
        await self._settle(
            held,
            JobState.JOB_STATE_FAILED,
            error=status.SerializeToString(),
            error_code=status.code,
            error_message=status.message,
            location=location,
        )

    async def fail_all(self, held: Sequence[HeldJob], status: Status) -> None:
        """Settles many jobs with one error, some hundred at a time."""
        for shard, queue in self._queues.items():
            settlements = [
                Settlement(
                    tenant=each.job.tenant,
                    job_id=each.job.job_id,
                    lease=each.job.lease,
                    state=JobState.JOB_STATE_FAILED,
                    error=status.SerializeToString(),
                    error_code=status.code,
                    error_message=status.message,
                )
                for each in held
                if each.shard == shard
            ]
            for start in range(0, len(settlements), 500):
                for settled in await queue.settle(settlements[start : start + 500]):
                    assert not isinstance(settled, Exception), settled
                    assert settled.settled

    async def report(self, shard: str, progress: Progress) -> None:
        """Tells how far a job is, which must still be held."""
        assert await self._queues[shard].report_progress([progress]) == [progress]

    async def die(self) -> None:
        """Is found dead, and what it held is taken back from it; it is another worker then."""
        for name, queue in self._queues.items():
            async with await psycopg.AsyncConnection.connect(self._cluster.shards[name]) as connection:
                await connection.execute(
                    "update rowcall.worker_beat set lease_until = clock_timestamp() - interval '1 second' where worker_id = %s",
                    [self._worker_id],
                )
            await queue.bury_workers(timedelta(0))
            await queue.rescue(1000)
        self._worker_id = uuid4()
        for queue in self._queues.values():
            await queue.register_worker(self._worker_id, "bench", timedelta(hours=1))

    async def _settle(self, held: HeldJob, state: int, **result: Any) -> None:
        settlement = Settlement(
            tenant=held.job.tenant, job_id=held.job.job_id, lease=held.job.lease, state=state, **result
        )
        (settled,) = await self._queues[held.shard].settle([settlement])
        assert not isinstance(settled, Exception), settled
        assert settled.settled
        if held.shard in self._notifiers and settled.waiter_id is not None:
            self._notifiers[held.shard].done(settled.waiter_id, [held.job.job_id])


def dynamic_stub(channel: grpc.aio.Channel, method: JobMethod) -> Callable[..., grpc.aio.UnaryUnaryCall[Any, Any]]:
    """A method's stub without generated code for it."""
    answer = Operation if method.returns_operation else method.response_class
    stub: Callable[..., grpc.aio.UnaryUnaryCall[Any, Any]] = channel.unary_unary(
        method.path,
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=answer.FromString,
    )
    return stub


def tenant(name: str, *more: tuple[str, str]) -> Metadata:
    """Metadata that says who calls, and more."""
    return (("rowcall-tenant", name), *more)


def keyed(key: str, *more: tuple[str, str]) -> Metadata:
    """Metadata with an idempotency key, and more."""
    return (("idempotency-key", key), *more)


async def refused(call: Awaitable[object]) -> grpc.aio.AioRpcError:
    """The error that a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value


_Answer = TypeVar("_Answer")
_DEADLINES: Final = (1.0, 4.0, 16.0)
"""Seconds. Of the first, the gateway keeps a tenth of a second for the answer's way; of the last, half a second."""


async def in_time(call: Callable[[float], Awaitable[_Answer]]) -> _Answer:
    """The answer, or the error that is raised, of a call that the gateway ends ahead of its deadline.

    On a machine that is too busy for so short a way, the client's own end comes first and tells nothing of ours: the
    call is made again, with more time.

    Args:
        call: Makes the call, given seconds.
    """
    for seconds in _DEADLINES:
        try:
            return await call(seconds)
        except grpc.aio.AioRpcError as error:
            if seconds == _DEADLINES[-1] or read_envelope(status_of(error)) is not None:
                raise
    raise AssertionError("the last of them returns or raises")


def info_of(error: grpc.aio.AioRpcError) -> ErrorInfo:
    """The ErrorInfo that an error came with."""
    info = read_envelope(status_of(error))
    assert info is not None, error
    return info


def violations_of(error: grpc.aio.AioRpcError) -> dict[str, str]:
    """Field and rule of each violation that an error came with."""
    found = BadRequest()
    for detail in status_of(error).details:
        if detail.Unpack(found):
            return {violation.field: violation.reason for violation in found.field_violations}
    raise AssertionError(f"no BadRequest in {error}")


def retry_delay_of(error: grpc.aio.AioRpcError) -> timedelta | None:
    """When an error says to call again."""
    found = RetryInfo()
    for detail in status_of(error).details:
        if detail.Unpack(found):
            return found.retry_delay.ToTimedelta()
    return None


def trailer(error: grpc.aio.AioRpcError, key: str) -> str | None:
    """A text among an error's trailers."""
    values: Sequence[str | bytes] = [value for name, value in error.trailing_metadata() or () if name == key]
    assert len(values) <= 1, f"{key} is there {len(values)} times"
    return str(values[0]) if values else None


def jobs(cluster: Cluster, columns: LiteralString) -> list[tuple[Any, ...]]:
    """Columns of rowcall.jobs, of every job on every shard, oldest first on each."""
    found: list[tuple[Any, ...]] = []
    for dsn in cluster.shards.values():
        with psycopg.connect(dsn) as connection:
            query = sql.SQL("select {} from rowcall.jobs order by job_id").format(sql.SQL(columns))
            found += connection.execute(query).fetchall()
    return found


def listening(cluster: Cluster) -> int:
    """How many connections listen for hints, over all shards."""
    count = 0
    for dsn in cluster.shards.values():
        with psycopg.connect(dsn) as connection:
            query = "select from pg_stat_activity where datname = current_database() and query ilike 'listen %rowcall_done%'"
            count += len(connection.execute(query).fetchall())
    return count


def job_id_of(name: str) -> UUID:
    """The id in an operation's name."""
    return UUID(name.rpartition("/")[2])


ANSWER_SECONDS: Final = 0.3
"""What gateways of tests keep for an answer's way. They share their process with their callers, and the machine with other tests: the
tenth of a second that one by itself keeps is too little there."""


@pytest.fixture
async def gateways(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateways]:
    """Starts gateways on the test's cluster; they are stopped after it."""
    monkeypatch.setattr(deadlines, "LEAST", ANSWER_SECONDS)
    async with AsyncExitStack() as stack:
        yield Gateways(cluster, stack)


@pytest.fixture
def quick_erasures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Erasures of this process's gateways wait for as good as nothing; for how long they do is the conformance suite's."""
    for name in ("linger", "settle"):
        monkeypatch.setitem(
            cast("dict[str, Any]", PostgresTenantAdmin.__init__.__kwdefaults__), name, timedelta(seconds=0.5)
        )


@pytest.fixture
async def bench(cluster: Cluster, gateways: Gateways) -> AsyncIterator[Bench]:
    """The worker's side of the test's cluster, worked by hand."""
    async with AsyncExitStack() as stack:
        router = await stack.enter_async_context(
            await Router.open(
                gateways.settings(**cluster.settings), service="bench", workloads=GATEWAY_WORKLOADS | WORKER_WORKLOADS
            )
        )
        opened = Bench(router, cluster, stack)
        await opened.open()
        yield opened
