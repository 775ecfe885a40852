"""A worker drains two shards: typed and Operation-returning methods, retries, timeouts, refusals."""

from __future__ import annotations

from rowcall.probe.v1.probe_pb2 import EchoRequest, EchoResponse
from rowcall.v1.job_pb2 import JobState
from tests.fix_worker import Calls, Workers


async def test_echoes_on_both_shards(calls: Calls, workers: Workers) -> None:
    worker = await workers.start()
    tenants = [f"tenant-{number}" for number in range(12)]
    jobs = [await calls.submit("Echo", EchoRequest(payload=tenant.encode()), tenant=tenant) for tenant in tenants]
    assert {job.shard for job in jobs} == {"a", "b"}
    for job in jobs:
        row = await calls.done(job)
        assert row.state == JobState.JOB_STATE_SUCCEEDED
        assert row.response is not None
        assert EchoResponse.FromString(row.response) == EchoResponse(
            payload=job.tenant.encode(), worker=worker.name, attempt=1
        )
