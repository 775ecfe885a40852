"""Submits share transactions while there are many, wait for nobody while there are few, and can be taken back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

import pytest
import uuid_utils.compat

from rowcall.catalogue.images import load_catalogue
from rowcall.errors import RowcallError, reason_name
from rowcall.queue.hints import Hint
from rowcall.queue.model import Submission, SubmitOutcome, Submitted
from rowcall.queue.postgres.store import PostgresJobStore
from rowcall.queue.tally import Tally
from rowcall.sharding import GATEWAY_WORKLOADS, Router, Workload
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall_gateway.shards import submitter
from rowcall_gateway.shards.submitter import Submitter
from tests.fix_cluster import Cluster
from tests.fix_gateway import Gateways, jobs

ECHO = load_catalogue().methods["rowcall.probe.v1.ProbeService/Echo"]


class Watched(PostgresJobStore):
    """The real store; it counts batches, and holds them back while it is told to."""

    def watch(self) -> None:
        self.batches: list[int] = []
        self.free = asyncio.Event()
        self.free.set()
        self.entered = asyncio.Event()

    async def submit(self, submissions: Sequence[Submission], hint: Hint | None = None) -> list[Submitted | Exception]:
        self.batches.append(len(submissions))
        self.entered.set()
        await self.free.wait()
        return await super().submit(submissions, hint)


class Rig:
    """A submitter on shard a."""

    def __init__(self, store: Watched) -> None:
        self.store = store
        self.in_flight = 0
        self.told: list[Submission] = []
        self.submitter = Submitter(
            store,
            shard="a",
            gather=timedelta(milliseconds=200),
            gather_above=4,
            batch=50,
            in_flight=lambda: self.in_flight,
            hint=lambda _: None,
            written=self.told.extend,
            tally=Tally(lambda _: None),
        )

    async def submission(self, key: str | None = None, request: bytes = b"") -> Submission:
        return Submission(
            tenant="acme",
            job_id=uuid_utils.compat.uuid7(),
            ids=await self.store.method_ids(ECHO.name, ECHO.policy),
            lane=3,
            request=request,
            request_id=key,
            fingerprint=None if key is None else request.ljust(16, b"\0"),
        )


@pytest.fixture
async def rig(gateways: Gateways, cluster: Cluster) -> AsyncIterator[Rig]:
    settings = gateways.settings(placement={"b": 0})
    async with await Router.open(settings, service="test", workloads=GATEWAY_WORKLOADS) as router:
        await router.route("acme")
        shard = router.shard("a")
        store = Watched(shard.pool(Workload.SUBMIT), shard.pool(Workload.READ), shard="a")
        store.watch()
        made = Rig(store)
        made.submitter.start()
        yield made
        store.free.set()
        await made.submitter.close()
        await store.close()


async def test_a_lone_call_is_written_at_once(rig: Rig) -> None:
    rig.submitter.enqueue(await rig.submission())

    for _ in range(5):
        await asyncio.sleep(0)

    assert rig.store.entered.is_set(), "it waits for neighbours that are not there"


async def test_calls_that_come_together_share_a_transaction(
    rig: Rig, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The moment in which none comes must not be one in which this process has no processor.
    monkeypatch.setattr(submitter, "PAUSE", 0.2)
    rig.in_flight = 40
    submissions = [await rig.submission() for _ in range(40)]

    answers = []
    for submission in submissions:
        answers.append(rig.submitter.enqueue(submission).written())
        await asyncio.sleep(0)
    found = await asyncio.gather(*answers)

    assert [each.outcome for each in found] == [SubmitOutcome.CREATED] * 40
    assert [each.job_id for each in found] == [each.job_id for each in submissions]
    assert rig.store.batches == [40]
    assert len(jobs(cluster, "name")) == 40
    assert {each.job_id for each in rig.told} == {each.job_id for each in submissions}


async def test_a_batch_is_bounded(rig: Rig) -> None:
    rig.in_flight = 120
    tickets = [rig.submitter.enqueue(await rig.submission()) for _ in range(120)]

    await asyncio.gather(*(ticket.written() for ticket in tickets))

    assert max(rig.store.batches) == 50
    assert sum(rig.store.batches) == 120


async def test_each_call_of_a_batch_has_its_own_answer(rig: Rig, cluster: Cluster) -> None:
    rig.in_flight = 10
    tickets = [
        rig.submitter.enqueue(each)
        for each in (
            await rig.submission("k", b"1"),
            await rig.submission("k", b"1"),
            await rig.submission("k", b"2"),
            await rig.submission(),
        )
    ]

    outcomes = [(await ticket.written()).outcome for ticket in tickets]

    assert outcomes == [
        SubmitOutcome.CREATED,
        SubmitOutcome.JOINED,
        SubmitOutcome.KEY_REUSED,
        SubmitOutcome.CREATED,
    ]
    assert len(rig.told) == len(jobs(cluster, "name")) == 2


async def test_what_is_not_on_its_way_can_be_taken_back_and_what_is_cannot(rig: Rig, cluster: Cluster) -> None:
    rig.store.free.clear()
    flying = rig.submitter.enqueue(await rig.submission("flying"))
    await rig.store.entered.wait()
    waiting = rig.submitter.enqueue(await rig.submission("waiting"))

    assert not flying.withdraw()
    assert waiting.withdraw()
    rig.store.free.set()

    assert (await flying.written()).outcome is SubmitOutcome.CREATED
    last = rig.submitter.enqueue(await rig.submission("last"))
    await last.written()
    assert not last.withdraw()
    assert sorted(key for (key,) in jobs(cluster, "request_id")) == ["flying", "last"]


async def test_a_caller_that_is_gone_does_not_stop_what_is_being_written(rig: Rig, cluster: Cluster) -> None:
    rig.store.free.clear()
    ticket = rig.submitter.enqueue(await rig.submission("k"))

    async def caller() -> None:
        await ticket.written()

    call = asyncio.ensure_future(caller())
    await rig.store.entered.wait()
    call.cancel()
    await asyncio.wait({call})
    rig.store.free.set()

    assert (await ticket.written()).outcome is SubmitOutcome.CREATED
    assert jobs(cluster, "request_id") == [("k",)]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (LookupError(), "INTERNAL"),
        (RowcallError(ErrorReason.ERROR_REASON_CONFLICT, "They kept colliding."), "CONFLICT"),
    ],
)
async def test_a_fault_is_told_to_every_call_and_ends_no_submitter(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, fault: Exception, reason: str
) -> None:
    async def broken(
        _self: Watched, _submissions: Sequence[Submission], _hint: Hint | None = None
    ) -> list[Submitted | Exception]:
        raise fault

    rig.in_flight = 10
    with monkeypatch.context() as patch:
        patch.setattr(Watched, "submit", broken)
        tickets = [rig.submitter.enqueue(await rig.submission()) for _ in range(3)]
        errors = await asyncio.gather(*(ticket.written() for ticket in tickets), return_exceptions=True)

    assert [reason_name(error.reason) for error in errors if isinstance(error, RowcallError)] == [reason] * 3
    # Not one error in three calls: a traceback would grow with each.
    assert len({id(error) for error in errors}) == 3
    assert (await rig.submitter.enqueue(await rig.submission()).written()).outcome is SubmitOutcome.CREATED


async def test_closing_writes_what_waits_and_refuses_what_comes_later(rig: Rig, cluster: Cluster) -> None:
    rig.in_flight = 10
    tickets = [rig.submitter.enqueue(await rig.submission()) for _ in range(5)]

    await rig.submitter.close()

    assert all(ticket.answered for ticket in tickets)
    assert len(jobs(cluster, "name")) == 5
    with pytest.raises(RowcallError) as error:
        rig.submitter.enqueue(await rig.submission())
    assert reason_name(error.value.reason) == "GATEWAY_DRAINING"
