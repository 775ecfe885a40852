"""Two versions of the schema and of the services at once: what `rowcall migrate` does while calls are made, and who fits what.

The next release is made up (`next_release/`): it adds a column to the job, and every other kind of thing that grows.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
import psycopg
import pytest
from google.longrunning.operations_pb2 import WaitOperationRequest
from google.longrunning.operations_pb2_grpc import OperationsStub

from rowcall.errors import RowcallError
from rowcall.migrations import Migration, discover, migrate
from rowcall.migrations.discovery import VERSIONS
from rowcall.probe.v1.probe_pb2 import EchoRequest, RunRequest
from rowcall.probe.v1.probe_pb2_grpc import ProbeServiceStub
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall_worker import Worker, WorkerSettings
from tests.fix_cluster import Cluster
from tests.fix_gateway import Gateways
from tests.fix_services import ServiceProcess, Services
from tests.support.next_release import SETTLED, SUBMITTED, package_in, schema_of
from tests.support.waiting import until

TENANTS = ("acme", "bolt", "cord", "dyne")
CALLERS = 6
SQL_PAUSE = 0.1
ECHO = "rowcall.probe.v1.ProbeService/Echo"


class Load:
    """Calls through gateways, and submits in SQL, until it is told to end. Every one of them must succeed."""

    def __init__(self, cluster: Cluster) -> None:
        self.answers: Counter[str] = Counter()
        """How many calls each gateway has answered, by its address."""
        self._in_flight: Counter[str] = Counter()
        self.submitted = 0
        """How many jobs were submitted in SQL."""
        self.addresses: list[str] = []
        """Where calls go: each caller takes the next one for each of its calls."""
        self._cluster = cluster
        self._over = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Runs beside the block; the first call that fails ends both."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(CALLERS):
                tasks.create_task(self._call(number))
            for dsn in self._cluster.shards.values():
                tasks.create_task(self._submit(dsn))
            try:
                yield
            finally:
                self._over = True

    async def answered(self, *addresses: str, calls: int = 40) -> None:
        """Waits until these gateways have answered some calls more."""
        before = Counter(self.answers)
        await until(lambda: all(self.answers[address] >= before[address] + calls for address in addresses), seconds=60)

    async def leave(self, address: str) -> None:
        """Makes no more calls through a gateway, and waits for those that are under way."""
        self.addresses.remove(address)
        await until(lambda: self._in_flight[address] == 0, seconds=60)

    async def _call(self, number: int) -> None:
        channels: dict[str, grpc.aio.Channel] = {}
        try:
            while not self._over:
                number += CALLERS
                address = self.addresses[number // CALLERS % len(self.addresses)]
                if address not in channels:
                    channels[address] = grpc.aio.insecure_channel(address)
                self._in_flight[address] += 1
                await self._one(channels[address], number)
                self._in_flight[address] -= 1
                self.answers[address] += 1
        finally:
            for channel in channels.values():
                await channel.close()

    async def _one(self, channel: grpc.aio.Channel, number: int) -> None:
        payload = str(number).encode()
        tenant = ("rowcall-tenant", TENANTS[number % len(TENANTS)])
        probe = ProbeServiceStub(channel)
        if number % 3:
            answer = await probe.Echo(EchoRequest(payload=payload), metadata=(tenant,), timeout=30)
        else:
            metadata = (tenant, ("idempotency-key", f"call-{number}"), ("prefer", "wait=0"))
            operation = await probe.Run(RunRequest(payload=payload), metadata=metadata, timeout=30)
            request = WaitOperationRequest(name=operation.name)
            request.timeout.FromSeconds(20)
            operation = await OperationsStub(channel).WaitOperation(request, metadata=(tenant,), timeout=30)
            assert operation.WhichOneof("result") == "response", operation
            return
        assert answer.payload == payload

    async def _submit(self, dsn: str) -> None:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            while not self._over:
                rows = await connection.execute(
                    "select tenant, rowcall.submit_v1(tenant, %s, %s) from rowcall.tenant_route",
                    [ECHO, EchoRequest(payload=b"in SQL").SerializeToString()],
                    prepare=True,
                )
                self.submitted += len(await rows.fetchall())
                await asyncio.sleep(SQL_PAUSE)  # a pace, not a wait


async def value(dsn: str, query: str) -> object:
    """The first column of the first row."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        row = await (await connection.execute(query.encode())).fetchone()
    assert row is not None
    return row[0]


async def values(cluster: Cluster, query: str) -> list[object]:
    """The same on every shard."""
    return [await value(dsn, query) for dsn in cluster.shards.values()]


async def migrate_shards(cluster: Cluster, migrations: Sequence[Migration], phase: str) -> None:
    """What `rowcall migrate --phase` of the release with these migrations does to the shards."""
    assert phase in ("pre", "post")
    for name, dsn in cluster.shards.items():
        await migrate(
            dsn, "shard", shard=name, phase="pre" if phase == "pre" else "post", migrations=migrations, progress=print
        )


OF_NO_CALL = (
    "the shard's server is used without all that sharpens",
    "event loop was blocked",
    "housekeeping failed",
)
"""What may be said on a machine that is busy, and by what comes round where it gave way to a file."""


