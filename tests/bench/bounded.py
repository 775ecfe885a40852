"""`bounded` (long): what bounds on backlogs cost submits beside 200,000 dead entries and a held snapshot, what a refusal does, what counters do.

In the database alone: the batches that a gateway's submitter sends, through the function that it calls, bounded and not, in turn. And what jobs pay
that are neither SCHEDULED nor held for the counters of those that are: batches submitted, claimed and taken away, with the triggers and without.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from typing import Final

import psycopg

from tests.bench.figures import Figure, beside
from tests.bench.stage import Stage
from tests.proofs.engine import held_snapshot, shard

DEAD: Final = 200_000
BATCH: Final = 64
BATCHES: Final = 6
"""In a row, before it is the other's turn."""
PAIRS: Final = 60
FAR: Final = 10**9

_QUEUE: Final = "select rowcall.queue_id('bench')"
_FILL: Final = """
insert into rowcall.job (tenant, job_id, state, lane, priority, queue_id, order_key, method_id, policy_id, run_at, ready_at, request)
select 'acme', ('0190' || substr(replace(gen_random_uuid()::text, '-', ''), 5))::uuid, 2, 3, 3, %(queue)s, i * rowcall.order_stride(), 1, 1,
  clock_timestamp(), clock_timestamp(), repeat('x', 200)::bytea
from generate_series(1, %(jobs)s) i
"""
_SUBMIT: Final = """
select count(*) filter (where s.outcome = 1), count(*) filter (where s.outcome = 6)
from rowcall.submit_jobs(
  array(
    select row(
      'acme', ('0190' || substr(replace(gen_random_uuid()::text, '-', ''), 5))::uuid, 1, 1, %(queue)s, 3, 0,
      rowcall.order_stride(), null, repeat('x', 200)::bytea, null, null, null, null, null, null, null, null, null, null, null, null,
      null, null
    )::rowcall.submission
    from generate_series(1, %(jobs)s)
  ),
  interval '1 hour'
) s
"""
_BOUND: Final = """
insert into rowcall.bound (tenant, queue, method, backlog, number, updated_at) values ('-', '', '', %s, 1, clock_timestamp())
"""
_CLAIM: Final = (
    "update rowcall.job set state = 3, held = 0, lease = lease + 1, started_at = clock_timestamp() where state = 2"
)
_COUNT: Final = "alter table rowcall.job enable trigger user"
_DO_NOT_COUNT: Final = "alter table rowcall.job disable trigger user"
_END: Final = "delete from rowcall.job where state = 3"


async def run(stage: Stage) -> list[Figure]:
    """Microseconds a row."""
    found = [await asyncio.to_thread(_measure) for _ in range(stage.rounds)]
    settings = {**stage.told, "dead entries": f"{DEAD:,}, kept by a held snapshot", "batches of": str(BATCH)}
    return [
        beside(
            "submit, a bound on its tenant's backlog kept",
            [bounded for bounded, *_ in found],
            "us a row",
            against="none kept",
            theirs=[free for _, free, *_ in found],
            goal="<= 1.03",
            settings=settings,
        ),
        beside(
            "a job that is refused for its place", [refused for _, _, refused, _, _ in found], "us", settings=settings
        ),
        beside(
            "submitted, claimed and taken away, what is set aside counted",
            [counted for *_, counted, _ in found],
            "us a row",
            against="not counted",
            theirs=[other for *_, other in found],
            goal="<= 1.03",
            settings=settings,
        ),
    ]


def _measure() -> tuple[float, float, float, float, float]:
    """Bounded, free, refused; counted, not counted."""
    with shard() as dsn, psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("set synchronous_commit = off")
        row = connection.execute(_QUEUE).fetchone()
        assert row is not None
        queue = row[0]
        connection.execute(_FILL, {"queue": queue, "jobs": DEAD})
        with held_snapshot(dsn):
            connection.execute(
                "select setval(frontier, %s * rowcall.order_stride()) from rowcall.queue_lane where queue_id = %s and lane = 3",
                [DEAD, queue],
            )
            connection.execute("delete from rowcall.job")
            connection.execute("analyze rowcall.job")

            def submit(batches: int, outcome: int) -> float:
                began = time.perf_counter()
                for _ in range(batches):
                    found = connection.execute(_SUBMIT, {"queue": queue, "jobs": BATCH}).fetchone()
                    assert found is not None
                    assert found[outcome] == BATCH, found
                return (time.perf_counter() - began) / batches / BATCH * 1e6

            submit(BATCHES, 0)

            def bounded(yes: bool) -> float:
                if yes:
                    connection.execute(_BOUND, [FAR])
                took = submit(BATCHES, 0)
                connection.execute("delete from rowcall.bound")
                return took

            with_bound, free = _in_turn(bounded)
            # Its jobs are ahead of a bound that is set now.
            connection.execute(
                "insert into rowcall.turn (tenant, queue_id, lane, last_key) values ('acme', %s, 3, %s * rowcall.order_stride())",
                [queue, DEAD + 10_000_000],
            )
            connection.execute(_BOUND, [10])
            refused = submit(BATCHES, 1)
        connection.execute("delete from rowcall.bound")
        connection.execute("delete from rowcall.job")

        def counted(yes: bool) -> float:
            connection.execute("vacuum rowcall.job")
            connection.execute(_COUNT if yes else _DO_NOT_COUNT)
            began = time.perf_counter()
            for _ in range(BATCHES):
                connection.execute(_SUBMIT, {"queue": queue, "jobs": BATCH})
                connection.execute(_CLAIM)
                connection.execute(_END)
            return (time.perf_counter() - began) / BATCHES / BATCH * 1e6

        with_counters, without = _in_turn(counted)
    return with_bound, free, refused, with_counters, without


def _in_turn(measure: Callable[[bool], float]) -> tuple[float, float]:
    """Of many pairs, of which each begins with the other one: with it, by the median of the ratios, and without."""
    pairs = []
    for number in range(PAIRS):
        pair = {yes: measure(yes) for yes in ((True, False) if number % 2 else (False, True))}
        pairs.append((pair[True], pair[False]))
    without = statistics.median(other for _, other in pairs)
    return without * statistics.median(one / other for one, other in pairs), without
