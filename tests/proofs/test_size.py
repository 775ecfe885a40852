"""A day of history is dropped beside a reader of two minutes, without stalling a settle: `make proofs ONLY=size`.

About 25 minutes, 12 GB of disk, most of it to make a store of ten million rows. What such a store costs in speed is the
benchmark `history`.
"""

from __future__ import annotations

import asyncio
import time

import psycopg
import pytest

from tests.proofs.engine import Seen, engine, held_snapshot, shard
from tests.proofs.figures import keep, percentile, say
from tests.proofs.size import FINISHED, ROWS, fill, prepared

READER_SECONDS = 120.0


@pytest.mark.timeout(5400)
async def test_a_day_dropped_beside_a_reader() -> None:
    with shard(max_wal_size="8GB") as dsn:
        async with prepared(dsn):
            pass
        await asyncio.to_thread(fill, dsn)
        await drop_a_day(dsn)


async def drop_a_day(dsn: str) -> None:
    """A day's partition goes while history is read for two minutes and the queue works."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        # A day of long ago, with a million rows of the others'; the owner's, as every day is.
        connection.execute("set role rowcall_owner")
        connection.execute(
            "create table rowcall.job_history_standard_20200101 (like rowcall.job_history_standard including all)"
        )
        connection.execute(
            "alter table rowcall.job_history_standard attach partition rowcall.job_history_standard_20200101 "
            "for values from ('2020-01-01') to ('2020-01-02')"
        )
        connection.execute(
            FINISHED.replace(
                "(clock_timestamp() at time zone 'UTC')::date + (n %% 7)::integer", "date '2020-01-01'"
            ).encode(),
            {"from": 0, "to": min(ROWS // 10, 1_000_000)},
        )
    async with engine(dsn) as load:
        say("settles without a reader, for 30 s")
        async with load.claiming():
            await load.produce(30.0)
        alone, load.seen = load.seen, Seen()
        say(f"a reader of history for {READER_SECONDS:.0f} s, while a day is to be dropped")
        tries = 0
        async with load.claiming():
            producing = asyncio.create_task(load.produce(READER_SECONDS + 30))
            with held_snapshot(dsn, "select count(*) from rowcall.job_history where finished_on = '2020-01-01'"):
                until = time.monotonic() + READER_SECONDS
                while time.monotonic() < until:
                    assert await load.work.drop_history_day() == "", "the day was dropped while it was read"
                    tries += 1
                    await asyncio.sleep(1.0)
            dropped_after = time.monotonic()
            while await load.work.drop_history_day() == "":  # noqa: ASYNC110  a maintainer tries again too
                await asyncio.sleep(0.1)
            dropped_after = time.monotonic() - dropped_after
            await producing
        keep("a day dropped", "settle p99.9 alone", percentile(alone.settle_times, 0.999) * 1000, unit="ms", goal="-")
        keep("a day dropped", "settle longest alone", max(alone.settle_times) * 1000, unit="ms", goal="-")
        keep(
            "a day dropped",
            "settle p99.9 beside reader and drop",
            percentile(load.seen.settle_times, 0.999) * 1000,
            unit="ms",
            goal="no stall",
        )
        keep(
            "a day dropped",
            "settle longest beside reader and drop",
            max(load.seen.settle_times) * 1000,
            unit="ms",
            goal="no stall",
        )
        keep("a day dropped", "tries beside the reader", tries, unit="", goal="-")
        keep("a day dropped", "dropped after the reader's end", dropped_after, unit="s", goal="-")