def complaints(*services: ServiceProcess) -> list[str]:
    """What services have logged as warnings and errors, but for what concerns no call."""
    lines = [json.loads(line) for service in services for line in list(service.log) if line.startswith("{")]
    return [
        json.dumps(line)
        for line in lines
        if line["level"] not in ("debug", "info") and not line["event"].startswith(OF_NO_CALL)
    ]


@pytest.mark.straight("it migrates beside services, and a migration never goes through a pooler")
async def test_a_release_takes_the_place_of_the_one_before_under_load(
    cluster: Cluster, services: Services, tmp_path: Path
) -> None:
    """Calls never notice: the schema grows, services of both versions run side by side, the old ones go, and so does
    what only they used."""
    migrations = schema_of(tmp_path / "schema")
    path = str(package_in(tmp_path / "package"))
    old_gateway, old_worker = services.gateway(), services.worker()
    old = old_gateway.address()
    old_worker.ready()
    load = Load(cluster)
    load.addresses = [old]
    async with load.running():
        await load.answered(old)
        await migrate_shards(cluster, migrations, "pre")
        await load.answered(old)

        new_gateway, new_worker = services.gateway(PYTHONPATH=path), services.worker(PYTHONPATH=path)
        new = await asyncio.to_thread(new_gateway.address)
        await asyncio.to_thread(new_worker.ready)
        load.addresses = [old, new]
        await load.answered(old, new, calls=100)

        assert await asyncio.to_thread(old_worker.end) == 0
        await load.answered(old, new)
        await load.leave(old)
        assert await asyncio.to_thread(old_gateway.end) == 0
        await migrate_shards(cluster, migrations, "post")
        await load.answered(new, calls=100)
    assert load.submitted > 0
    others = "select exists (select from rowcall.jobs where state <> 'SUCCEEDED')"
    await until(lambda: _all(values(cluster, others), False), seconds=60, every=0.1)
    for dsn in cluster.shards.values():
        notes = await value(
            dsn, "select array_agg(distinct coalesce(note, 'none') order by coalesce(note, 'none')) from rowcall.jobs"
        )
        assert notes == ["none", SETTLED, SUBMITTED], "of the old ones, of the new ones, and of both"
        assert await value(dsn, "select indisvalid from pg_index where indexrelid = 'rowcall.job_note'::regclass")
    assert complaints(old_gateway, old_worker, new_gateway, new_worker) == []


async def test_a_service_of_the_next_release_begins_on_this_ones_schema_and_goes_over_to_its_own(
    cluster: Cluster, services: Services, tmp_path: Path
) -> None:
    """Wherever its way is not there yet it goes the way of the release before; and its own without being started anew."""
    path = str(package_in(tmp_path / "package"))
    gateway, worker = services.gateway(PYTHONPATH=path), services.worker(PYTHONPATH=path)
    address = gateway.address()
    worker.ready()
    load = Load(cluster)
    load.addresses = [address]
    async with load.running():
        await load.answered(address)
        await migrate_shards(cluster, schema_of(tmp_path / "schema"), "pre")
        await load.answered(address, calls=100)
    for dsn in cluster.shards.values():
        assert await value(dsn, f"select exists (select from rowcall.jobs where note = '{SETTLED}')")
    assert complaints(gateway, worker) == []


async def test_a_service_of_this_release_works_with_the_next_schema_until_that_is_completed(
    cluster: Cluster, gateways: Gateways, tmp_path: Path
) -> None:
    folder = tmp_path / "schema"
    migrations = schema_of(folder)
    await migrate_shards(cluster, migrations, "pre")
    await gateways.start()
    await migrate_shards(cluster, migrations, "post")
    with pytest.raises(RowcallError, match=r"post/9010_old_ways took away .* Upgrade this service") as refused:
        await gateways.start()
    assert refused.value.reason == ErrorReason.ERROR_REASON_SCHEMA_MISMATCH


async def test_a_service_of_this_release_refuses_the_schema_after_the_next(
    cluster: Cluster, gateways: Gateways, tmp_path: Path
) -> None:
    folder = tmp_path / "schema"
    schema_of(folder)
    (folder / "shard/pre/9011_more.sql").write_text("select 1")
    versions = folder / "shard" / VERSIONS
    versions.write_text(f"{versions.read_text()}9011\n")
    later = discover("shard", folder)
    assert [each.version for each in later if each.number > 9009] == [3, 2], "one of pre, one of post"
    await migrate_shards(cluster, [each for each in later if each.version == 3], "pre")
    with pytest.raises(RowcallError, match="its schema is of version 3, and this release works up to 2") as refused:
        await gateways.start()
    assert refused.value.reason == ErrorReason.ERROR_REASON_SCHEMA_MISMATCH
    worker = Worker(WorkerSettings(**cluster.worker.settings))
    with pytest.raises(RowcallError, match="its schema is of version 3, and this release works up to 2"):
        await worker.start()


async def _all(asked: Awaitable[Sequence[object]], expected: object) -> bool:
    return all(each == expected for each in await asked)
