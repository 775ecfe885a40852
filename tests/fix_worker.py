"""Fixtures: workers in the test's own process, and jobs submitted to their shards without a gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypedDict
from uuid import UUID

import grpc
import pytest
import uuid_utils.compat
from google.longrunning.operations_pb2 import Operation
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status

from rowcall.catalogue.images import load_catalogue
from rowcall.catalogue.model import Policy
from rowcall.probe.v1.probe_pb2 import EchoRequest, EchoResponse, RunRequest
from rowcall.queue.model import JobRow, Submission, SubmitOutcome
from rowcall.queue.postgres.hints import PostgresNotifier
from rowcall.queue.postgres.store import PostgresJobStore
from rowcall.settings import ClusterSettings
from rowcall.sharding import GATEWAY_WORKLOADS, Router, Workload
from rowcall.telemetry.sampling import Sampling
from rowcall.telemetry.spans import Spans
from rowcall_worker import Worker, WorkerSettings
from tests.fix_cluster import Cluster
from tests.support.waiting import until

PROBE = load_catalogue().methods
DONE_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Job:
    """A job that was submitted."""

    tenant: str
    job_id: UUID
    shard: str

    @property
    def name(self) -> str:
        """The name of its operation."""
        return f"tenants/{self.tenant}/operations/{self.job_id}"


@dataclass(frozen=True, slots=True)
class Call:
    """Who calls, and how."""

    tenant: str = "acme"
    request_id: str | None = None
    actor: str | None = None
    traceparent: str | None = None
    labels: Mapping[str, str] | None = None
    waiter_id: UUID | None = None


class PolicyChanges(TypedDict, total=False):
    """What a test may change of a method's policy."""

    queue: str
    priority: int
    max_attempts: int
    backoff_initial: timedelta
    backoff_maximum: timedelta
    timeout: timedelta
    deadline: timedelta
    retry_codes: tuple[int, ...]


class Calls:
    """Submits jobs as a gateway does, with hints, and looks at them."""

    def __init__(self, router: Router) -> None:
        self.hints = True
        """Whether workers are told of new jobs."""
        self._router = router
        self._notifiers = {
            name: PostgresNotifier(shard.connection_string("hints")) for name, shard in router.shards.items()
        }
        self._stores = {
            name: PostgresJobStore(shard.pool(Workload.SUBMIT), shard.pool(Workload.READ), shard=name)
            for name, shard in router.shards.items()
        }

    def start(self) -> None:
        """Starts to send hints."""
        if self.hints:
            for notifier in self._notifiers.values():
                notifier.start()

    async def close(self) -> None:
        """Ends the connections of its own."""
        for notifier in self._notifiers.values():
            await notifier.close()
        for store in self._stores.values():
            await store.close()

    def store(self, shard: str) -> PostgresJobStore:
        """The shard's half of the queue that a gateway uses."""
        return self._stores[shard]

    async def submit(
        self, method: str, request: Message | bytes, *, call: Call | None = None, policy: PolicyChanges | None = None
    ) -> Job:
        """Submits one job of a method of the probe ("Echo"), under its policy with changes."""
        return (await self.submit_many(method, [request], call=call, policy=policy))[0]

    async def submit_many(
        self,
        method: str,
        requests: Sequence[Message | bytes],
        *,
        call: Call | None = None,
        policy: PolicyChanges | None = None,
    ) -> list[Job]:
        """Submits many jobs of one tenant at once."""
        job_method = PROBE[f"rowcall.probe.v1.ProbeService/{method}"]
        return await self.submit_as(job_method.name, replace(job_method.policy, **(policy or {})), requests, call=call)

    async def submit_as(
        self, name: str, policy: Policy, requests: Sequence[Message | bytes], *, call: Call | None = None
    ) -> list[Job]:
        """Submits many jobs of any method, under any policy."""
        call = call or Call()
        route = await self._router.route(call.tenant)
        store = self._stores[route.shard]
        ids = await store.method_ids(name, policy)
        submissions = [
            Submission(
                tenant=call.tenant,
                job_id=uuid_utils.compat.uuid7(),
                ids=ids,
                lane=policy.priority,
                request=request if isinstance(request, bytes) else request.SerializeToString(),
                request_id=call.request_id,
                fingerprint=None if call.request_id is None else bytes(16),
                actor=call.actor,
                traceparent=call.traceparent,
                labels=call.labels,
                waiter_id=call.waiter_id,
                deadline=policy.deadline,
            )
            for request in requests
        ]
        for answer in await store.submit(submissions):
            assert not isinstance(answer, Exception), answer
            assert answer.outcome is SubmitOutcome.CREATED
        if self.hints:
            self._notifiers[route.shard].ready([ids.queue_id])
        return [Job(call.tenant, each.job_id, route.shard) for each in submissions]

    async def cancel(self, job: Job, *, hinted: bool = True) -> None:
        """Cancels a job; tells the worker that runs it, unless told not to."""
        cancelled = await self._stores[job.shard].cancel(job.tenant, job.job_id)
        assert cancelled is not None
        if hinted and self.hints and cancelled.worker_id is not None:
            self._notifiers[job.shard].cancel([cancelled.worker_id])

    async def row(self, job: Job) -> JobRow:
        """The job as it stands."""
        return (await self.rows([job]))[0]

    async def rows(self, jobs: Sequence[Job]) -> list[JobRow]:
        """The jobs as they stand."""
        found: dict[tuple[str, UUID], JobRow] = {}
        for name, store in self._stores.items():
            keys = [(job.tenant, job.job_id) for job in jobs if job.shard == name]
            found.update(await store.read(keys, request=True, response=True) if keys else {})
        return [found[job.tenant, job.job_id] for job in jobs]

    async def done(self, job: Job, *, seconds: float = DONE_SECONDS) -> JobRow:
        """The job when it is finished."""
        return await self.until(job, lambda row: row.done, seconds=seconds)

    async def until(self, job: Job, true: Callable[[JobRow], bool], *, seconds: float = DONE_SECONDS) -> JobRow:
        """The job as soon as something is true of it."""
        found: list[JobRow] = []

        async def look() -> bool:
            found[:] = [await self.row(job)]
            return true(found[0])

        await until(look, seconds=seconds)
        return found[0]

    async def all_done(self, jobs: Sequence[Job], *, seconds: float = DONE_SECONDS) -> list[JobRow]:
        """The jobs when all of them are finished."""
        rows: list[JobRow] = []

        async def look() -> bool:
            rows[:] = await self.rows(jobs)
            return all(row.done for row in rows)

        await until(look, seconds=seconds)
        return rows


