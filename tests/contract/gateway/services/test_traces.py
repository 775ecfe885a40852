"""ActionService.GetAction and ListActions, as a gateway's callers see them: one action whole, of rows that are there anyway."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc.aio
import psycopg
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.code_pb2 import Code
from psycopg.types.json import Jsonb

from rowcall.probe.v1.probe_pb2 import EchoRequest, EchoResponse
from rowcall.security.roles import ADMIN, CALLER, OPERATOR, VIEWER
from rowcall.telemetry import conventions
from rowcall.v1.action_service_pb2 import (
    ActionNode,
    ActionNodeKind,
    GetActionRequest,
    GetActionResponse,
    ListActionsRequest,
    ListActionsResponse,
)
from rowcall.v1.action_service_pb2_grpc import ActionServiceStub
from rowcall.v1.job_pb2 import JobState
from rowcall.v1.job_service_pb2 import CancelJobRequest
from rowcall.v1.job_service_pb2_grpc import JobServiceStub
from rowcall_worker import telemetry
from rowcall_worker.serving.context import AsyncJobContext
from tests.fix_cluster import Cluster
from tests.fix_gateway import Gateways, Metadata, info_of, refused
from tests.fix_worker import Call, Calls, Job, Workers, serve
from tests.support.tokens import TokenIssuer
from tests.support.waiting import until

ECHO = "rowcall.probe.v1.ProbeService/Echo"
TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"
RETRIED, CHILD, DOOMED, MANY = b"retried", b"child", b"doomed", b"many"
CHILDREN = 60
"""Of a job that has many."""


class Client:
    """A gateway that knows its callers."""

    def __init__(self, channel: grpc.aio.Channel, issuer: TokenIssuer) -> None:
        self.channel = channel
        self.stub = ActionServiceStub(channel)
        self._issuer = issuer

    def who(self, *roles: str, tenant: str | None = "acme", sub: str = "olga") -> Metadata:
        return tuple(self._issuer.metadata(sub=sub, tenant=tenant, roles=list(roles)))

    async def get(self, who: Metadata | None = None, **asked: Any) -> GetActionResponse:
        answer: GetActionResponse = await self.stub.GetAction(
            GetActionRequest(**asked), timeout=20, metadata=who or self.who(OPERATOR)
        )
        return answer

    async def list(self, who: Metadata | None = None, **asked: Any) -> ListActionsResponse:
        answer: ListActionsResponse = await self.stub.ListActions(
            ListActionsRequest(**asked), timeout=20, metadata=who or self.who(VIEWER)
        )
        return answer


@pytest.fixture
async def client(gateways: Gateways, tmp_path: Path) -> Client:
    issuer = TokenIssuer()
    gateway = await gateways.start(identity="jwt", issuers=issuer.write(tmp_path))
    return Client(await gateways.channel(gateway), issuer)


async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
    if request.payload == DOOMED:
        context.fail(grpc.StatusCode.NOT_FOUND, "Gone.")
    if request.payload == MANY:
        for number in range(CHILDREN):
            context.submit(ECHO, EchoRequest(payload=DOOMED if number == CHILDREN - 1 else CHILD))
    if request.payload == RETRIED:
        with telemetry.model_call("oracle", "gpt-7") as call:
            call.tokens(input=100, output=7)
            call.cost("0.25", "EUR")
        if context.attempt == 1:
            context.retry(timedelta(0), "Not yet.")
        context.submit(ECHO, EchoRequest(payload=CHILD))
    return EchoResponse()


def kinds(nodes: Sequence[ActionNode], *kinds: str) -> list[ActionNode]:
    return [node for node in nodes if ActionNodeKind.Name(node.kind).removeprefix("ACTION_NODE_KIND_") in kinds]


def by_id(nodes: Sequence[ActionNode]) -> Mapping[str, ActionNode]:
    return {node.id: node for node in nodes}


async def settled(calls: Calls, client: Client, many: int, **asked: Any) -> GetActionResponse:
    """An action with so many jobs, all of which have ended."""
    found: list[GetActionResponse] = []

    async def look() -> bool:
        found[:] = [await client.get(**asked)]
        return found[0].jobs == many and found[0].HasField("duration")

    await until(look)
    return found[0]


async def test_an_action_is_one_tree_from_its_call_to_its_last_child(
    client: Client, calls: Calls, workers: Workers
) -> None:
    await workers.start(serve(echo=echo), deployed_version="7.1")
    job = await calls.submit("Echo", EchoRequest(payload=RETRIED), call=Call(traceparent=TRACEPARENT, actor="ann"))
    action = await settled(calls, client, 2, trace_id=TRACE)
    assert (action.tenant, action.trace_id, action.partial) == ("tenants/acme", TRACE, False)
    parent, child = kinds(action.nodes, "JOB")
    assert (parent.id, parent.name, parent.status, parent.parent_id) == (job.name, ECHO, "SUCCEEDED", "")
    assert parent.attributes[conventions.ACTOR] == "ann"
    first, second, third = kinds(action.nodes, "ATTEMPT")
    assert [first.status, second.status, third.status] == ["RETRIED", "SUCCEEDED", "SUCCEEDED"]
    assert (first.parent_id, second.parent_id, third.parent_id) == (job.name, job.name, child.id)
    assert (first.code, first.message) == (Code.UNAVAILABLE, "Not yet.")
    assert first.attributes[conventions.WORKER_VERSION] == "7.1"
    assert child.parent_id == second.id, "below the attempt that submitted it"
    paid = kinds(action.nodes, "MODEL_CALL")
    assert [each.parent_id for each in paid] == [first.id, second.id]
    assert paid[0].name == "oracle gpt-7"
    assert paid[0].attributes[conventions.COST] == "0.25"
    assert "BACKOFF" in {each.status for each in kinds(action.nodes, "WAIT") if each.parent_id == job.name}
    [cost] = action.costs
    assert (cost.currency, cost.calls, cost.input_tokens, cost.cost) == ("EUR", 2, 200, "0.5")
    # Each lies in the time of what it is below, and behind it.
    seen: set[str] = set()
    for node in action.nodes:
        assert not node.parent_id or node.parent_id in seen
        seen.add(node.id)
        assert action.start_time.ToDatetime() <= node.start_time.ToDatetime()
    names = {value for name, value in vars(conventions).items() if name.isupper()}
    assert {name for node in action.nodes for name in node.attributes} <= names
    assert await client.get(operation=child.id) == action, "whichever of its operations is named"


async def test_of_many_below_one_those_that_say_most_are_told_and_the_others_counted(
    client: Client, calls: Calls, workers: Workers
) -> None:
    await workers.start(serve(echo=echo))
    job = await calls.submit("Echo", EchoRequest(payload=MANY), call=Call(traceparent=TRACEPARENT))
    action = await settled(calls, client, CHILDREN + 1, trace_id=TRACE)
    jobs = kinds(action.nodes, "JOB")
    assert [each.status for each in jobs].count("FAILED") == 1
    assert 2 < len(jobs) < 20
    [group] = action.groups
    assert (group.parent_id, group.method, group.state) == (job.name, ECHO, JobState.JOB_STATE_SUCCEEDED)
    assert group.jobs + len(jobs) == CHILDREN + 1
    # One that is asked for by name is told of in any case.
    page = await client.list(states=[JobState.JOB_STATE_SUCCEEDED], page_size=1)
    [row] = page.actions
    assert (row.operation, row.trace_id) == (job.name, TRACE), "of the jobs those that no other caused"
    rows = await calls.store(job.shard).find("acme", limit=CHILDREN)
    hidden = next(name for each in rows if (name := f"tenants/acme/operations/{each}") not in by_id(jobs))
    assert hidden in by_id((await client.get(operation=hidden)).nodes)


async def test_an_action_is_no_larger_than_clients_take(client: Client, calls: Calls, cluster: Cluster) -> None:
    job = await calls.submit("Echo", EchoRequest(), call=Call(traceparent=TRACEPARENT))
    spans = [
        {
            "tenant": "acme", "trace": TRACE, "span": f"{number:016x}", "parent": None, "kind": 1, "status": 0,
            "started": time.time() + 60, "took": 1, "name": "look", "message": None, "attributes": {"text": "x" * 100_000},
        }
        for number in range(1, 61)
    ]  # fmt: skip
    with psycopg.connect(cluster.shards[job.shard]) as connection:
        connection.execute("select rowcall.record_activity(%s)", [Jsonb(spans)])
    action = await client.get(trace_id=TRACE)
    assert action.partial
    assert action.nodes[0].id == job.name, "what comes first is told"
    assert 10 < len(kinds(action.nodes, "SPAN")) < 60


async def test_a_job_that_waits_is_told_with_what_it_waits_for(client: Client, calls: Calls) -> None:
    job = await calls.submit("Echo", EchoRequest(), call=Call(traceparent=TRACEPARENT))
    for asked in ({"trace_id": TRACE}, {"operation": job.name}):
        action = await client.get(None, **asked)
        assert not action.HasField("duration")
        [node] = kinds(action.nodes, "WAIT")
        assert (node.status, node.HasField("duration")) == ("METHOD_NOT_SERVED", False)
        assert node.message == "No worker serves its method."


async def test_what_operators_did_is_there_for_those_who_may_see_it(client: Client, calls: Calls) -> None:
    job = await calls.submit("Echo", EchoRequest(), call=Call(traceparent=TRACEPARENT))
    operator = client.who(OPERATOR, CALLER, sub="otto")
    other = uuid4().hex
    await JobServiceStub(client.channel).CancelJob(
        CancelJobRequest(name=job.name),
        timeout=20,
        metadata=(*operator, ("traceparent", f"00-{other}-b7ad6b7169203331-01"), ("rowcall-reason", "wrong%20page")),
    )
    action = await client.get(operator, trace_id=TRACE)
    [done] = kinds(action.nodes, "OPERATOR")
    assert (done.name, done.parent_id, done.message) == ("job.cancel", job.name, "wrong page")
    assert done.attributes[conventions.ACTOR] == "otto"
    [node] = kinds(action.nodes, "JOB")
    assert (node.status, node.code) == ("CANCELLED", Code.CANCELLED)
    # By the trace of the operator's own call it is found too, and what it was done to by its name.
    [done] = (await client.get(operator, trace_id=other)).nodes
    assert done.attributes[conventions.OPERATION] == job.name
    assert not kinds((await client.get(client.who(VIEWER), trace_id=TRACE)).nodes, "OPERATOR")
    assert info_of(await refused(client.get(client.who(VIEWER), trace_id=other))).reason == "NOT_KNOWN"


async def test_failures_of_ours_are_there_for_admins(client: Client, calls: Calls, cluster: Cluster) -> None:
    job = await calls.submit("Echo", EchoRequest(), call=Call(traceparent=TRACEPARENT))
    async with await psycopg.AsyncConnection.connect(cluster.shards[job.shard], autocommit=True) as connection:
        await connection.execute(
            "insert into rowcall.incident (fingerprint, service, method, code, kind, location, count, first_at, last_at, "
            "trace_id, first_version, last_version) values ('f00d', 'worker', %s, 13, 'ZeroDivisionError', 'a:b:1', 1, now(), "
            "now(), %s, '1', '1')",
            [ECHO, TRACE],
        )
    admin = (*client.who(ADMIN, tenant=None), ("rowcall-tenant", "acme"))
    [incident] = kinds((await client.get(admin, trace_id=TRACE)).nodes, "INCIDENT")
    assert (incident.name, incident.code, incident.status) == ("ZeroDivisionError", Code.INTERNAL, "OPEN")
    assert not kinds((await client.get(trace_id=TRACE)).nodes, "INCIDENT")


async def test_what_is_deleted_is_known_by_what_it_cost(client: Client, calls: Calls, workers: Workers) -> None:
    await workers.start(serve(echo=echo))
    job = await calls.submit("Echo", EchoRequest(payload=RETRIED), call=Call(traceparent=TRACEPARENT))
    await settled(calls, client, 2, trace_id=TRACE)
    await calls.store(job.shard).delete("acme", job.job_id)
    action = await client.get(operation=job.name)
    assert (action.jobs, action.trace_id, action.costs[0].cost) == (1, TRACE, "0.5")
    assert [each.parent_id for each in kinds(action.nodes, "MODEL_CALL")] == ["", ""]


async def test_jobs_without_a_trace_belong_together_by_their_parents(
    client: Client, calls: Calls, workers: Workers
) -> None:
    await workers.start(serve(echo=echo))
    job = await calls.submit("Echo", EchoRequest(payload=RETRIED))
    action = await settled(calls, client, 2, operation=job.name)
    assert action.trace_id == ""
    parent, child = kinds(action.nodes, "JOB")
    assert (parent.id, action.costs[0].cost) == (job.name, "0.5")
    assert by_id(action.nodes)[child.parent_id].parent_id == parent.id
    assert [each.id for each in (await client.get(operation=child.id)).nodes] == [each.id for each in action.nodes]


async def test_what_is_another_tenants_does_not_exist(client: Client, calls: Calls) -> None:
    ours, theirs = [
        await calls.submit("Echo", EchoRequest(), call=Call(t, traceparent=TRACEPARENT)) for t in ("acme", "bolt")
    ]
    assert [each.id for each in kinds((await client.get(trace_id=TRACE)).nodes, "JOB")] == [ours.name]
    everybody = (
        ({"operation": theirs.name}, "JOB_NOT_FOUND"),
        ({"trace_id": TRACE, "parent": "tenants/bolt"}, "NOT_KNOWN"),
        ({"trace_id": "1" * 32}, "NOT_KNOWN"),
    )
    for asked, reason in everybody:
        assert info_of(await refused(client.get(None, **asked))).reason == reason
    assert info_of(await refused(client.list(parent="tenants/bolt"))).reason == "NOT_KNOWN"
    assert [each.operation for each in (await client.list()).actions] == [ours.name]
    admin = client.who(ADMIN, tenant=None)
    assert [each.operation for each in (await client.list(admin, parent="tenants/bolt")).actions] == [theirs.name]
    found = await client.get(admin, parent="tenants/bolt", trace_id=TRACE)
    assert [each.id for each in kinds(found.nodes, "JOB")] == [theirs.name]
    assert info_of(await refused(client.get(admin, trace_id=TRACE))).reason == "TENANT_REQUIRED"
    assert info_of(await refused(client.get(client.who(CALLER), trace_id=TRACE))).reason == "MISSING_ROLE"
    nobody = client.who(VIEWER, tenant="nobody")
    assert not (await client.list(nobody)).actions
    assert info_of(await refused(client.get(nobody, trace_id=TRACE))).reason == "NOT_KNOWN"


@pytest.fixture
async def listed(client: Client, calls: Calls, workers: Workers) -> list[Job]:
    """Four actions: one of two jobs that cost, two that cost nothing, one that failed."""
    await workers.start(serve(echo=echo))
    jobs = []
    for payload in (RETRIED, CHILD, CHILD, DOOMED):
        trace = f"00-{uuid4().hex}-b7ad6b7169203331-01"
        jobs.append(await calls.submit("Echo", EchoRequest(payload=payload), call=Call(traceparent=trace)))
        await calls.done(jobs[-1])
    return jobs


async def test_actions_are_listed_newest_first_and_narrowed(client: Client, calls: Calls, listed: list[Job]) -> None:
    paid, _, _, failed = listed
    names = [job.name for job in reversed(listed)]
    page = await client.list()
    assert [each.operation for each in page.actions] == names
    assert page.next_page_token == ""
    last = page.actions[-1]
    assert (last.method, last.attempts, last.costs[0].cost) == (ECHO, 2, "0.5")
    assert page.actions[0].code == Code.NOT_FOUND
    tomorrow = Timestamp()
    tomorrow.FromDatetime(datetime.now(UTC) + timedelta(days=1))
    narrowed: tuple[tuple[dict[str, Any], list[str]], ...] = (
        ({"states": [JobState.JOB_STATE_FAILED]}, [failed.name]),
        ({"min_cost": "0.5", "currency": "EUR"}, [paid.name]),
        ({"min_cost": "0.51", "currency": "EUR"}, []),
        ({"min_cost": "0.5", "currency": "USD"}, []),
        ({"min_duration": timedelta(hours=1)}, []),
        ({"method": ECHO, "min_duration": timedelta(0)}, names),
        ({"method": "rowcall.probe.v1.ProbeService/Nothing"}, []),
        ({"start_to": tomorrow}, names),
        ({"start_from": tomorrow}, []),
    )
    for asked, expected in narrowed:
        found = await client.list(**asked)
        assert [each.operation for each in found.actions] == expected, asked
        assert found.next_page_token == ""


async def test_pages_go_on_where_the_last_one_ended(client: Client, listed: list[Job]) -> None:
    found: list[str] = []
    token = ""
    for _ in range(10):
        page = await client.list(page_size=1, page_token=token)
        found += [each.operation for each in page.actions]
        token = page.next_page_token
        if not token:
            break
    assert found == [job.name for job in reversed(listed)]
    token = (await client.list(page_size=1)).next_page_token
    error = await refused(client.list(page_size=1, page_token=token, states=[JobState.JOB_STATE_FAILED]))
    assert info_of(error).reason == "INVALID_PAGE_TOKEN", "of another list"


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({}, "INVALID_REQUEST"),
        ({"operation": f"tenants/acme/operations/{uuid4()}", "trace_id": TRACE}, "INVALID_REQUEST"),
        ({"trace_id": "7"}, "INVALID_REQUEST"),
        ({"operation": "seven"}, "INVALID_NAME"),
        ({"trace_id": TRACE, "parent": "acme"}, "INVALID_NAME"),
    ],
)
async def test_what_cannot_be_meant_is_refused(client: Client, asked: dict[str, Any], reason: str) -> None:
    assert info_of(await refused(client.get(**asked))).reason == reason


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"method": "Echo"}, "INVALID_FILTER"),
        ({"min_cost": "0.5"}, "INVALID_FILTER"),
        ({"currency": "EUR"}, "INVALID_FILTER"),
        ({"min_cost": "0.5", "currency": "XXX"}, "INVALID_FILTER"),
        ({"min_cost": "much", "currency": "EUR"}, "INVALID_REQUEST"),
        ({"min_duration": timedelta(seconds=-1)}, "INVALID_REQUEST"),
        ({"min_duration": timedelta(days=10_000)}, "INVALID_FILTER"),
        (
            {"start_from": Timestamp(seconds=2_000_000_000), "start_to": Timestamp(seconds=2_000_000_000)},
            "INVALID_FILTER",
        ),
        ({"states": [0]}, "INVALID_REQUEST"),
        ({"page_size": -1}, "INVALID_REQUEST"),
        ({"page_token": "seven"}, "INVALID_PAGE_TOKEN"),
        ({"parent": "acme"}, "INVALID_NAME"),
    ],
)
async def test_lists_that_cannot_be_meant_are_refused(
    client: Client, listed: list[Job], asked: dict[str, Any], reason: str
) -> None:
    assert info_of(await refused(client.list(**asked))).reason == reason
