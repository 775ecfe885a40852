"""Every call comes 64 times, through two gateways, while commits are done and their answers lost: one row and one name a key."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from uuid import UUID

import grpc
import psycopg
import pytest

from rowcall.errors import read_envelope, reason_name, status_of
from rowcall.probe.v1 import probe_pb2, probe_pb2_grpc
from rowcall.v1.error_reason_pb2 import ErrorReason
from tests.fix_cluster import Cluster
from tests.fix_gateway import job_id_of
from tests.fix_services import Services
from tests.support.postgres_proxy import PostgresProxy
from tests.support.scale import scaled, seed, tell
from tests.support.waiting import until

KEYS = scaled(200, 10_000)
COPIES = 64
TENANTS = 10
AT_ONCE = 16
"""Keys whose copies are under way at the same time, in random order: what both gateways then write are the same keys."""
IN_FLIGHT = 512
BATCH = 64
"""Calls that a gateway writes in one commit: few, so that there are many commits."""
DROPPED = 0.05
"""Share of the commits whose answer is lost."""
FEWEST_FAULTS = scaled(8, 250)
SECONDS = scaled(600, 5400)

DAWDLE = """
    create function public.dawdle() returns trigger language plpgsql as $$
    begin
      perform pg_sleep(0.001);
      return new;
    end
    $$;
    create trigger dawdle before insert on rowcall.job_key for each row execute function public.dawdle()
"""
"""A pause before each key is locked: both gateways are then often in the middle of it, where wrong orders deadlock."""


@dataclass(slots=True)
class Answers:
    """What the callers were told."""

    names: defaultdict[int, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """The operation's name that each copy of a key got."""
    repeated: Counter[str] = field(default_factory=Counter)
    """Why calls were made again."""


def tenant_of(key: int) -> str:
    return f"tenant-{key % TENANTS}"


def storm(dice: random.Random) -> Iterator[int]:
    """All copies of all keys, those of some neighbours mixed."""
    for start in range(0, KEYS, AT_ONCE):
        copies = [key for key in range(start, min(start + AT_ONCE, KEYS)) for _ in range(COPIES)]
        dice.shuffle(copies)
        yield from copies


async def call_until_answered(
    probes: list[probe_pb2_grpc.ProbeServiceAsyncStub], key: int, dice: random.Random, answers: Answers
) -> None:
    """One copy, repeated with its key, at either gateway, until it is answered."""
    while True:
        try:
            operation = await dice.choice(probes).Run(
                probe_pb2.RunRequest(payload=b"%d" % key),
                metadata=[("rowcall-tenant", tenant_of(key)), ("idempotency-key", f"key-{key}"), ("prefer", "wait=0")],
                timeout=60,
            )
        except grpc.aio.AioRpcError as error:
            info = read_envelope(status_of(error))
            if error.code() != grpc.StatusCode.UNAVAILABLE or info is None:
                raise
            answers.repeated[info.reason] += 1
            await asyncio.sleep(dice.uniform(0, 0.1))  # a retry's backoff, not a wait for a condition
            continue
        answers.names[key][operation.name] += 1
        return


def rows(cluster: Cluster) -> tuple[Counter[tuple[str, str, UUID]], Counter[tuple[str, str, UUID]]]:
    """Tenant, key and id of every job, live or finished, and of every row of the key tables."""
    jobs: Counter[tuple[str, str, UUID]] = Counter()
    keys: Counter[tuple[str, str, UUID]] = Counter()
    for dsn in cluster.shards.values():
        with psycopg.connect(dsn) as connection:
            jobs.update(
                connection.execute(
                    "select tenant, request_id, job_id from rowcall.job "
                    "union all select tenant, request_id, job_id from rowcall.job_history"
                ).fetchall()
            )
            keys.update(connection.execute("select tenant, request_id, job_id from rowcall.job_key").fetchall())
    return jobs, keys


async def deadlocks(cluster: Cluster) -> dict[str, int]:
    """How many deadlocks each shard has seen. To be asked when the services have ended: sessions report with a delay."""
    found = {}
    for shard, dsn in cluster.shards.items():
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:

            async def alone(connection: psycopg.AsyncConnection[tuple[object, ...]] = connection) -> bool:
                others = await connection.execute(
                    # What is left is a pooler's: it reports when it is ended.
                    "select pg_terminate_backend(pid) from pg_stat_activity "
                    "where datname = current_database() and backend_type = 'client backend' and pid <> pg_backend_pid()"
                )
                return await others.fetchone() is None

            await until(alone, seconds=60)
            row = await (
                await connection.execute("select deadlocks from pg_stat_database where datname = current_database()")
            ).fetchone()
            assert row is not None
            found[shard] = row[0]
    return found


@pytest.mark.timeout(SECONDS)
async def test_64_copies_of_each_call_are_one_row_with_one_name(cluster: Cluster, services: Services) -> None:
    chosen = seed("duplicates")
    dice = random.Random(chosen)
    answers = Answers()
    for dsn in cluster.shards.values():
        with psycopg.connect(dsn) as connection:
            connection.execute(DAWDLE)
    async with AsyncExitStack() as stack:
        proxies = {
            shard: stack.enter_context(PostgresProxy(dsn, drop=DROPPED, seed=dice.randrange(1 << 32)))
            for shard, dsn in cluster.service_shards.items()
        }
        dropping = json.dumps({shard: proxy.through(cluster.service_shards[shard]) for shard, proxy in proxies.items()})
        gateways = [services.gateway(ROWCALL_SHARDS=dropping, ROWCALL_SUBMIT_BATCH=str(BATCH)) for _ in range(2)]
        worker = services.worker()
        addresses = [await asyncio.to_thread(gateway.address) for gateway in gateways]
        await asyncio.to_thread(worker.ready)
        probes: list[probe_pb2_grpc.ProbeServiceAsyncStub] = [
            probe_pb2_grpc.ProbeServiceStub(
                await stack.enter_async_context(grpc.aio.insecure_channel(address))  # one connection carries all calls
            )
            for address in addresses
        ]

        calls = storm(dice)

        async def caller() -> None:
            for key in calls:
                await call_until_answered(probes, key, dice, answers)

        async with asyncio.TaskGroup() as callers:
            for _ in range(IN_FLIGHT):
                callers.create_task(caller())

        commits = sum(proxy.commits.commits for proxy in proxies.values())
        dropped = sum(proxy.commits.dropped for proxy in proxies.values())
        tell(
            f"duplicates: {KEYS} keys x {COPIES}, {commits} commits, {dropped} answers lost, "
            f"calls repeated: {dict(answers.repeated)}"
        )
        codes = [await asyncio.to_thread(service.end) for service in (*gateways, worker)]
    assert codes == [0, 0, 0]

    assert dropped >= FEWEST_FAULTS, "too few faults to show anything"
    assert answers.repeated[reason_name(ErrorReason.ERROR_REASON_COMMIT_UNKNOWN)] >= dropped
    assert {key: sum(names.values()) for key, names in answers.names.items()} == dict.fromkeys(range(KEYS), COPIES)
    of_two_names = {key: names for key, names in answers.names.items() if len(names) > 1}
    assert not of_two_names, of_two_names

    told = Counter(
        (tenant_of(key), f"key-{key}", job_id_of(name)) for key, names in answers.names.items() for name in names
    )
    jobs, keys = rows(cluster)
    assert jobs == told, "each key is one row, live or finished, and the one that its callers were told"
    assert keys == told
    assert await deadlocks(cluster) == dict.fromkeys(cluster.shards, 0)
