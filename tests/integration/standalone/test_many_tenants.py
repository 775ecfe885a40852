"""Many tenants at once through `rowcall dev --shards 2`: right answers, and rows on the tenant's own shard only."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import psycopg

from rowcall.probe.v1 import probe_pb2, probe_pb2_grpc
from tests.fix_commands import Running

TENANTS = 20
CALLS = 200


def connect(data_dir: Path, database: str) -> psycopg.Connection[tuple[Any, ...]]:
    """Connects to a database of a running `rowcall dev`."""
    postgres = data_dir / "postgres"
    port = (postgres / "cluster" / "postmaster.pid").read_text().splitlines()[3]
    password = (postgres / "superuser_password").read_text().strip()
    return psycopg.connect(host="127.0.0.1", port=port, user="postgres", password=password, dbname=database)


async def test_concurrent_calls_of_many_tenants_are_answered_from_the_right_shards(
    running: Callable[..., Running], run_directory: Path
) -> None:
    data_dir = run_directory / "many-tenants"
    dev = running("dev", "--listen", "127.0.0.1:0", "--data-dir", str(data_dir), "--shards", "2")
    address = await asyncio.to_thread(dev.address)

    async with grpc.aio.insecure_channel(address) as channel:
        probe = probe_pb2_grpc.ProbeServiceStub(channel)

        async def call(number: int) -> tuple[int, bytes]:
            response = await probe.Echo(
                probe_pb2.EchoRequest(payload=b"call %d" % number),
                metadata=[("rowcall-tenant", f"tenant-{number % TENANTS}"), ("idempotency-key", f"key-{number}")],
                timeout=30,
            )
            return number, response.payload

        answers = await asyncio.gather(*(call(number) for number in range(CALLS)))
    assert answers == [(number, b"call %d" % number) for number in range(CALLS)]

    with connect(data_dir, "catalogue") as catalogue:
        home = dict(catalogue.execute("select tenant, shard from rowcall_catalogue.tenant").fetchall())
    assert set(home) == {f"tenant-{number}" for number in range(TENANTS)}
    # Twenty tenants all on one of two shards: once in half a million placements by hash.
    assert set(home.values()) == {"a", "b"}

    rows: Counter[tuple[str, str]] = Counter()
    for shard in ("a", "b"):
        with connect(data_dir, f"shard_{shard}") as connection:
            for tenant, count in connection.execute(
                "select tenant, count(*) from rowcall.jobs where state = 'SUCCEEDED' group by tenant"
            ).fetchall():
                rows[tenant, shard] = count
    assert rows == dict.fromkeys(home.items(), CALLS // TENANTS)
    assert dev.end() == 0