def error_of(row: JobRow) -> Status:
    """The error that a job failed with."""
    assert row.error is not None
    return Status.FromString(row.error)


@pytest.fixture
async def calls(cluster: Cluster) -> AsyncIterator[Calls]:
    """Submits jobs to the test's cluster."""
    settings = ClusterSettings(**cluster.gateway.settings)
    async with await Router.open(settings, service="test", workloads=GATEWAY_WORKLOADS) as router:
        calls = Calls(router)
        calls.hints = cluster.access.hints
        calls.start()
        yield calls
        await calls.close()


def serve(
    *, echo: Callable[..., object] | None = None, run: Callable[..., object] | None = None
) -> Callable[[Worker], None]:
    """Registers functions, `async def` or not, as the handlers of Echo and Run; in place of the built-in probe."""

    def register(worker: Worker) -> None:
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        if echo is not None:
            handlers["Echo"] = grpc.unary_unary_rpc_method_handler(
                echo, EchoRequest.FromString, EchoResponse.SerializeToString
            )
        if run is not None:
            handlers["Run"] = grpc.unary_unary_rpc_method_handler(
                run, RunRequest.FromString, Operation.SerializeToString
            )
        worker.add_registered_method_handlers("rowcall.probe.v1.ProbeService", handlers)

    return register


class Workers:
    """Starts workers on the test's cluster."""

    def __init__(self, cluster: Cluster, stack: AsyncExitStack) -> None:
        self._cluster = cluster
        self._stack = stack

    def settings(self, **changes: Any) -> WorkerSettings:
        """A worker's settings, with short times."""
        defaults: dict[str, Any] = {
            **self._cluster.worker.settings,
            "lease": timedelta(seconds=3),
            "grace": timedelta(seconds=5),
        }
        return WorkerSettings(**{**defaults, **changes})

    def make(self, *, spans: Spans | None = None, sampling: Sampling | None = None, **changes: Any) -> Worker:
        """A worker that is drained at the end of the test."""
        worker = Worker(self.settings(**changes), spans=spans, sampling=sampling)
        self.keep(worker)
        return worker

    def keep(self, worker: Worker) -> None:
        """Has a worker be drained at the end of the test."""
        self._stack.push_async_callback(worker.drain, timedelta(0))

    async def start(self, *register: Callable[[Worker], None], **changes: Any) -> Worker:
        """A worker with these servicers, or the probe's, that is started."""
        worker = self.make(**changes)
        for each in register:
            each(worker)
        await worker.start()
        return worker


@pytest.fixture
async def workers(cluster: Cluster) -> AsyncIterator[Workers]:
    """Starts workers on the test's cluster; they are stopped after it."""
    async with AsyncExitStack() as stack:
        yield Workers(cluster, stack)
