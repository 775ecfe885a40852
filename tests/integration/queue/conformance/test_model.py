"""The queue against a model of it: whatever happens in whichever order, its rows are what the model says.

Two workers, zombies that go on with leases they lost, and time that passes as it is told to. Each run prints its seed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any, TypeVar
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from uuid_utils.compat import uuid7

from rowcall.catalogue.model import Policy
from rowcall.queue.model import ClaimedJob, MethodIds, Settled, Settlement, Submission, SubmitOutcome
from rowcall.queue.protocol import LeaseRenewal
from tests.support import queue_model, scale
from tests.support.probe import Implementation
from tests.support.queue_model import (
    ALONE,
    CANCELLED,
    FAILED,
    READY,
    RESOLVED,
    RUNNING,
    SCHEDULED,
    SUCCEEDED,
    SUSPECT,
    Key,
    Model,
    Worker,
)
from tests.support.queue_shard import Shard
from tests.support.queues import METHOD, NO_GRACE, taken

T = TypeVar("T")

HOUR = timedelta(hours=1)
TENANTS = ("acme", "bolt")
KEYS = ("k1", "k2", "k3")
PRINTS = (b"one request", b"another one")
POLICY = Policy(max_attempts=queue_model.MAX_ATTEMPTS, timeout=queue_model.TIMEOUT * HOUR)
ALL = 1000
FACTS = attrgetter(
    "state", "held", "lease", "attempt", "lost", "lost_alone", "replays", "attempts", "cancel", "worker_id"
)
"""Of a job, what the model knows too: `queue_model.Job.facts`."""
UPKEEP = ("bury", "rescue", "promote", "expire_attempts", "expire_jobs", "set_aside_and_free")


ANY_ONE = st.integers(0, 1 << 16)
"""Picks one of what is there: what hypothesis draws must not depend on what the database did."""
SOME = st.lists(ANY_ONE, min_size=1, max_size=4)


def picked(items: Sequence[T], one: int) -> T:
    """The one that a number means."""
    return items[one % len(items)]


class QueueMachine(RuleBasedStateMachine):
    """What may happen."""

    shard: Shard
    """The one of all examples; of a subclass."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = self.shard.queue
        self.ids: MethodIds = self.queue.ids
        self.model = Model()
        self.leases: list[ClaimedJob] = []
        """Every claim there ever was."""
        self.places: list[UUID] = []
        """The workers of the two places; who was declared dead there is followed by another."""
        self.renewals: dict[UUID, LeaseRenewal] = {}
        """Of every worker there was."""
        self.run(self.queue.probe.clear())
        for _ in range(2):
            self.places.append(self.start())

    @initialize()
    def begin(self) -> None:
        """With something to do."""
        self.saw("examples")
        for tenant in TENANTS:
            self.submit(tenant=tenant, key=None, print_=PRINTS[0], run_in=0, deadline=None, copies=3)
        self.claim(place=0, limit=3, alone=False)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.shard.run(work)

    def start(self) -> UUID:
        worker = uuid4()
        self.run(self.queue.work.register_worker(worker, "w", queue_model.LEASE * HOUR))
        # Its session stands for the worker.
        self.renewals[worker] = self.queue.process.renewal(worker, queue_model.LEASE * HOUR)
        self.renewals[worker].renew()
        self.model.workers[worker] = Worker(self.model.now + queue_model.LEASE)
        return worker

    def teardown(self) -> None:
        for renewal in self.renewals.values():
            renewal.close()

    def saw(self, what: str, times: int = 1) -> None:
        self.shard.seen[what] += times

    # Callers

    @rule(
        tenant=st.sampled_from(TENANTS), key=st.none() | st.sampled_from(KEYS), print_=st.sampled_from(PRINTS),
        run_in=st.sampled_from([0, 0, 0, 1, 3]), deadline=st.sampled_from([None, None, 2, 5]), copies=st.integers(1, 3),
    )  # fmt: skip
    def submit(
        self, *, tenant: str, key: str | None, print_: bytes, run_in: int, deadline: int | None, copies: int
    ) -> None:
        call = Submission(
            tenant, uuid7(), self.ids, 3, b"x", request_id=key, fingerprint=print_ if key else None,
            run_at=datetime.now(UTC) + run_in * HOUR if run_in else None,
            deadline=None if deadline is None else deadline * HOUR,
        )  # fmt: skip
        calls = [call, *(replace(call, job_id=uuid7()) for _ in range(copies - 1))]
        answers = [taken(answer) for answer in self.run(self.queue.store.submit(calls))]
        for each, answer in zip(calls, answers, strict=True):
            known = self.model.named(tenant, key) if key else None
            if known is None:
                assert (answer.outcome, answer.job_id) == (SubmitOutcome.CREATED, each.job_id)
                self.model.submit(tenant, each.job_id, run_in, deadline)
                if key:
                    self.model.keys[tenant, key] = Key(each.job_id, print_, self.model.now + queue_model.KEY_TTL)
            else:
                outcome = SubmitOutcome.JOINED if known.print_ == print_ else SubmitOutcome.KEY_REUSED
                assert (answer.outcome, answer.job_id) == (outcome, known.job_id)
                self.saw("repeated")

    @rule(one=ANY_ONE)
    def cancel(self, one: int) -> None:
        job_id = picked(sorted(self.model.jobs), one)
        worker = self.model.jobs[job_id].worker
        cancelled = self.run(self.queue.store.cancel(self.model.jobs[job_id].tenant, job_id))
        state = self.model.cancel(job_id)
        if state is None:
            assert cancelled is None
        else:
            assert cancelled is not None
            assert (cancelled.state, cancelled.worker_id) == (state, worker if state == RUNNING else None)

    # Operators

    @rule(what=st.sampled_from([None, None, None, None, "queue", "method", *TENANTS]))
    def pause(self, what: str | None) -> None:
        """Or, more often, resume everything."""
        self.model.paused = {what} | self.model.paused if what else set()
        for each in (what,) if what else ("queue", "method", *TENANTS):
            kind, name = {"queue": ("queue", POLICY.queue), "method": ("method", METHOD)}.get(each, ("tenant", each))
            if what:
                assert self.run(self.queue.operators.pause(kind, name, by=None, note=None))
            else:
                assert self.run(self.queue.operators.resume(kind, name))

    @rule(tenant=st.sampled_from(TENANTS), some=SOME, replay=st.sampled_from([True, True, False]))
    def replay_or_resolve(self, tenant: str, some: list[int], *, replay: bool) -> None:
        """Of failed jobs, anybody's; and one that may be anything."""
        failed = sorted(self.model.those(lambda job: job.state == FAILED))
        names = list({picked(sorted(self.model.jobs), some[0]), *(picked(failed, one) for one in some if failed)})
        expected = {
            name for name in names if self.model.jobs[name].state == FAILED and self.model.jobs[name].tenant == tenant
        }
        if replay:
            assert set(self.run(self.queue.store.replay(tenant, names))) == expected
        else:
            assert set(self.run(self.queue.store.resolve(tenant, names, by="ann", note=None))) == expected
        for name in expected:
            if replay:
                self.model.replay(name)
                self.saw("replayed")
            else:
                self.model.finish(name, RESOLVED)

    # Workers

    @rule(place=st.integers(0, 1), limit=st.integers(1, 4), alone=st.booleans())
    def claim(self, place: int, limit: int, *, alone: bool) -> None:
        worker = self.places[place]
        if alone and self.model.those(lambda job: bool(job.state == READY and job.held & SUSPECT)):
            self.claim_suspects(worker, limit)
            return
        jobs = self.run(self.queue.claim(worker, limit))
        may = {} if self.model.workers[worker].dead else self.model.claimable(0)
        assert len({job.job_id for job in jobs}) == len(jobs) == min(limit, len(may))
        assert {job.job_id for job in jobs} <= set(may)
        self.got(worker, jobs)

    def claim_suspects(self, worker: UUID, limit: int) -> None:
        jobs = self.run(self.queue.claim_suspects(worker, limit))
        dead = self.model.workers[worker].dead
        groups, alone = ({} if dead else self.model.claimable(held) for held in (SUSPECT, ALONE))
        assert bool(jobs) == bool(groups or alone)
        if not jobs:
            return
        # Which kind comes first is a matter of what has waited longest: another test's.
        if jobs[0].job_id in alone:
            assert len(jobs) == 1
        else:
            assert {job.job_id for job in jobs} <= set(groups)
            assert len({job.job_id for job in jobs}) == len(jobs) == min(limit, len(groups))
        if len(jobs) == 1:
            self.model.jobs[jobs[0].job_id].held = queue_model.ALONE
        self.got(worker, jobs)
        self.saw("run alone" if len(jobs) == 1 else "run in a group")

    def got(self, worker: UUID, jobs: list[ClaimedJob]) -> None:
        for job in jobs:
            known = self.model.claim(job.job_id, worker)
            assert (job.tenant, job.lease, job.attempt, job.lost) == (
                known.tenant,
                known.lease,
                known.attempt,
                known.lost,
            )
            assert (job.time_left is None) == (known.deadline is None)
        self.leases += jobs
        self.saw("claimed", len(jobs))

    @rule(place=st.integers(0, 1))
    def renew(self, place: int) -> None:
        worker = self.places[place]
        # By one that has not renewed before, and so begins at the front: what time passes sets back is behind every mark.
        renewed = self.run(self.queue.renew(worker, queue_model.LEASE * HOUR))
        assert renewed.alive is not self.model.workers[worker].dead
        if renewed.alive:
            self.model.workers[worker].lease_until = self.model.now + queue_model.LEASE
            asked = self.model.those(lambda job: job.worker == worker and job.state == RUNNING and job.cancel)
            assert {each.job_id for each in renewed.cancelled} == set(asked)
        else:
            self.places[place] = self.start()

    @rule(
        some=SOME, zombies=st.booleans(), how=st.sampled_from([None, SUCCEEDED, FAILED, SCHEDULED, CANCELLED]),
        delay=st.integers(0, 3), snoozed=st.booleans(), child=st.booleans(),
    )  # fmt: skip
    def settle(
        self, some: list[int], how: int | None, delay: int, *, zombies: bool, snoozed: bool, child: bool
    ) -> None:
        """Under leases that hold, or any that there ever were. Or, how None, hand back."""
        hold = [claim for claim in self.leases if self.model.holds(claim.job_id, claim.lease)]
        leases = self.leases if zombies or not hold else hold
        claims = list({claim.job_id: claim for claim in (picked(leases, one) for one in some)}.values())
        if how is None:
            self.release(claims[0])
            return
        snoozed = snoozed and how == SCHEDULED
        batch = [
            Settlement(
                job.tenant, job.job_id, job.lease, how, delay=delay * HOUR, snoozed=snoozed,
                response=b"r" if how == SUCCEEDED else None,
                error=None if how == SUCCEEDED or snoozed else b"e", error_code=9, error_message="no paper",
                children=[Submission(job.tenant, uuid7(), self.ids, 3, b"child")] if child else (),
            )
            for job in claims
        ]  # fmt: skip
        for each, answer in zip(batch, self.run(self.queue.work.settle(batch)), strict=True):
            assert isinstance(answer, Settled), answer
            counts = self.model.holds(each.job_id, each.lease)
            assert answer.settled == counts
            self.saw("settled" if counts else "refused")
            if counts:
                state = self.model.again(each.job_id, delay, snoozed=snoozed) if how == SCHEDULED else how
                assert answer.state == self.model.finish(each.job_id, state)
                for one in each.children:
                    self.model.submit(one.tenant, one.job_id, 0, None)

    def release(self, claim: ClaimedJob) -> None:
        [answer] = self.run(self.queue.work.release([claim]))
        counts = self.model.holds(claim.job_id, claim.lease)
        assert answer.settled == counts
        self.saw("released" if counts else "refused")
        if counts:
            assert answer.state == self.model.release(claim.job_id)

    @rule(place=st.integers(0, 1), at_once=st.booleans())
    def die(self, place: int, *, at_once: bool) -> None:
        """What it ran is taken back at once, or may be settled before."""
        self.run(self.queue.work.retire_worker(self.places[place]))
        self.model.workers[self.places[place]].dead = True
        self.places[place] = self.start()
        if at_once and self.model.orphans():
            self.rescue(ALL)

    # Upkeep

    @rule(what=st.sets(st.sampled_from(UPKEEP), min_size=1), limit=st.integers(1, 5))
    def upkeep(self, what: set[str], limit: int) -> None:
        for name in sorted(what):
            getattr(self, name)(limit)

    def bury(self, _: int) -> None:
        buried = {worker for worker, _ in self.run(self.queue.work.bury_workers(NO_GRACE))}
        late = {
            name
            for name, worker in self.model.workers.items()
            if not worker.dead and worker.lease_until <= self.model.now
        }
        assert buried == late
        for worker in late:
            self.model.workers[worker].dead = True
            self.saw("buried")

    def rescue(self, limit: int) -> None:
        orphans = self.model.orphans()
        rescued = self.run(self.queue.work.rescue(limit))
        assert {each.job_id for each in rescued} <= set(orphans)
        assert len(rescued) == min(limit, len(orphans))
        for each in rescued:
            assert each.state == self.model.rescue(each.job_id)
            self.saw("rescued")

    def promote(self, limit: int) -> None:
        due = self.model.due()
        promoted = self.run(self.queue.work.promote(limit))
        assert promoted == ({self.ids.queue_id: min(limit, len(due))} if due else {})
        left = {job.job_id for job in self.run(self.queue.probe.jobs()) if job.state == SCHEDULED}
        ready = set(due) - left
        assert len(ready) == min(limit, len(due))
        assert max((due[name].run_at for name in ready), default=0) <= min(
            (due[name].run_at for name in set(due) & left), default=1 << 30
        )
        for name in ready:
            self.model.jobs[name].state = READY

    def expire_attempts(self, _: int) -> None:
        hanging = self.model.hanging()
        expired = {each.job_id: each.state for each in self.run(self.queue.work.expire_attempts(ALL, NO_GRACE))}
        assert expired == {name: self.model.expire(name) for name in hanging}
        self.saw("hung", len(expired))
        # The wait is a random one; that it is within its bounds is another test's.
        again = [name for name, state in expired.items() if state == SCHEDULED]
        self.run(self.queue.probe.change(again, run_in=HOUR))

    def expire_jobs(self, _: int) -> None:
        late = set(self.model.too_late())
        assert {each.job_id for each in self.run(self.queue.work.expire_jobs(ALL))} == late
        for name in late:
            self.model.finish(name, FAILED)
            self.saw("too late")

    def set_aside_and_free(self, _: int) -> None:
        aside = self.model.to_hold()
        assert self.run(self.queue.work.hold_paused(ALL)) == len(aside)
        for job in aside.values():
            job.held |= queue_model.PAUSED
        freed = self.model.to_free()
        assert sum(self.run(self.queue.work.free_resumed(ALL)).values()) == len(freed)
        for job in freed.values():
            job.held &= ~queue_model.PAUSED
        self.run(self.queue.work.age(ALL))  # changes nothing that the model knows

    @rule(hours=st.integers(1, 3))
    def time_passes(self, hours: int) -> None:
        self.run(self.queue.probe.pass_time(hours * HOUR))
        self.model.now += hours

    # What always holds

    @invariant()
    def rows_are_what_the_model_says(self) -> None:
        self.saw("steps")
        jobs = self.run(self.queue.probe.jobs())
        assert len(jobs) == len({job.job_id for job in jobs}), "one row a job, live or finished"
        assert {job.job_id: FACTS(job) for job in jobs} == {name: job.facts for name, job in self.model.jobs.items()}
        keys = self.run(self.queue.probe.keys())
        assert {(key.tenant, key.request_id): key.job_id for key in keys} == {
            key: known.job_id for key, known in self.model.keys.items()
        }


@pytest.fixture
def shard(implementation: Implementation) -> Iterator[Shard]:
    with asyncio.Runner() as runner:
        shard = Shard(implementation, runner, POLICY, *TENANTS)
        yield shard
        shard.close()


@pytest.mark.timeout(scale.scaled(300, 7200))
def test_the_queue_does_what_its_model_does(shard: Shard) -> None:
    machine = type("Machine", (QueueMachine,), {"shard": shard})
    run_state_machine_as_test(
        seed(scale.seed("model of the queue"))(machine),
        settings=settings(
            max_examples=scale.scaled(50, 2000),
            stateful_step_count=scale.scaled(60, 120),
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    scale.tell(f"model of the queue: {dict(shard.seen)}")
    for what in ("claimed", "settled", "refused", "rescued", "repeated"):
        assert shard.seen[what] >= scale.scaled(5, 500), f"too few were {what}"
