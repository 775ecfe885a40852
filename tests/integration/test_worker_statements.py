"""What a worker's speed rests on, counted: statements that claim and settle."""

from __future__ import annotations

from typing import Any

import pytest

from rowcall.probe.v1.probe_pb2 import EchoRequest
from rowcall.queue.postgres import PostgresWorkQueue
from rowcall_worker import claimer
from rowcall_worker.claimer import BATCH
from tests.fix_worker import Calls, Workers

JOBS = 2 * BATCH


class Counted:
    """How many jobs each claim brought that brought any, and each settle wrote."""

    def __init__(self) -> None:
        self.claims: list[int] = []
        self.settles: list[int] = []


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    made = Counted()
    claim, settle = PostgresWorkQueue.claim, PostgresWorkQueue.settle

    async def counted_claim(self: PostgresWorkQueue, *arguments: Any, **named: Any) -> Any:
        found = await claim(self, *arguments, **named)
        if found:
            made.claims.append(len(found))
        return found

    async def counted_settle(self: PostgresWorkQueue, settlements: Any, *arguments: Any) -> Any:
        made.settles.append(len(settlements))
        return await settle(self, settlements, *arguments)

    monkeypatch.setattr(PostgresWorkQueue, "claim", counted_claim)
    monkeypatch.setattr(PostgresWorkQueue, "settle", counted_settle)
    return made


async def test_a_backlog_is_claimed_and_settled_in_batches(
    workers: Workers, calls: Calls, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of two claims under way one leaves what the other has taken meanwhile, and a third gets the rest.
    monkeypatch.setattr(claimer, "CLAIMS", 1)
    jobs = await calls.submit_many("Echo", [EchoRequest(payload=b"x") for _ in range(JOBS)])
    # As many slots as jobs: what a claim brings is then bounded by its batch alone.
    await workers.start(slots=JOBS)
    await calls.all_done(jobs)

    assert counted.claims == [BATCH, BATCH]
    assert sum(counted.settles) == JOBS
    # The first ones may go by themselves; a tenth of a statement a job is what nobody may exceed.
    assert len(counted.settles) <= JOBS // 10
