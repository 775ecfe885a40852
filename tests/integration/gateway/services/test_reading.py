"""Reads of single jobs go together, and each has its own answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from uuid import UUID, uuid4

import pytest

from rowcall.errors import RowcallError, reason_name
from rowcall.probe.v1.probe_pb2 import RunRequest
from rowcall.queue.model import JobRow
from rowcall.queue.postgres.store import PostgresJobStore
from rowcall.sharding import GATEWAY_WORKLOADS, Router, Workload
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall_gateway.shards.rows import BATCH, Rows
from tests.fix_gateway import Gateways, job_id_of, tenant

Key = tuple[str, UUID]


class Watched(PostgresJobStore):
    """The real store; it tells how many jobs each statement was for."""

    def watch(self) -> None:
        self.asked: list[int] = []

    async def read(self, jobs: Sequence[Key], *, request: bool = False, response: bool = False) -> dict[Key, JobRow]:
        self.asked.append(len(jobs))
        return await super().read(jobs, request=request, response=response)


@pytest.fixture
async def store(gateways: Gateways) -> AsyncIterator[Watched]:
    settings = gateways.settings()
    async with await Router.open(settings, service="test", workloads=GATEWAY_WORKLOADS) as router:
        shard = router.shard("a")
        made = Watched(shard.pool(Workload.SUBMIT), shard.pool(Workload.READ), shard="a")
        made.watch()
        yield made
        await made.close()


@pytest.fixture
async def keys(gateways: Gateways) -> list[Key]:
    """Three jobs of tenant acme on shard a."""
    probe = await gateways.probe(await gateways.start(placement={"b": 0}))
    now = tenant("acme", ("prefer", "wait=0"))
    names = [(await probe.Run(RunRequest(payload=b"p"), timeout=20, metadata=now)).name for _ in range(3)]
    return [("acme", job_id_of(name)) for name in names]


async def test_reads_that_come_together_are_one_statement(store: Watched, keys: list[Key]) -> None:
    rows = Rows(store)
    unknown = ("acme", uuid4())

    found = await asyncio.gather(*(rows.read(key) for key in [*keys, unknown, *keys]))

    assert [None if row is None else (row.tenant, row.job_id) for row in found] == [*keys, None, *keys]
    assert store.asked == [4]


async def test_payloads_are_read_for_those_who_asked_for_them(store: Watched, keys: list[Key]) -> None:
    rows = Rows(store)

    basic, full = await asyncio.gather(rows.read(keys[0]), rows.read(keys[0], request=True))

    assert basic is not None
    assert full is not None
    assert basic.request is None
    assert full.request == RunRequest(payload=b"p").SerializeToString()


async def test_a_statement_is_for_so_many_jobs_and_no_more(store: Watched) -> None:
    rows = Rows(store)

    await asyncio.gather(*(rows.read(("acme", uuid4())) for _ in range(3 * BATCH)))

    assert store.asked == [BATCH] * 3


async def test_a_caller_that_is_gone_takes_nothing_from_the_others(store: Watched, keys: list[Key]) -> None:
    rows = Rows(store)
    reads = [asyncio.ensure_future(rows.read(key)) for key in keys]
    await asyncio.sleep(0)

    reads[0].cancel()

    assert [row is not None for row in await asyncio.gather(*reads[1:])] == [True, True]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (LookupError(), "INTERNAL"),
        (RowcallError(ErrorReason.ERROR_REASON_SHARD_UNAVAILABLE, "It is away."), "SHARD_UNAVAILABLE"),
    ],
)
async def test_a_fault_is_told_to_every_caller_and_ends_no_reader(
    store: Watched, keys: list[Key], monkeypatch: pytest.MonkeyPatch, fault: Exception, reason: str
) -> None:
    async def broken(*_: object, **__: object) -> dict[Key, JobRow]:
        raise fault

    rows = Rows(store)
    with monkeypatch.context() as patch:
        patch.setattr(Watched, "read", broken)
        errors = await asyncio.gather(*(rows.read(key) for key in keys), return_exceptions=True)

    assert [reason_name(error.reason) for error in errors if isinstance(error, RowcallError)] == [reason] * 3
    assert len({id(error) for error in errors}) == 3
    assert await rows.read(keys[0]) is not None
