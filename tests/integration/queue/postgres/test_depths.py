"""Looks at what a shard stands at, as Postgres has them: one at a time, and a part of the time."""

from __future__ import annotations

from datetime import timedelta

import psycopg
import pytest

from tests.fix_queue import PostgresQueue

NOW = timedelta(0)
LOCK = "select pg_advisory_xact_lock(hashtextextended('rowcall.depth_look', 0))"
"""Until the transaction ends: a connection is closed before its server's process has let go."""


async def test_while_one_looks_the_others_get_what_was_seen_before(queue: PostgresQueue) -> None:
    async with await psycopg.AsyncConnection.connect(queue.logins.admin) as looking:
        await looking.execute(LOCK)
        assert await queue.work.depths(NOW) is None, "nobody has looked yet, and somebody does just now"
    assert await queue.work.depths(NOW) is not None
    await queue.admin.execute("update rowcall.depth_look set looked_at = looked_at - interval '1 hour'")
    async with await psycopg.AsyncConnection.connect(queue.logins.admin) as looking:
        await looking.execute(LOCK)
        seen = await queue.work.depths(NOW)
        assert seen is not None
        assert seen.age > timedelta(minutes=59)
    seen = await queue.work.depths(NOW)
    assert seen is not None
    assert seen.age < timedelta(minutes=1)
    assert await queue.value("select count(*) from rowcall.depth_look") == 1


async def test_a_look_that_took_long_is_not_made_again_soon(queue: PostgresQueue) -> None:
    """A fiftieth of the time, of all processes together."""
    await queue.work.depths(NOW)
    await queue.admin.execute(
        "update rowcall.depth_look set took = interval '2 s', looked_at = looked_at - interval '1 minute'"
    )
    seen = await queue.operators.depths(NOW)
    assert seen is not None
    assert seen.age > timedelta(seconds=50)
    await queue.admin.execute("update rowcall.depth_look set looked_at = looked_at - interval '1 minute'")
    seen = await queue.operators.depths(NOW)
    assert seen is not None
    assert seen.age < timedelta(seconds=50)


@pytest.mark.straight("A pooler's sessions are its own: what one holds is another's.")
async def test_a_held_snapshots_age_is_told_where_the_owner_may_see_it(queue: PostgresQueue) -> None:
    seen = await queue.work.depths(NOW)
    assert seen is not None
    assert seen.oldest_snapshot is None, "nobody has said that it may"
    await queue.admin.execute("grant pg_read_all_stats to rowcall_owner")
    try:
        async with await psycopg.AsyncConnection.connect(queue.logins.admin) as holder:
            await holder.execute("set transaction isolation level repeatable read")
            await holder.execute("select pg_sleep(0.2)")
            await queue.admin.execute("delete from rowcall.depth_look")
            held = await queue.work.depths(NOW)
        assert held is not None
        assert held.oldest_snapshot is not None
        assert held.oldest_snapshot >= timedelta(seconds=0.2)
    finally:
        await queue.admin.execute("revoke pg_read_all_stats from rowcall_owner")
