"""What a worker's speed rests on, counted: statements that claim and settle, and what done jobs leave behind."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest

from rowcall.probe.v1.probe_pb2 import EchoRequest, EchoResponse
from rowcall.queue.postgres.work import PostgresWorkQueue
from rowcall_worker.claiming import claimer
from rowcall_worker.claiming.claimer import BATCH
from rowcall_worker.running.attempt import Attempt
from rowcall_worker.serving.context import AsyncJobContext, SyncJobContext
from tests.fix_worker import Calls, Workers, serve

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


async def answered(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
    return EchoResponse(payload=request.payload)


def answered_in_a_thread(request: EchoRequest, context: SyncJobContext) -> EchoResponse:
    return EchoResponse(payload=request.payload)


@pytest.mark.parametrize("handler", [answered, answered_in_a_thread])
async def test_a_done_job_leaves_nothing_to_the_garbage_collector(
    workers: Workers, calls: Calls, handler: Callable[..., object]
) -> None:
    """Where tens of thousands of jobs end in a second, cycles of objects took a third of the worker's processor time."""
    await workers.start(serve(echo=handler))
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        # One after the other: each of the two that settle may keep its last one.
        for _ in range(6):
            await calls.all_done([await calls.submit("Echo", EchoRequest(payload=b"x"), policy={"max_attempts": 1})])
        gc.collect()
        assert not [each for each in gc.garbage if type(each) is Attempt]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
