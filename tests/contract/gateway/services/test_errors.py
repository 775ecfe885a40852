"""ErrorService, as a gateway's callers see it: faults of gateway and worker are in it, what was meant is not, and no payload is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc.aio
import psycopg
import pytest
from google.rpc.code_pb2 import Code

from rowcall.probe.v1.probe_pb2 import AwaitRequest, EchoRequest, EchoResponse
from rowcall.probe.v1.probe_pb2_grpc import ProbeServiceStub, add_ProbeServiceServicer_to_server
from rowcall.v1.error_service_pb2 import (
    GetIncidentRequest,
    Incident,
    IncidentState,
    ListIncidentsRequest,
    ResolveIncidentRequest,
)
from rowcall.v1.error_service_pb2_grpc import ErrorServiceStub
from rowcall.v1.queue_service_pb2 import ListPausesRequest
from rowcall.v1.queue_service_pb2_grpc import QueueServiceStub
from rowcall_worker.probe import ProbeServicer
from tests.fix_cluster import Cluster
from tests.fix_gateway import Gateways, info_of, refused, tenant
from tests.fix_worker import Workers
from tests.support.waiting import until

TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACED = ("traceparent", f"00-{TRACE}-b7ad6b7169203331-01")
SECRET = "card 4111 1111"
OPEN, RESOLVED, REGRESSED = (
    IncidentState.INCIDENT_STATE_OPEN,
    IncidentState.INCIDENT_STATE_RESOLVED,
    IncidentState.INCIDENT_STATE_REGRESSED,
)


class Client:
    """A gateway's ErrorService."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.stub = ErrorServiceStub(channel)

    async def list(self, *states: IncidentState.ValueType) -> list[Incident]:
        answer = await self.stub.ListIncidents(ListIncidentsRequest(states=states), timeout=20)
        return list(answer.incidents)

    async def when(self, true: Callable[[Incident], bool]) -> Incident:
        """The one incident there is, once that is true of it."""
        found: list[Incident] = []

        async def there() -> bool:
            found[:] = await self.list()
            return bool(found) and true(found[0])

        await until(there)
        [one] = found
        return one


@pytest.fixture
async def client(gateways: Gateways) -> Client:
    return Client(await gateways.channel(await gateways.start()))


def break_pauses(cluster: Cluster) -> None:
    """From now on to list pauses is a fault of ours, on every shard."""
    for dsn in cluster.shards.values():
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(
                "create or replace function rowcall.pauses(p_tenant text) "
                "returns table (kind text, name text, paused_at timestamptz, paused_by text, pause_note text) "
                "language sql stable security definer as $$ select 'queue', (1 / (select 0))::text, now(), 'card 4111 1111', null $$"
            )


async def fail(client: Client) -> None:
    error = await refused(
        QueueServiceStub(client.channel).ListPauses(ListPausesRequest(), timeout=20, metadata=tenant("acme", TRACED))
    )
    assert error.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE)


async def test_a_fault_of_the_gateways_is_kept_with_where_and_how_often(client: Client, cluster: Cluster) -> None:
    break_pauses(cluster)
    for _ in range(3):
        await fail(client)
    found = await client.when(lambda one: one.count == 3)
    assert (found.state, found.service, found.method) == (OPEN, "gateway", "rowcall.v1.QueueService/ListPauses")
    assert found.trace_id == TRACE
    assert found.kind.startswith("RowcallError(")
    assert found.location.startswith("rowcall")
    assert found.first_version == found.last_version != ""
    assert SECRET not in str(found)
    shown = await client.stub.GetIncident(GetIncidentRequest(fingerprint=found.fingerprint), timeout=20)
    assert shown.incident == found


async def test_one_that_is_resolved_and_met_again_has_regressed(client: Client, cluster: Cluster) -> None:
    break_pauses(cluster)
    await fail(client)
    found = await client.when(lambda one: one.count == 1)
    answer = await client.stub.ResolveIncident(
        ResolveIncidentRequest(fingerprint=found.fingerprint, note="restarted"),
        timeout=20,
        metadata=(("rowcall-actor", "ann"),),
    )
    assert (answer.incident.state, answer.incident.actor, answer.incident.note) == (RESOLVED, "ann", "restarted")
    assert await client.list(OPEN, REGRESSED) == []
    await fail(client)
    back = await client.when(lambda one: one.count == 2)
    assert (back.state, back.regressions) == (REGRESSED, 1)
    assert [each.fingerprint for each in await client.list(REGRESSED)] == [found.fingerprint]


async def test_one_that_nobody_has_met_is_not_known(client: Client) -> None:
    for call in (
        client.stub.GetIncident(GetIncidentRequest(fingerprint="0" * 32), timeout=20),
        client.stub.ResolveIncident(ResolveIncidentRequest(fingerprint="0" * 32), timeout=20),
    ):
        assert info_of(await refused(call)).reason == "NOT_KNOWN"


class Faulty(ProbeServicer):
    """Has a bug."""

    async def Echo(self, request: EchoRequest, context: Any) -> EchoResponse:  # noqa: N802
        """Raises what no servicer means to."""
        raise KeyError(SECRET + request.payload.decode())


async def test_a_bug_of_a_handlers_is_kept_without_what_it_says_and_a_considered_answer_is_not(
    gateways: Gateways, workers: Workers
) -> None:
    client = Client(await gateways.channel(await gateways.start()))
    probe = ProbeServiceStub(client.channel)
    await workers.start(lambda worker: add_ProbeServiceServicer_to_server(Faulty("faulty"), worker))
    request = EchoRequest(payload=b"<payload>")
    # It is tried again; that is not waited for.
    await refused(probe.Echo(request, timeout=30, metadata=tenant("acme", TRACED, ("prefer", "wait=0"))))
    found = await client.when(lambda one: one.count >= 1)
    assert (found.service, found.method, found.code) == ("worker", "rowcall.probe.v1.ProbeService/Echo", Code.UNKNOWN)
    assert found.kind == "KeyError"
    assert "Faulty.Echo" in found.location
    assert found.trace_id == TRACE
    assert SECRET not in str(found)
    assert "<payload>" not in str(found)


async def test_a_status_that_a_handler_gives_is_no_incident(gateways: Gateways, workers: Workers) -> None:
    client = Client(await gateways.channel(await gateways.start()))
    probe = ProbeServiceStub(client.channel)
    await workers.start(lambda worker: add_ProbeServiceServicer_to_server(Faulty("faulty"), worker))
    said = await refused(
        probe.Await(AwaitRequest(fail_code=Code.INTERNAL), timeout=30, metadata=tenant("acme")),
    )
    assert said.code() is grpc.StatusCode.INTERNAL
    # Met by the same worker later, and written with or after whatever it noted of the status.
    await refused(probe.Echo(EchoRequest(payload=b"x"), timeout=30, metadata=tenant("acme", ("prefer", "wait=0"))))
    found: list[str] = []

    async def there() -> bool:
        found[:] = [each.method for each in await client.list()]
        return "rowcall.probe.v1.ProbeService/Echo" in found

    await until(there)
    assert found == ["rowcall.probe.v1.ProbeService/Echo"]
