"""What every implementation of the queue keeps to: history's days are made ahead and dropped when they are due.

Each test of a guard fails when the guard is taken out.
"""

from __future__ import annotations

from datetime import UTC, date, timedelta
from uuid import UUID

from rowcall.catalogue.model import Policy
from tests.support.queues import METHOD, SUCCEEDED, Queue

KEPT = {1: 1, 2: 7, 3: 90}
"""Days that each class of rowcall.options.v1.Retention is kept after the day it is of."""
AHEAD = 20
"""Days that are made ahead, more than a new shard has."""


async def kept_to(queue: Queue) -> date:
    """Today, once the days are as its maintainer leaves them: a shard may have been made before midnight."""
    while await queue.work.drop_history_day() is not None:
        pass
    await queue.work.make_history_days(AHEAD)
    return await today(queue)


async def today(queue: Queue) -> date:
    return (await queue.probe.now()).astimezone(UTC).date()


async def finished(queue: Queue, retention: int, days: int = 0) -> UUID:
    """A job of a class that has finished so many days ago."""
    ids = await queue.store.method_ids(METHOD, Policy(retention=retention))
    call = queue.call(ids=ids)
    await queue.submit(call)
    [job] = await queue.claim(await queue.worker(), ids=ids)
    assert (await queue.settle(job)).settled
    await queue.probe.pass_time(timedelta(days=days), jobs=[call.job_id])
    return call.job_id


async def test_only_days_past_their_classs_retention_are_dropped_oldest_first(queue: Queue) -> None:
    await kept_to(queue)
    short, standard, long = KEPT
    due = [
        await finished(queue, long, KEPT[long] + 3),
        await finished(queue, long, KEPT[long] + 1),
        await finished(queue, standard, KEPT[standard] + 1),
        await finished(queue, short, KEPT[short] + 1),
    ]
    kept = {await finished(queue, retention, age) for retention, age in KEPT.items()}
    dropped = []
    before = {job.job_id for job in await queue.probe.jobs()}
    assert before == kept | set(due)
    while await queue.work.drop_history_day() is not None:
        after = {job.job_id for job in await queue.probe.jobs()}
        [gone] = before - after
        dropped.append(gone)
        before = after
    assert dropped == due
    assert before == kept
    assert await queue.work.make_history_days(AHEAD + 2) == 8, "two more days of three retentions, and of activity"


async def test_a_finished_job_lives_as_long_as_its_class(queue: Queue) -> None:
    await kept_to(queue)
    for retention, days in KEPT.items():
        job_id = await finished(queue, retention)
        facts = await queue.facts(job_id)
        assert (facts.retention, facts.day) == (retention, await today(queue))
        assert await queue.state("acme", job_id) == SUCCEEDED
        # A minute less, that it may become midnight meanwhile.
        await queue.probe.pass_time(timedelta(days=days, minutes=-1), jobs=[job_id])
        assert await queue.work.drop_history_day() is None
        assert await queue.probe.jobs() != []
        await queue.probe.pass_time(timedelta(days=2), jobs=[job_id])
        assert await queue.work.drop_history_day() is not None
        assert await queue.probe.jobs() == []
