"""Turns of jobs that services submit in their own transactions: ready at once, and no flood of them before everybody else.

Nothing is locked for a turn, so what several transactions that do not see each other can do is bounded, and told by each
test. "Alone" is another tenant's one job.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.types.json import Jsonb

from rowcall.bounds import Bound, Target
from rowcall.catalogue.images import load_catalogue
from rowcall.queue.model import ORDER_STRIDE, ClaimedJob, MethodIds
from tests.fix_queue import Logins, PostgresQueue
from tests.support.queues import READY, SCHEDULED

ECHO = "rowcall.probe.v1.ProbeService/Echo"
AT_ONCE = 16
"""How many jobs of a flow a transaction sees at most when it gives out a turn."""

Service = psycopg.AsyncConnection[Any]


@pytest.fixture
async def echo(queue: PostgresQueue) -> MethodIds:
    """What submit_v1 takes, as the shard numbers it."""
    for method in load_catalogue().methods.values():
        await queue.store.publish(method)
    return await queue.store.method_ids(ECHO, load_catalogue().methods[ECHO].policy)


@asynccontextmanager
async def session(logins: Logins) -> AsyncIterator[Service]:
    async with await psycopg.AsyncConnection.connect(
        logins.submitter, autocommit=True, prepare_threshold=logins.access.prepare_threshold
    ) as connection:
        # What waits for somebody else's open transaction ends the test here.
        await connection.execute("set lock_timeout = '5s'")
        yield connection


@pytest.fixture
async def service(echo: MethodIds, logins: Logins) -> AsyncIterator[Service]:
    """A service that shares the shard, in autocommit mode."""
    async with session(logins) as connection:
        yield connection


async def submit(
    service: Service, tenant: str = "acme", *, jobs: int = 1, key: str | None = None, **options: Any
) -> list[UUID]:
    """Submits some jobs, one call of the function each."""
    rows = await service.execute(
        "select rowcall.submit_v1(%s, %s, 'x', %s, %s) from generate_series(1, %s)",
        [tenant, ECHO, key, Jsonb(options), jobs],
    )
    return [job_id for (job_id,) in await rows.fetchall()]


async def keys(queue: PostgresQueue, tenant: str = "acme") -> list[float]:
    """The order keys of a tenant's ready jobs, in strides."""
    rows = await queue.admin.execute(
        "select order_key from rowcall.job where state = 2 and tenant = %s order by order_key", [tenant]
    )
    return [key / ORDER_STRIDE for (key,) in await rows.fetchall()]


async def states(queue: PostgresQueue, tenant: str = "acme") -> dict[int, int]:
    """How many live jobs of a tenant are in each state."""
    rows = await queue.admin.execute("select state, count(*) from rowcall.job where tenant = %s group by 1", [tenant])
    return dict(await rows.fetchall())


async def claimed(queue: PostgresQueue, echo: MethodIds, jobs: int = 10_000) -> list[ClaimedJob]:
    """The next jobs, in the order of their turns."""
    found = await queue.claim(await queue.worker(), jobs, ids=echo)
    return sorted(found, key=lambda job: job.order_key)


async def bounded(queue: PostgresQueue, backlog: int) -> None:
    """As many of acme's jobs may wait."""
    none: Any = None
    now = datetime.now(UTC)
    await queue.process.admission.keep([Bound(Target("acme"), none, none, none, backlog, none, 1, now, None, None)])


async def before(queue: PostgresQueue, echo: MethodIds, alone: UUID) -> int:
    """How many jobs are claimed before one."""
    return [job.job_id for job in await claimed(queue, echo)].index(alone)


async def promoted(queue: PostgresQueue) -> None:
    while await queue.work.promote(1000):
        pass


async def test_a_job_is_ready_in_its_turn_when_its_transaction_commits(service: Service, queue: PostgresQueue) -> None:
    async with service.transaction():
        await submit(service)
        assert await states(queue) == {}
        await submit(service)
    await submit(service)

    assert await states(queue) == {READY: 3}
    assert await keys(queue) == [1, 2, 3]


