"""One trace id from the caller through rows, attempts, spans, errors and log lines, over retries and the kill of a worker; and what is exported
of it, received over OTLP and held against the rows."""

from __future__ import annotations

import asyncio
import copy
import json
import socket
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.code_pb2 import Code
from google.rpc.status_pb2 import Status
from opentelemetry.proto.trace.v1.trace_pb2 import Status as SpanStatus

from rowcall.errors import read_envelope
from rowcall.names import parse_operation_name
from rowcall.probe.v1.probe_pb2 import EchoRequest, RunRequest
from rowcall.probe.v1.probe_pb2_grpc import ProbeServiceStub
from rowcall.queue.model import JobRow
from rowcall.tracing import TraceContext
from rowcall.v1.job_pb2 import AttemptOutcome, JobState
from tests.fix_services import ServiceProcess, Services
from tests.fix_worker import Calls, Job
from tests.support.collector import Collector, Received
from tests.support.traces import ended_attempts, faults
from tests.support.waiting import until

JOBS = 40
REQUESTS: list[Callable[[], RunRequest]] = [
    lambda: RunRequest(payload=b"x"),
    lambda: RunRequest(fail_code=Code.UNAVAILABLE, fail_attempts=1),
    lambda: RunRequest(fail_code=Code.INVALID_ARGUMENT),
    lambda: RunRequest(work=Duration(seconds=2)),
]


def lines_of(service: ServiceProcess) -> list[dict[str, Any]]:
    return [json.loads(line) for line in list(service.log) if line.startswith("{")]


@pytest.mark.timeout(180)
async def test_everything_of_an_action_is_in_its_callers_trace(
    calls: Calls, services: Services, collector: Collector
) -> None:
    gateway = services.gateway(ROWCALL_TRACES_ASKED="1000", **collector.variables)
    workers = [services.worker(ROWCALL_LEASE="3s", **collector.variables) for _ in range(2)]
    for worker in workers:
        await asyncio.to_thread(worker.ready)
    callers: dict[str, TraceContext] = {}
    async with grpc.aio.insecure_channel(await asyncio.to_thread(gateway.address)) as channel:
        probe = ProbeServiceStub(channel)
        for number in range(JOBS):
            # Every other one asks for its trace to be recorded.
            caller = TraceContext.mint(sampled=number // len(REQUESTS) % 2 == 0)
            operation = await probe.Run(
                REQUESTS[number % len(REQUESTS)](),
                timeout=20,
                metadata=(
                    ("rowcall-tenant", f"tenant-{number % 5}"),
                    ("prefer", "wait=0"),
                    ("traceparent", caller.traceparent),
                ),
            )
            callers[operation.name] = caller

    async def rows() -> dict[str, JobRow]:
        found: dict[str, JobRow] = {}
        for shard in ("a", "b"):
            keys = [key for key in map(parse_operation_name, callers) if key is not None]
            found |= {
                Job(row.tenant, row.job_id, shard).name: row
                for row in (await calls.store(shard).read(keys, response=True)).values()
            }
        return found

    async def killed_in_the_middle() -> bool:
        running = [row for row in (await rows()).values() if row.state == JobState.JOB_STATE_RUNNING]
        return len({row.worker for row in running}) == len(workers)

    await until(killed_in_the_middle)
    await asyncio.to_thread(workers[0].kill)

    async def all_done() -> bool:
        return all(row.done for row in (await rows()).values())

    await until(all_done, seconds=60, every=0.2)
    # What is still in their buffers is sent when they end.
    for service in (workers[1], gateway):
        assert await asyncio.to_thread(service.end) == 0

    found = await rows()
    assert len(found) == JOBS
    assert any(
        each.outcome == AttemptOutcome.ATTEMPT_OUTCOME_LOST for row in found.values() for each in row.attempts
    ), "the kill was to come in the middle"
    for name, row in found.items():
        assert row.traceparent is not None
        assert row.traceparent[3:35] == callers[name].trace_id
        errors = [Status.FromString(error) for error in (row.error, *(each.error for each in row.attempts)) if error]
        infos = [info for info in map(read_envelope, errors) if info is not None]
        assert {(info.metadata.get("trace_id") or info.metadata["rowcall_trace_id"]) for info in infos} <= {
            callers[name].trace_id
        }
    lines = [line for service in (gateway, *workers) for line in lines_of(service) if line.get("job") in found]
    assert {line["job"] for line in lines} == set(found), "each has one at the edge"
    assert all(line["trace_id"] == callers[line["job"]].trace_id for line in lines)
    check_spans(collector.spans, list(found.values()), callers)


def check_spans(spans: list[Received], rows: list[JobRow], callers: dict[str, TraceContext]) -> None:
    theirs = [caller.span_id for caller in callers.values()]
    assert faults(spans, rows, callers=theirs) == []
    told = {each.span_id for each in spans}
    for row in rows:
        name = Job(row.tenant, row.job_id, "").name
        of_job = [each.span.name for each in spans if each.attributes["rowcall.operation"] == name]
        if callers[name].sampled:
            assert {"rowcall.probe.v1.ProbeService/Run", "send probe", "process probe"} <= set(of_job)
        for span_id, ended in ended_attempts(row):
            if callers[name].sampled or ended.failed or row.attempts:
                assert span_id in told, (name, ended)
    # What holds them to each other fails on one whose status or code differs.
    place = next(place for place, each in enumerate(spans) if each.attributes.get("rowcall.outcome") == "failed")
    for change in (_no_error, _another_code, _no_parent, _turned_round, _cut):
        changed = copy.deepcopy(spans)
        change(changed[place])
        assert faults(changed, rows, callers=theirs), change.__name__


def _no_error(each: Received) -> None:
    each.span.status.code = SpanStatus.STATUS_CODE_UNSET


def _another_code(each: Received) -> None:
    [code] = [said for said in each.span.attributes if said.key == "rpc.response.status_code"]
    code.value.string_value = "OK"


def _no_parent(each: Received) -> None:
    each.span.parent_span_id = b"12345678"


def _turned_round(each: Received) -> None:
    each.span.end_time_unix_nano = each.span.start_time_unix_nano - 1


def _cut(each: Received) -> None:
    each.span.trace_id = each.span.trace_id[:8]


@pytest.mark.parametrize("accepts", [False, True])
async def test_a_collector_that_is_away_or_silent_costs_no_call_and_no_end(
    calls: Calls, services: Services, accepts: bool
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        # One that takes connections and says nothing; or nobody, at a port that was somebody's.
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        if not accepts:
            silent.close()
        away = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": address, "OTEL_TRACES_SAMPLER": "always_on"}
        gateway = services.gateway(OTEL_BSP_SCHEDULE_DELAY="20", **away)
        worker = services.worker(OTEL_BSP_SCHEDULE_DELAY="20", **away)
        await asyncio.to_thread(worker.ready)
        async with grpc.aio.insecure_channel(await asyncio.to_thread(gateway.address)) as channel:
            for number in range(20):
                answer = await ProbeServiceStub(channel).Echo(EchoRequest(payload=b"%d" % number), timeout=20)
                assert answer.payload == b"%d" % number

        assert [await asyncio.to_thread(service.end) for service in (gateway, worker)] == [0, 0]
