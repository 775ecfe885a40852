"""The queries of the dashboards, and of the page of metrics: each parsed by promtool, run by a real Prometheus that scraped a real run, or by Postgres under its reader's role."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
import yaml
from google.rpc.code_pb2 import Code

from rowcall.probe.v1 import probe_pb2_grpc
from rowcall.probe.v1.probe_pb2 import AwaitRequest, EchoRequest, RunRequest
from rowcall.queue.spend import Spend, SpendKind
from rowcall.v1.admission_service_pb2 import Bound, BoundTarget, SetBoundRequest
from rowcall.v1.admission_service_pb2_grpc import AdmissionServiceStub
from tests.fix_cluster import RestartableCluster
from tests.fix_gateway import refused, tenant
from tests.fix_prometheus import Prometheus, Promtool
from tests.fix_queue import PostgresQueue
from tests.fix_services import ServiceProcess, Services
from tests.support import foreign_names
from tests.support.dashboards import LOGINS, Asked, beside_panels, of_panels
from tests.support.waiting import until

ALL = [*of_panels(), *beside_panels()]
OF_PROMETHEUS = [each for each in ALL if each.source == "prometheus"]
OF_PAGE = [
    Asked(f"docs/metrics.md: {name}", "prometheus", query.replace("[5m]", "[1m]"), query)
    for name, found in foreign_names.queries().items()
    for query in found
]
OF_SQL = [each for each in ALL if each.source != "prometheus"]
HERE = "127.0.0.1"


def test_promtool_reads_every_query(promtool: Promtool, tmp_path: Path) -> None:
    rules = [{"record": f"panel:{number}", "expr": each.text} for number, each in enumerate([*OF_PROMETHEUS, *OF_PAGE])]
    file = tmp_path / "panels.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", "--lint=none", file)
    file.write_text(file.read_text().replace("sum(", "sum((", 1))
    promtool("check", "rules", "--lint=none", file, accepts=False)


async def calls(address: str) -> None:
    """What every panel is about, once: done, retried, failed, refused."""
    async with grpc.aio.insecure_channel(address) as channel:
        probe: probe_pb2_grpc.ProbeServiceAsyncStub = probe_pb2_grpc.ProbeServiceStub(channel)
        acme = tenant("acme")
        await probe.Echo(EchoRequest(payload=b"x"), timeout=20, metadata=acme)
        again = RunRequest(fail_code=Code.UNAVAILABLE, fail_attempts=1)
        await probe.Run(again, timeout=20, metadata=(*acme, ("prefer", "wait=0")))
        await refused(
            probe.Await(AwaitRequest(fail_code=Code.INVALID_ARGUMENT, fail_attempts=1), timeout=20, metadata=acme)
        )
        await refused(probe.Echo(EchoRequest(payload=b"x"), timeout=20, metadata=tenant("closed")))


async def close(address: str) -> None:
    """Lets nothing of one tenant in."""
    async with grpc.aio.insecure_channel(address) as channel:
        bound = Bound(target=BoundTarget(tenant="tenants/closed"), rate=0)
        await AdmissionServiceStub(channel).SetBound(SetBoundRequest(bound=bound), timeout=20)


def port_of(process: ServiceProcess) -> str:
    """Where a service's operations port is."""
    [line] = [line for line in list(process.log) if '"operations port"' in line]
    return str(yaml.safe_load(line)["address"])


def shows(found: Sequence[dict[str, Any]]) -> bool:
    """Whether there is a number to be drawn."""
    return any(math.isfinite(float(each["value"][1])) for each in found)


