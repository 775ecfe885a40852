"""Calls that would be answered too late, as callers see it who come to a gateway that has too many."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.longrunning import operations_pb2_grpc
from google.longrunning.operations_pb2 import GetOperationRequest
from google.rpc.error_details_pb2 import RetryInfo
from grpc_health.v1 import health_pb2, health_pb2_grpc
from structlog.testing import capture_logs

from rowcall.errors import PUSHBACK_KEY, status_of
from rowcall.probe.v1.probe_pb2 import RunRequest
from rowcall.v1 import job_service_pb2_grpc
from rowcall.v1.admission_service_pb2 import Bound, BoundTarget, SetBoundRequest
from rowcall.v1.admission_service_pb2_grpc import AdmissionServiceStub
from rowcall.v1.job_service_pb2 import BatchSubmitRequest
from rowcall_gateway.edge import in_time
from tests.fix_cluster import Cluster
from tests.fix_gateway import Gateways, info_of, jobs, keyed, refused, tenant, trailer
from tests.fix_spans import Told

NOW = ("prefer", "wait=0")


@pytest.fixture
def crowded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes after a first call is too late: one is a crowd, which is never quick enough."""
    monkeypatch.setattr(in_time, "FEW", 0)
    monkeypatch.setattr(in_time, "SHARE", 0.0)
    monkeypatch.setattr(in_time, "PATIENCE", 0.0)
    monkeypatch.setattr(in_time, "SEEN_FOR", 600.0)


def delay_of(error: grpc.aio.AioRpcError) -> float:
    """RetryInfo's seconds."""
    found = RetryInfo()
    assert any(detail.Unpack(found) for detail in status_of(error).details)
    return found.retry_delay.ToTimedelta().total_seconds()


@pytest.mark.usefixtures("crowded")
@pytest.mark.parametrize("traced", [False, True])
async def test_who_would_be_too_late_is_told_when_to_call_again(
    gateways: Gateways, cluster: Cluster, told: Told, traced: bool
) -> None:
    gateway = await gateways.start(traces=told.traces if traced else None)
    probe = await gateways.probe(gateway, ("grpc.enable_retries", 0))
    operation = await probe.Run(RunRequest(), timeout=20, metadata=tenant("acme", NOW))

    with capture_logs() as lines:
        errors = [await refused(probe.Run(RunRequest(), timeout=20, metadata=tenant("acme", NOW))) for _ in range(20)]

    assert {error.code() for error in errors} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    infos = [info_of(error) for error in errors]
    assert {(info.reason, info.metadata["bound"], info.metadata["measure"]) for info in infos} == {
        ("NOT_ADMITTED", "gateway", "time")
    }
    delays = {delay_of(error) for error in errors}
    assert len(delays) > 10, "they do not come back together"
    assert 1 <= min(delays) < max(delays) <= 3
    assert not [line for line in lines if line.get("method")], "a line each would cost what there is no time for"
    assert jobs(cluster, "name") == [(operation.name,)], "nothing was submitted"


@pytest.mark.usefixtures("crowded")
async def test_only_calls_with_a_key_are_repeated_by_grpc(gateways: Gateways) -> None:
    probe = await gateways.probe(await gateways.start(), ("grpc.enable_retries", 0))
    await probe.Run(RunRequest(), timeout=20, metadata=tenant("acme", NOW))

    without = await refused(probe.Run(RunRequest(), timeout=20, metadata=tenant("acme", NOW)))
    with_key = await refused(probe.Run(RunRequest(), timeout=20, metadata=(*keyed("k"), NOW)))

    assert trailer(without, PUSHBACK_KEY) == "-1"
    assert int(trailer(with_key, PUSHBACK_KEY) or 0) >= 1000


@pytest.mark.usefixtures("crowded")
async def test_reads_and_health_checks_pass(gateways: Gateways) -> None:
    gateway = await gateways.start()
    channel = await gateways.channel(gateway, ("grpc.enable_retries", 0))
    probe = await gateways.probe(gateway, ("grpc.enable_retries", 0))
    name = (await probe.Run(RunRequest(), timeout=20, metadata=tenant("acme", NOW))).name
    service = job_service_pb2_grpc.JobServiceStub(channel)
    submitting: Any = service.BatchSubmit(BatchSubmitRequest(), timeout=20, metadata=tenant("acme"))
    assert info_of(await refused(submitting)).reason == "NOT_ADMITTED", "whatever submits is refused"

    operations: Any = operations_pb2_grpc.OperationsStub(channel)
    assert (await operations.GetOperation(GetOperationRequest(name=name), timeout=20, metadata=tenant("acme"))).name
    health: Any = health_pb2_grpc.HealthStub(channel)
    checked = await health.Check(health_pb2.HealthCheckRequest(), timeout=20)
    assert checked.status == health_pb2.HealthCheckResponse.SERVING


async def test_who_stands_in_line_makes_no_crowd(gateways: Gateways, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a bound's line one becomes a row in a second, however quick the gateway is."""
    gateway = await gateways.start()
    bounds = AdmissionServiceStub(await gateways.channel(gateway))
    bound = Bound(target=BoundTarget(tenant="tenants/acme"), rate=1)
    await bounds.SetBound(SetBoundRequest(bound=bound), timeout=20)
    monkeypatch.setattr(in_time, "FEW", 0)
    monkeypatch.setattr(in_time, "SHARE", 0.035)
    monkeypatch.setattr(in_time, "SEEN_FOR", 0.3)
    probe = await gateways.probe(gateway, ("grpc.enable_retries", 0))
    for _ in range(5):
        assert (await probe.Run(RunRequest(), timeout=20, metadata=tenant("acme", NOW))).name


async def test_a_gateway_that_is_quick_refuses_nobody(gateways: Gateways, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_time, "FEW", 0)
    probe = await gateways.probe(await gateways.start(), ("grpc.enable_retries", 0))
    for _ in range(10):
        assert (await probe.Run(RunRequest(), timeout=60, metadata=tenant("acme", NOW))).name