async def test_nothing_is_left_of_a_transaction_that_is_rolled_back(service: Service, queue: PostgresQueue) -> None:
    async with service.transaction(force_rollback=True):
        await submit(service, jobs=AT_ONCE)
        await submit(service, key="k")
    async with service.transaction():
        # Nor of a part of one: the turns of what is kept are as if it had not been.
        async with service.transaction(force_rollback=True):
            await submit(service, jobs=AT_ONCE)
        await submit(service, key="k")

    assert await keys(queue) == [1]
    assert await queue.value("select count(*) from rowcall.job_key") == 1


async def test_a_time_that_is_over_is_now_and_one_to_come_is_waited_for(service: Service, queue: PostgresQueue) -> None:
    [over] = await submit(service, run_at="2020-01-01T00:00:00Z")
    [later] = await submit(service, run_at="2041-01-01T00:00:00Z")

    assert [await queue.state("acme", job_id) for job_id in (over, later)] == [READY, SCHEDULED]


async def test_a_flood_in_one_transaction_is_not_before_others(
    service: Service, echo: MethodIds, queue: PostgresQueue
) -> None:
    """Its first jobs are ready; what makes the others ready gives them their turns."""
    async with service.transaction():
        await submit(service, jobs=5000)
    assert await states(queue) == {READY: AT_ONCE, SCHEDULED: 5000 - AT_ONCE}
    [alone] = await submit(service, "bolt")
    await promoted(queue)
    assert await states(queue) == {READY: 5000}

    assert await before(queue, echo, alone) <= 2


@pytest.mark.parametrize("way", ["by SQL", "by gateway"])
async def test_a_flood_in_many_transactions_is_not_before_others(
    service: Service, echo: MethodIds, queue: PostgresQueue, way: str
) -> None:
    for _ in range(300):
        await submit(service)
    assert await states(queue) == {READY: AT_ONCE, SCHEDULED: 300 - AT_ONCE}
    await promoted(queue)
    for _ in range(40):
        await submit(service)
    await promoted(queue)
    if way == "by SQL":
        [alone] = await submit(service, "bolt")
    else:
        call = queue.call("bolt", ids=echo)
        await queue.submit(call)
        alone = call.job_id

    assert await before(queue, echo, alone) <= 2


async def test_a_flood_goes_on_behind_what_is_ready_of_it(
    service: Service, echo: MethodIds, queue: PostgresQueue
) -> None:
    """While it is worked on, in its turns: another tenant has half of the slots for as long as it has jobs."""
    await submit(service, jobs=200)
    await submit(service, "bolt", jobs=200)
    await promoted(queue)
    done: list[str] = []
    for _ in range(10):
        done += [job.tenant for job in await claimed(queue, echo, 20)]
        await submit(service, jobs=20)
        await promoted(queue)

    assert 80 <= done.count("bolt") <= 120


async def test_transactions_that_do_not_see_each_other_are_before_others_by_one_job_each(
    echo: MethodIds, logins: Logins, queue: PostgresQueue
) -> None:
    """And none waits for another."""
    sessions = 16
    async with AsyncExitStack() as stack:
        open_ones = [await stack.enter_async_context(session(logins)) for _ in range(sessions)]
        for each in open_ones:
            await each.execute("begin")
        for each in open_ones:
            await submit(each, jobs=100)
        for each in open_ones:
            await each.execute("commit")
        assert (await states(queue))[READY] == sessions * AT_ONCE
        await submit(open_ones[0], jobs=10)
        assert (await states(queue))[READY] == sessions * AT_ONCE, "what came then has seen them"
        [alone] = await submit(open_ones[0], "bolt")
        await promoted(queue)

    assert await before(queue, echo, alone) <= sessions + 2