@pytest.mark.timeout(240)
async def test_every_query_of_prometheus_finds_what_a_run_has_told(
    prometheus: Callable[[Sequence[str]], Prometheus], restartable_cluster: RestartableCluster
) -> None:
    with psycopg.connect(restartable_cluster.shards["a"]) as admin:
        admin.execute("grant pg_read_all_stats to rowcall_owner")
    with ExitStack() as stack:
        services = Services(restartable_cluster, stack)
        ops = ("--ops-listen", f"{HERE}:0")
        variables = {"ROWCALL_DEPLOYED_VERSION": "v1"}
        gateway = services.gateway(f"{HERE}:0", *ops, **variables)
        worker = services.worker(*ops, **variables)
        address = await asyncio.to_thread(gateway.address)
        await asyncio.to_thread(worker.ready)
        await close(address)
        server = prometheus([port_of(gateway), port_of(worker)])
        await until(server.ready, every=0.2, seconds=60)
        # The probe calls neither models nor providers.
        without = [each for each in (*OF_PROMETHEUS, *OF_PAGE) if "rowcall_external_calls" not in each.text]

        async def all_have_data() -> bool:
            # Rates need calls between scrapes, so they go on.
            await calls(address)
            for each in list(without):
                if shows(await asyncio.to_thread(server.query, each.text)):
                    without.remove(each)
            return not without

        try:
            await until(all_have_data, every=0.5, seconds=120)
        finally:
            assert not without, [each.where for each in without]
        scraped = {each["labels"]["job"] for each in server.ask("targets")["activeTargets"] if each["health"] == "up"}
        assert scraped == {"rowcall"}
        loaded = [rule for group in server.ask("rules")["groups"] for rule in group["rules"]]
        assert {rule["health"] for rule in loaded} == {"ok"}, [rule.get("lastError") for rule in loaded]
        firing = {rule["name"] for rule in loaded if rule.get("state") == "firing"}
        # It runs, and nothing that pages anybody is wrong with it; jobs do fail for good.
        assert firing <= {"RowcallDeadLetters"}


@pytest.fixture
async def told(queue: PostgresQueue) -> None:
    """A shard of which every panel has something to show: jobs that wait, are done and failed, spend, an action, an incident."""
    for _ in range(2):
        await queue.submit(queue.call("acme", request=b"x"))
    [job, *_] = await queue.claim(await queue.worker(), 1)
    cost = Spend(
        1, SpendKind.MODEL, queue.ids.method_id, "oracle", "m", input_tokens=5, output_tokens=7,
        cost=Decimal("0.5"), currency="EUR",
    )  # fmt: skip
    await queue.settle(job, response=b"x", spend=[cost])
    await queue.admin.execute(
        "insert into rowcall.audit (tenant, actor, action, target) values ('acme', 'ann', 'tenant.pause', 'tenants/acme')"
    )
    await queue.admin.execute(
        """
        insert into rowcall.incident
          (fingerprint, service, method, code, kind, location, count, first_at, last_at, first_version, last_version)
        values ('f', 'gateway', 'a.v1.S/M', 13, 'ValueError', 'a:b:1', 1, now(), now(), 'v1', 'v1')
        """
    )


@pytest.mark.usefixtures("told")
@pytest.mark.parametrize("source", LOGINS)
async def test_every_query_of_sql_is_answered_to_its_reader(queue: PostgresQueue, source: str) -> None:
    queries = [each for each in OF_SQL if each.source == source]
    async with await psycopg.AsyncConnection.connect(queue.logins.straight(LOGINS[source]), autocommit=True) as reader:
        for each in queries:
            cursor = await reader.execute(each.text.encode())
            rows = await cursor.fetchall()
            assert rows, each.where
            assert cursor.description is not None
            columns = [column.name for column in cursor.description]
            assert ("time" in columns) == (" as time" in each.raw)
            assert len(set(columns)) == len(columns)
            assert any(value is not None for row in rows for value in row), each.where


@pytest.mark.usefixtures("told")
async def test_whoever_reads_sums_is_answered_nothing_of_tenants(queue: PostgresQueue) -> None:
    queries = [each for each in OF_SQL if each.source == "tenants"]
    async with await psycopg.AsyncConnection.connect(queue.logins.straight(LOGINS["sums"]), autocommit=True) as reader:
        for each in queries:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await reader.execute(each.text.encode())
