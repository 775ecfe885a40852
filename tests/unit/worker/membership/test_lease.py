"""A lease names what is overdue, in a thread of its own, whatever the event loop does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import uuid4

import pytest

from rowcall.errors import RowcallError
from rowcall.queue.model import IDLE, Busy, Renewed, Rescued, Running
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall.v1.job_pb2 import JobState
from rowcall_worker.membership.lease import Lease

LENGTH = timedelta(milliseconds=300)
BOUND = 20.0


def overdue_job() -> Running:
    return Running("acme", uuid4(), 1)


@dataclass
class Shard:
    """A renewal that always holds, and what was named to it."""

    ends: Callable[[Running], bool] = lambda _: True
    fails: int = 0
    hangs: threading.Event | None = None
    renewals: int = 0
    told: Busy = IDLE
    named: list[list[Running]] = field(default_factory=list)

    def renew(self, loop_lag: timedelta | None = None, busy: Busy = IDLE) -> Renewed:
        self.told = busy
        self.renewals += 1
        return Renewed(alive=True, cancelled=(), paused_queues=())

    def expire(self, overdue: Sequence[Running], grace: timedelta = timedelta(0)) -> list[Rescued]:
        self.named.append(list(overdue))
        if self.hangs is not None:
            self.hangs.wait(BOUND)
        if self.fails:
            self.fails -= 1
            raise RowcallError(ErrorReason.ERROR_REASON_SHARD_UNAVAILABLE, "away")
        return [
            Rescued(each.tenant, each.job_id, 1, JobState.JOB_STATE_SCHEDULED, None, "worker")
            for each in overdue
            if self.ends(each)
        ]

    def close(self) -> None:
        pass


@dataclass
class Stage:
    """A lease over such a shard."""

    overdue: list[Running] = field(default_factory=list)
    busy: Busy = IDLE
    ended: list[Rescued] = field(default_factory=list)
    leases: list[Lease] = field(default_factory=list)

    def start(self, shard: Shard) -> None:
        lease = Lease(
            uuid4(),
            LENGTH,
            shard,
            lambda _: None,
            lambda _, __: None,
            overdue=lambda _: list(self.overdue),
            expired=self.ended.extend,
            loop_lag=timedelta,
            busy=lambda _: self.busy,
            asked_at=time.monotonic(),
            shard="a",
        )
        lease.start()
        self.leases.append(lease)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setattr("rowcall_worker.membership.lease._EXPIRE_AGAIN", 0.2)
    made = Stage()
    yield made
    for lease in made.leases:
        lease.stop()


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < until, "in vain"
        time.sleep(0.01)


def test_what_is_overdue_is_named_once_and_told(stage: Stage) -> None:
    shard, job = Shard(), overdue_job()
    stage.overdue = [job]
    stage.start(shard)
    wait_for(lambda: len(stage.ended) == 1)
    renewals = shard.renewals
    wait_for(lambda: shard.renewals > renewals + 5)
    assert shard.named == [[job]], "the shard has ended it"
    assert [each.job_id for each in stage.ended] == [job.job_id]


def test_what_the_shard_did_not_end_is_named_again(stage: Stage) -> None:
    late, early = overdue_job(), overdue_job()
    shard = Shard(ends=lambda each: each is late)
    stage.overdue = [late, early]
    stage.start(shard)
    wait_for(lambda: len(shard.named) >= 3)
    assert shard.named[:3] == [[late, early], [early], [early]]


def test_what_failed_is_named_again(stage: Stage) -> None:
    shard = Shard(fails=1)
    stage.overdue = [overdue_job()]
    stage.start(shard)
    wait_for(lambda: len(stage.ended) == 1)
    assert len(shard.named) == 2


def test_renewals_do_not_wait_for_it(stage: Stage) -> None:
    shard = Shard(hangs=threading.Event())
    stage.overdue = [overdue_job()]
    stage.start(shard)
    wait_for(lambda: len(shard.named) == 1)
    renewals = shard.renewals
    wait_for(lambda: shard.renewals > renewals + 5)
    assert len(shard.named) == 1, "nor is there a second thread for it"
    assert shard.hangs is not None
    shard.hangs.set()
    wait_for(lambda: len(stage.ended) == 1)
