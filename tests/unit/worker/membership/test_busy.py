"""What a worker tells of what it runs."""

from __future__ import annotations

from typing import Any, cast
from uuid import UUID, uuid4

from rowcall.queue.model import BUSY_JOBS
from rowcall_worker.membership.registration import Registration
from rowcall_worker.running.attempt import Attempt

NOW = 1000.0


class Job:
    def __init__(self) -> None:
        self.tenant = "acme"
        self.job_id = uuid4()
        self.queue_id = 1


class Method:
    def __init__(self, *, is_async: bool) -> None:
        self.is_async = is_async


class Begun:
    """An attempt, as far as it is asked."""

    def __init__(self, seconds: float, *, is_async: bool = True, begun: bool = True) -> None:
        self.made_at = NOW - seconds
        self.begun = begun
        self.method = Method(is_async=is_async)
        self.job = Job()


def registration(*attempts: Begun) -> Registration:
    nobody = cast("Any", None)
    made = Registration(uuid4(), nobody, nobody, nobody, nobody)
    made.attempts.update(cast("set[Attempt]", set(attempts)))
    return made


def ids(*attempts: Begun) -> list[tuple[str, UUID]]:
    return [("acme", each.job.job_id) for each in attempts]


def test_slots_are_counted_apart_from_threads_and_what_stands_in_line_has_neither() -> None:
    busy = registration(Begun(0), Begun(0), Begun(0, is_async=False), Begun(5, begun=False)).busy(NOW, {})
    assert (busy.slots, busy.threads, list(busy.jobs), busy.queues) == (2, 1, [], {1: 3})


def test_jobs_that_have_run_for_a_second_are_named_the_longest_first() -> None:
    short, long, longest = Begun(0.9), Begun(1), Begun(60, is_async=False)
    busy = registration(short, long, longest).busy(NOW, {})
    assert list(busy.jobs) == ids(longest, long)


def test_of_many_the_longest_are_named() -> None:
    attempts = [Begun(1 + seconds) for seconds in range(BUSY_JOBS + 20)]
    busy = registration(*attempts).busy(NOW, {})
    assert busy.slots == BUSY_JOBS + 20
    assert list(busy.jobs) == ids(*reversed(attempts[20:]))


def test_what_it_could_run_is_told_under_the_identity_that_it_claims_under() -> None:
    made = registration()
    assert made.busy(NOW, {1: 9}).room == {1: 9}
    made.leave()
    assert made.busy(NOW, {1: 9}).room == {}