async def test_a_transaction_that_others_overtake_counts_its_own_jobs(
    service: Service, echo: MethodIds, logins: Logins, queue: PostgresQueue
) -> None:
    """The frontier moves past what it has submitted; all of that would be before everybody else when it commits."""
    async with session(logins) as other:
        async with service.transaction():
            for _ in range(3 * AT_ONCE):
                await submit(service)
                await submit(other, "bolt", jobs=2)
                assert len(await claimed(queue, echo)) == 2
        assert await states(queue) == {READY: AT_ONCE, SCHEDULED: 2 * AT_ONCE}


async def test_what_a_transaction_remembers_ends_with_it(
    service: Service, echo: MethodIds, queue: PostgresQueue
) -> None:
    """The next one counts from where the frontier is then: what was claimed meanwhile is not in its way."""
    for _ in range(3):
        await submit(service, jobs=AT_ONCE)
        assert await states(queue) == {READY: AT_ONCE, **({3: done} if (done := (await states(queue)).get(3)) else {})}
        assert len(await claimed(queue, echo)) == AT_ONCE


@pytest.mark.parametrize("memory", ["x", "", "-1", "99999999999999999999", "9" * 18])
async def test_a_session_cannot_break_it_by_what_it_sets(
    service: Service, echo: MethodIds, queue: PostgresQueue, memory: str
) -> None:
    async with service.transaction():
        await service.execute("select set_config(%s, %s, true)", [f"rowcall.frontier_{echo.queue_id}_3", memory])
        await submit(service, jobs=100)

    assert await states(queue) == {READY: AT_ONCE, SCHEDULED: 100 - AT_ONCE}
    assert await keys(queue) == list(range(1, AT_ONCE + 1))


async def test_it_goes_behind_its_tenants_other_jobs(service: Service, echo: MethodIds, queue: PostgresQueue) -> None:
    """Which the gateways have told of: both ways share one turn."""
    await queue.submit(*(queue.call(ids=echo) for _ in range(100)))
    await queue.store.exchange_turns()
    await submit(service)

    assert (await keys(queue))[-1] == 101


async def test_a_tenant_that_floods_by_both_ways_is_not_before_others(
    service: Service, echo: MethodIds, queue: PostgresQueue
) -> None:
    """It has two turns where others have one: what is made ready does not wait behind what gateways took."""
    await submit(service, jobs=1000)
    await queue.submit(*(queue.call(ids=echo) for _ in range(1000)))
    [by_sql] = await submit(service, "bolt")
    await promoted(queue)
    call = queue.call("bolt", ids=echo)
    await queue.submit(call)

    order = [job.job_id for job in await claimed(queue, echo)]
    assert max(order.index(by_sql), order.index(call.job_id)) <= 4


async def test_weights_are_shares_of_what_is_submitted_in_sql(service: Service, queue: PostgresQueue) -> None:
    await queue.operators.weigh("acme", 4)
    await submit(service, jobs=8)
    await submit(service, "bolt", jobs=2)

    assert await keys(queue) == pytest.approx([1 / 4, 2 / 4, 3 / 4, 1, 5 / 4, 6 / 4, 7 / 4, 2], abs=1e-5)
    assert await keys(queue, "bolt") == [1, 2]


async def test_lanes_and_queues_have_turns_of_their_own(service: Service, queue: PostgresQueue) -> None:
    await submit(service, jobs=AT_ONCE + 1)
    await submit(service, priority="URGENT")

    assert await states(queue) == {READY: AT_ONCE + 1, SCHEDULED: 1}


