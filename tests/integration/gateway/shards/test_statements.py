"""What speed rests on, counted: statements and transactions of the calls that a gateway takes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import psycopg
import pytest
from google.longrunning import operations_pb2_grpc
from google.longrunning.operations_pb2 import GetOperationRequest
from psycopg.rows import TupleRow

from rowcall.probe.v1.probe_pb2 import RunRequest
from rowcall.queue.hints import Hint
from rowcall.queue.model import Submission, Submitted
from rowcall.queue.postgres.statements import statement
from rowcall.queue.postgres.store import PostgresJobStore
from rowcall.queue.postgres.wire.prepared import run
from rowcall.queue.postgres.wire.types import Connection
from tests.fix_cluster import Cluster
from tests.fix_gateway import Gateways, keyed, tenant
from tests.support.waiting import until

NOW = ("prefer", "wait=0")
LATER = ("rowcall-run-at", "2999-01-01T00:00:00Z")
CALLS = 40

OF_CALLS = ("submit_jobs", "read_jobs", "read_outcomes")


class Counted:
    """How often each of the statements that belong to calls is run. Each is a transaction of its own."""

    def __init__(self) -> None:
        self._run: Counter[str] = Counter()

    async def prepared(self, connection: Connection, name: str, *parameters: Any, **behind: Any) -> list[TupleRow]:
        """Where sessions prepare statements."""
        self._run[name] += 1
        return await run(connection, name, *parameters, **behind)

    def statement(self, name: str) -> bytes:
        """Where they do not."""
        self._run[name] += 1
        return statement(name)

    def run(self) -> dict[str, int]:
        """Since the last time."""
        run, self._run = self._run, Counter()
        return {name: run[name] for name in OF_CALLS if run[name]}


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    made = Counted()
    monkeypatch.setattr("rowcall.queue.postgres.wire.connection.prepared.run", made.prepared)
    monkeypatch.setattr("rowcall.queue.postgres.wire.connection.statement", made.statement)
    return made


def writers(cluster: Cluster, table: str) -> list[tuple[str, int]]:
    """The transactions that wrote a table's rows, with how many each wrote."""
    found: list[tuple[str, int]] = []
    for dsn in cluster.shards.values():
        with psycopg.connect(dsn) as connection:
            query = f"select xmin::text, count(*) from rowcall.{table} group by 1"
            found += connection.execute(query.encode()).fetchall()
    return found


async def test_calls_that_come_while_a_batch_is_written_are_one_statement_and_one_commit(
    gateways: Gateways, cluster: Cluster, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = await gateways.start(placement={"b": 0})
    probe = await gateways.probe(gateway)
    inside, free, submit = asyncio.Event(), asyncio.Event(), PostgresJobStore.submit

    async def held(
        store: PostgresJobStore, submissions: Sequence[Submission], hint: Hint | None = None
    ) -> list[Submitted | Exception]:
        inside.set()
        await free.wait()
        return await submit(store, submissions, hint)

    def call(number: int) -> asyncio.Future[object]:
        metadata = tenant("acme", NOW, *keyed(str(number)))
        return asyncio.ensure_future(probe.Run(RunRequest(payload=b"x"), timeout=60, metadata=metadata))

    await call(0)
    assert counted.run() == {"submit_jobs": 1}
    monkeypatch.setattr(PostgresJobStore, "submit", held)
    first = call(1)
    await inside.wait()
    others = [call(number) for number in range(2, CALLS)]
    await until(lambda: gateway._gate.inside == CALLS - 1)
    free.set()
    await asyncio.gather(first, *others)

    assert counted.run() == {"submit_jobs": 2}, "one for the call that came alone, one for all that came meanwhile"
    assert sorted(rows for _, rows in writers(cluster, "job")) == [1, 1, CALLS - 2]
    assert sorted(writers(cluster, "job_key")) == sorted(writers(cluster, "job")), "row and key in one commit"


@pytest.mark.parametrize("more", [(), (LATER,)], ids=["ready", "scheduled"])
async def test_a_call_that_does_not_wait_reads_nothing_and_is_told_what_a_read_would_tell(
    gateways: Gateways, counted: Counted, more: tuple[tuple[str, str], ...]
) -> None:
    gateway = await gateways.start()
    probe = await gateways.probe(gateway)
    operations = operations_pb2_grpc.OperationsStub(await gateways.channel(gateway))
    metadata = tenant("acme", NOW, *keyed("k"), *more)

    told = await probe.Run(RunRequest(payload=b"x"), timeout=60, metadata=metadata)
    assert counted.run() == {"submit_jobs": 1}

    read = await operations.GetOperation(GetOperationRequest(name=told.name), timeout=60, metadata=tenant("acme"))
    assert counted.run() == {"read_jobs": 1}
    assert told.SerializeToString() == read.SerializeToString()

    joined = await probe.Run(RunRequest(payload=b"x"), timeout=60, metadata=metadata)
    assert counted.run().keys() >= {"submit_jobs", "read_jobs"}, "another call's job may be further than just written"
    assert joined == told
