"""Calls of three tenants at once, in any order and given up at any moment, over one connection a pool: nobody reads or changes
what another tenant has.

What a session keeps, what a statement left unread, whose answer comes to whom: with one connection for all of them, whatever
is left behind is met by the next. With `--pgbouncer` it is met through PgBouncer too. `make test` runs a quarter of them; the
long form (`make chaos`), and whoever goes through PgBouncer, all.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import grpc
import psycopg
import pytest
from google.longrunning import operations_pb2, operations_pb2_grpc
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from rowcall.probe.v1.probe_pb2 import EchoRequest, EchoResponse, RunRequest
from rowcall.probe.v1.probe_pb2_grpc import ProbeServiceStub
from rowcall.v1 import job_pb2, job_service_pb2, job_service_pb2_grpc
from tests.fix_cluster import Cluster
from tests.fix_gateway import Gateways, keyed, tenant
from tests.fix_worker import Workers, serve
from tests.support import scale

TENANTS = ("acme", "bolt", "cora")
KEYS = ("k1", "k2")
SECONDS = 30.0
ONE_EACH: dict[str, Any] = {
    f"pool_{name}": 1 for name in ("submit", "read", "claim", "settle", "maintenance", "transaction", "catalogue")
}
FULL = job_service_pb2.JobView.JOB_VIEW_FULL
GONE = grpc.StatusCode.NOT_FOUND
OWN_REFUSALS = (None, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.DEADLINE_EXCEEDED)
INTERLEAVINGS = 2_000
QUICK = 500
"""In the quick form."""


@dataclass(frozen=True)
class Act:
    """What one tenant does."""

    kind: str
    who: str
    key: str | None
    """The idempotency key; all tenants use the same ones."""
    whose: str
    """Whose job is named, if one is."""
    which: int
    as_mine: bool
    """Whether the name says that the job is the caller's own."""
    given_up_after: int | None
    """After so many turns of the event loop the caller hangs up; None: it waits."""


NAMED = ("get", "job", "cancel", "delete", "retry", "resolve", "wait")
ACTS = st.builds(
    Act,
    kind=st.sampled_from(("echo", "run", "list", "list_operations", *NAMED)),
    who=st.sampled_from(TENANTS),
    key=st.none() | st.sampled_from(KEYS),
    whose=st.sampled_from(TENANTS),
    which=st.integers(0, 1 << 10),
    as_mine=st.booleans(),
    given_up_after=st.none() | st.integers(0, 40),
)