async def test_what_is_paused_is_not_claimed_and_its_flood_is_seen(
    service: Service, echo: MethodIds, queue: PostgresQueue
) -> None:
    await queue.operators.pause("tenant", "acme", by="ada", note=None)
    await submit(service, jobs=AT_ONCE)
    assert await claimed(queue, echo) == []
    assert await queue.work.hold_paused(1000) == AT_ONCE

    await submit(service, jobs=100)
    assert await states(queue) == {READY: AT_ONCE, SCHEDULED: 100}

    await queue.operators.resume("tenant", "acme")
    [alone] = await submit(service, "bolt")
    await queue.work.free_resumed(1000)
    await promoted(queue)
    assert await before(queue, echo, alone) <= 2


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_callers_of_other_isolation_levels_submit_as_well(
    service: Service, logins: Logins, queue: PostgresQueue, level: str
) -> None:
    """Two serializable transactions that both looked would not both commit: theirs wait for their turns."""
    async with session(logins) as other:
        for each in (service, other):
            await each.execute(f"begin isolation level {level}".encode())
            await submit(each, key=f"first {id(each)}")
        for each in (service, other):
            await submit(each, jobs=2 * AT_ONCE)
            await submit(each, key=f"second {id(each)}")
        for each in (service, other):
            await each.execute("commit")

    jobs = 2 * (2 * AT_ONCE + 2)
    ready = 0 if level == "serializable" else 2 * AT_ONCE
    assert await states(queue) == {SCHEDULED: jobs - ready, **({READY: ready} if ready else {})}
    assert set(await keys(queue)) <= set(range(1, AT_ONCE + 1))
    await promoted(queue)
    assert await states(queue) == {READY: jobs}


async def test_a_repeat_of_a_key_is_the_same_job_with_the_turn_it_has(service: Service, queue: PostgresQueue) -> None:
    first, second = await submit(service, key="k"), await submit(service, key="k")

    assert first == second
    assert await keys(queue) == [1]


async def test_a_held_snapshot_makes_it_no_slower(service: Service, echo: MethodIds, queue: PostgresQueue) -> None:
    """What was claimed leaves entries in the index that vacuum cannot remove: none of them is read."""
    read = "select idx_tup_read from pg_stat_all_indexes where indexrelname = 'job_by_sql'"
    async with await psycopg.AsyncConnection.connect(queue.logins.admin) as holder:
        await holder.execute("set transaction isolation level repeatable read")
        await holder.execute("select count(*) from rowcall.job")
        for _ in range(60):
            await submit(service, jobs=AT_ONCE)
            assert len(await claimed(queue, echo)) == AT_ONCE
        await submit(service, jobs=2)
        await service.execute("select pg_stat_force_next_flush()")
        entries = await queue.value(read)
        await submit(service)
        await service.execute("select pg_stat_force_next_flush()")
        entries = await queue.value(read) - entries
    assert entries == 2


async def test_jobs_of_gateways_are_not_in_its_index(service: Service, queue: PostgresQueue) -> None:
    """They cost no more than without it: a thousand of them, and it has not even a first page."""
    pages = "select pg_relation_size('rowcall.job_by_sql') / 8192"
    empty = await queue.value(pages)
    await queue.submit(*(queue.call() for _ in range(1000)))
    assert await queue.value(pages) == empty
    await submit(service)
    assert await queue.value(pages) == empty + 1


async def test_as_many_jobs_of_a_tenant_get_into_line_as_its_bound_lets_in(
    queue: PostgresQueue, service: Service, echo: MethodIds
) -> None:
    await bounded(queue, 3)
    first = [await submit(service, key=f"k{number}") for number in range(3)]
    with pytest.raises(psycopg.errors.ConfigurationLimitExceeded) as refused:
        await submit(service, key="k3")
    assert "the tenant 'acme' has as many jobs waiting for this queue as its bound lets in" in str(refused.value)
    assert refused.value.diag.message_hint is not None
    assert await submit(service, key="k0") == first[0], "who has a job already joins it"
    await submit(service, run_at="2100-01-01T00:00:00Z")
    await submit(service, "bolt")
    await claimed(queue, echo)
    await submit(service, key="k3")


async def test_a_flood_in_sql_is_kept_out_when_it_has_been_given_its_turns_too(
    queue: PostgresQueue, service: Service, echo: MethodIds
) -> None:
    """What had no turn is in line by then: the sweep of each half second sees to it."""
    await bounded(queue, 20)
    await submit(service, jobs=AT_ONCE + 20)
    await promoted(queue)
    with pytest.raises(psycopg.errors.ConfigurationLimitExceeded):
        await submit(service)


async def test_a_flood_in_one_transaction_is_kept_out_too(queue: PostgresQueue, service: Service) -> None:
    """Sixteen have their turn and the others wait for one: as many of these as the bound lets in, and no more."""
    await bounded(queue, 20)
    with pytest.raises(psycopg.errors.ConfigurationLimitExceeded):
        await submit(service, jobs=AT_ONCE + 21)
    await submit(service, jobs=AT_ONCE + 20)
    with pytest.raises(psycopg.errors.ConfigurationLimitExceeded):
        await submit(service)
    await submit(service, "bolt")


async def test_as_many_jobs_of_a_tenant_are_scheduled_as_its_bound_lets_in(
    queue: PostgresQueue, service: Service
) -> None:
    await bounded(queue, 3)
    await submit(service, jobs=3, run_at="2100-01-01T00:00:00Z")
    with pytest.raises(psycopg.errors.ConfigurationLimitExceeded):
        await submit(service, run_at="2100-01-01T00:00:00Z")
    await service.execute("begin isolation level serializable")
    with pytest.raises(psycopg.errors.ConfigurationLimitExceeded):
        await submit(service, run_at="2100-01-01T00:00:00Z")
    await service.execute("rollback")
    await submit(service)


async def test_a_queue_that_is_full_takes_nothing_in_sql(
    queue: PostgresQueue, service: Service, echo: MethodIds
) -> None:
    """As far as a gateway has seen, within a second; who has a job already joins it."""
    none: Any = None
    target = Target("", "probe")
    bound = Bound(target, none, none, none, 5, none, 1, datetime.now(UTC), None, None)
    await queue.process.admission.keep([bound])
    await queue.submit(*(queue.call(ids=echo) for _ in range(4)))
    first = await submit(service, key="k")
    await queue.submit(queue.call(ids=echo))
    await queue.store.exchange_turns()
    await queue.process.admission.loads(["probe"])
    with pytest.raises(psycopg.errors.ConfigurationLimitExceeded) as refused:
        await submit(service, "bolt")
    assert f"the queue of the method '{ECHO}' has as many jobs waiting as its bound lets in" in str(refused.value)
    assert await submit(service, key="k") == first
    await queue.admin.execute("update rowcall.queue_look set looked_at = looked_at - interval '2 minutes'")
    await submit(service, "bolt")


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_what_is_scheduled_in_a_transaction_of_its_own_snapshot_is_counted(
    queue: PostgresQueue, service: Service, logins: Logins, level: str
) -> None:
    """Two at a time, neither of which sees what the other has counted, and neither of which fails for it."""
    await submit(service, run_at="2100-01-01T00:00:00Z")
    async with session(logins) as one, session(logins) as other:
        for each in (one, other):
            await each.execute(f"begin isolation level {level}")
            await each.execute("select 1 from generate_series(1, 2)")
        # What they begin from is over now.
        await submit(service, run_at="2100-01-01T00:00:00Z")
        for each in (one, other):
            await submit(each, jobs=2, run_at="2100-01-01T00:00:00Z")
        for each in (one, other):
            await each.execute("commit")
    assert await queue.value("select sum(scheduled)::bigint from rowcall.set_aside where tenant = 'acme'") == 6
    await queue.work.forget_turns(100)
    assert await queue.value("select sum(scheduled)::bigint from rowcall.set_aside where tenant = 'acme'") == 6
    assert await queue.value("select count(*) from rowcall.set_aside where slot not between 0 and 15") == 0


async def test_what_others_have_counted_and_not_committed_delays_nobody(
    queue: PostgresQueue, service: Service, logins: Logins
) -> None:
    async with session(logins) as other, other.transaction():
        await submit(other, jobs=2, run_at="2100-01-01T00:00:00Z")
        await submit(service, run_at="2100-01-01T00:00:00Z")
        await submit(service, "bolt", run_at="2100-01-01T00:00:00Z")
        await submit(other, "bolt", run_at="2100-01-01T00:00:00Z")
    assert await queue.value("select sum(scheduled)::bigint from rowcall.set_aside") == 5