class Callers:
    """The tenants of one gateway, and what they have done."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.seen: Counter[str] = Counter()
        self.names: dict[str, list[str]] = {each: [] for each in TENANTS}
        self.touched: set[str] = set()
        """Jobs that their own tenant has asked to be cancelled, deleted, replayed or resolved."""
        self.kept: set[str] = set()
        """Jobs with a key, which their tenant does not delete: whoever repeats the key would be told that it is gone."""
        self._probe = ProbeServiceStub(channel)
        self._operations = operations_pb2_grpc.OperationsStub(channel)
        self._jobs = job_service_pb2_grpc.JobServiceStub(channel)
        self._numbers = 0

    async def do(self, acts: list[Act]) -> None:
        """All of it at once."""
        self.seen["interleavings"] += 1
        await asyncio.gather(*(self._do(act) for act in acts))

    async def _do(self, act: Act) -> None:
        call = asyncio.ensure_future(self._call(act))
        if act.given_up_after is not None:
            for _ in range(act.given_up_after):
                if call.done():
                    break
                await asyncio.sleep(0)
            if call.cancel():
                self.seen["given up"] += 1
        try:
            await call
        except asyncio.CancelledError:
            if not call.cancelled():
                raise

    async def _call(self, act: Act) -> None:
        if act.kind in NAMED:
            await self._named(act)
        else:
            work: Callable[[Act], Awaitable[None]] = getattr(self, f"_{act.kind}")
            await work(act)
        self.seen[act.kind] += 1

    def _metadata(self, act: Act, *more: tuple[str, str]) -> tuple[tuple[str, str], ...]:
        metadata = tenant(act.who, *more)
        return metadata if act.key is None else (*metadata, *keyed(act.key))

    def _payload(self, act: Act) -> bytes:
        self._numbers += 1
        return f"{act.who} {act.key or self._numbers}".encode()

    async def _echo(self, act: Act) -> None:
        payload = self._payload(act)
        # A key of its own for each method: the same request under it, whoever repeats it.
        answer = await self._probe.Echo(EchoRequest(payload=payload), timeout=SECONDS, metadata=self._metadata(act))
        assert answer.payload == payload

    async def _run(self, act: Act) -> None:
        request = RunRequest(payload=self._payload(act))
        operation = await self._probe.Run(request, timeout=SECONDS, metadata=self._metadata(act, ("prefer", "wait=0")))
        assert operation.name.startswith(f"tenants/{act.who}/operations/")
        self.names[act.who].append(operation.name)
        if act.key is not None:
            self.kept.add(operation.name)

    async def _list(self, act: Act) -> None:
        request = job_service_pb2.ListJobsRequest(page_size=20, view=FULL)
        answer = await self._jobs.ListJobs(request, timeout=SECONDS, metadata=tenant(act.who))
        for job in answer.jobs:
            self._is_own(act, job)

    async def _list_operations(self, act: Act) -> None:
        request = operations_pb2.ListOperationsRequest(name=f"tenants/{act.who}", page_size=20)
        answer = await self._operations.ListOperations(request, timeout=SECONDS, metadata=tenant(act.who))
        for operation in answer.operations:
            assert operation.name.startswith(f"tenants/{act.who}/operations/")
            self._answers_own(act, operation)

    async def _named(self, act: Act) -> None:
        names = self.names[act.whose]
        if not names:
            return
        name = names[act.which % len(names)]
        own = act.who == act.whose
        if own and act.kind == "delete" and name in self.kept:
            return
        if own and act.kind in ("cancel", "delete", "retry", "resolve"):
            self.touched.add(name)
        elif act.as_mine:
            name = name.replace(f"tenants/{act.whose}/", f"tenants/{act.who}/")
        code = await self._refused(act, name)
        # Its own may be gone, in no state for it, or not to be had in time.
        assert code is GONE or (own and code in OWN_REFUSALS), f"{act.who}, {name}: {code}"

    async def _refused(self, act: Act, name: str) -> grpc.StatusCode | None:
        try:
            await self._ask(act, name)
        except grpc.aio.AioRpcError as error:
            self.seen["refused"] += 1
            return error.code()
        return None

    async def _ask(self, act: Act, name: str) -> None:
        told: dict[str, Any] = {"timeout": SECONDS, "metadata": tenant(act.who)}
        match act.kind:
            case "get":
                request = operations_pb2.GetOperationRequest(name=name)
                self._answers_own(act, await self._operations.GetOperation(request, **told))
            case "wait":
                waiting = operations_pb2.WaitOperationRequest(name=name)
                waiting.timeout.FromMilliseconds(1)
                self._answers_own(act, await self._operations.WaitOperation(waiting, **told))
            case "job":
                answer = await self._jobs.GetJob(job_service_pb2.GetJobRequest(name=name, view=FULL), **told)
                self._is_own(act, answer.job)
            case "cancel":
                await self._operations.CancelOperation(operations_pb2.CancelOperationRequest(name=name), **told)
            case "delete":
                await self._operations.DeleteOperation(operations_pb2.DeleteOperationRequest(name=name), **told)
            case "retry":
                await self._jobs.RetryJob(job_service_pb2.RetryJobRequest(name=name), **told)
            case _:
                await self._jobs.ResolveJob(job_service_pb2.ResolveJobRequest(name=name), **told)

    def _is_own(self, act: Act, job: job_pb2.Job) -> None:
        assert job.name.startswith(f"tenants/{act.who}/operations/")
        request = EchoRequest() if job.request.Is(EchoRequest.DESCRIPTOR) else RunRequest()
        assert job.request.Unpack(request)
        assert request.payload.startswith(f"{act.who} ".encode())
        self.seen["payloads"] += 1

    def _answers_own(self, act: Act, operation: operations_pb2.Operation) -> None:
        echoed = EchoResponse()
        if operation.HasField("response") and operation.response.Unpack(echoed):
            assert echoed.payload.startswith(f"{act.who} ".encode())
            self.seen["payloads"] += 1


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


async def echo(request: EchoRequest, context: Any) -> EchoResponse:
    assert request.payload.startswith(f"{context.tenant} ".encode())
    return EchoResponse(payload=request.payload)


@pytest.mark.timeout(600)
def test_no_row_of_another_tenant_is_read_or_written(cluster: Cluster, runner: asyncio.Runner) -> None:
    interleavings = INTERLEAVINGS if scale.LONG or cluster.access.port is not None else QUICK

    async def start(stack: AsyncExitStack) -> Callers:
        # Only Echo is served: what Run submits waits, and is there to be cancelled by whoever could.
        await Workers(cluster, stack).start(serve(echo=echo), shards={"a": cluster.worker.shards["a"]}, **ONE_EACH)
        gateways = Gateways(cluster, stack)
        gateway = await gateways.start(shards={"a": cluster.gateway.shards["a"]}, **ONE_EACH)
        return Callers(await gateways.channel(gateway))

    stack = AsyncExitStack()
    callers = runner.run(start(stack))
    try:

        @seed(scale.seed("tenants apart"))
        @settings(max_examples=interleavings, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(acts=st.lists(ACTS, min_size=2, max_size=8))
        def interleave(acts: list[Act]) -> None:
            runner.run(callers.do(acts))

        interleave()
    finally:
        runner.run(stack.aclose())
    scale.tell(f"tenants apart: {dict(callers.seen)}")
    assert callers.seen["interleavings"] >= interleavings
    for what in ("given up", "refused", "payloads"):
        assert callers.seen[what] >= interleavings // 10, f"too few were {what}"
    assert _faults_of_rows(cluster, callers) == []


def _faults_of_rows(cluster: Cluster, callers: Callers) -> list[str]:
    """What the rows say that must not be: a payload under another's name, a change that its own tenant has not asked for."""
    rows = """
    select tenant, job_id, state, convert_from(request, 'utf8') as request from rowcall.job
    union all
    select tenant, job_id, state, convert_from(request, 'utf8') from rowcall.job_history
    """
    with psycopg.connect(cluster.shards["a"]) as connection:
        found = connection.execute(rows).fetchall()
        keys = connection.execute(
            "select k.tenant, j.tenant from rowcall.job_key k join (select tenant, job_id from rowcall.job union all select tenant, job_id from rowcall.job_history) j using (job_id)"
        ).fetchall()
    assert len(found) > callers.seen["interleavings"] // 10
    faults = [f"{tenant} has {request!r}" for tenant, _, _, request in found if f"{tenant} " not in request]
    faults += [f"the key of {one} is of a job of {other}" for one, other in keys if one != other]
    there = {f"tenants/{tenant}/operations/{job_id}": state for tenant, job_id, state, _ in found}
    for names in callers.names.values():
        for name in names:
            if name not in callers.touched and there.get(name) not in (1, 2):
                faults.append(f"{name} is {there.get(name)}, and its tenant has not touched it")
    return faults
