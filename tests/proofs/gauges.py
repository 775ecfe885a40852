"""What the operations port costs on a shard where a million jobs wait and ten million have finished: the look of one process of all, and
the pages, as a client of HTTP gets them. Part of the proof `actions`, which makes the finished ones."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
import urllib.request
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import psycopg
from psycopg_pool import AsyncConnectionPool

from rowcall.address import Address
from rowcall.ops.port import ops_port
from rowcall.ops.standing import Standing
from rowcall.queue.depths import KnownDepths
from rowcall.queue.postgres.admin import PostgresQueueAdmin
from rowcall.telemetry import metrics
from tests.proofs.engine import engine
from tests.proofs.figures import keep, say
from tests.proofs.size import ROWS

WAITING = ROWS // 10
LOOKS = 30
METHODS = 50
GOAL_MS = 10.0
HERE = "127.0.0.1"


@dataclass(frozen=True)
class Watching:
    """A service that does nothing but know what a shard stands at."""

    depths: Sequence[KnownDepths]
    service: str = "gateway"

    def standing(self) -> Standing:
        """It is well."""
        return Standing("", {})


async def told(dsn: str) -> None:
    """Has the jobs wait, and measures; holds the goal."""
    say(f"{WAITING:,} jobs that wait")
    async with engine(dsn) as load:
        await load.submit(WAITING)
        await load.store.exchange_turns()
    async with AsyncConnectionPool(dsn, min_size=1, max_size=1, kwargs={"autocommit": True}) as pool:
        admin = PostgresQueueAdmin(pool, pool, shard="a")
        looks = [await look(admin, dsn) for _ in range(LOOKS)]
        known = KnownDepths("a", admin.depths)
        known.start()
        await known.look()
        again = [await timed(admin.depths(timedelta(hours=1))) for _ in range(LOOKS)]
        async with ops_port(Address(HERE, 0), [Watching([known])]) as port:
            assert port is not None
            # Nothing is counted before there is a port.
            recorded()
            base = f"http://{HERE}:{port.port}"
            near(json.loads(await asyncio.to_thread(read, f"{base}/scale/default"))["ready"])
            pages = {
                name: [await timed(asyncio.to_thread(read, base + name)) for _ in range(LOOKS)]
                for name in ("/metrics", "/scale/default")
            }
        await known.stop()
    waiting = f"with {WAITING:,} jobs that wait"
    keep("gauges", f"a look, {waiting}, median", statistics.median(looks), unit="ms", goal=f"< {GOAL_MS:.0f}")
    keep("gauges", "what another has seen, median", statistics.median(again), unit="ms", goal=f"< {GOAL_MS:.0f}")
    for name, times in pages.items():
        keep("gauges", f"{name}, {waiting}, median", statistics.median(times), unit="ms", goal=f"< {GOAL_MS:.0f}")
    for times in (looks, again, *pages.values()):
        assert statistics.median(times) < GOAL_MS


async def look(admin: PostgresQueueAdmin, dsn: str) -> float:
    """Milliseconds of a look that nobody has made just before."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute("delete from rowcall.depth_look")
    began = time.perf_counter()
    found = await admin.depths(timedelta(0))
    took = (time.perf_counter() - began) * 1000
    assert found is not None
    near(sum(lane.ready for lane in found.lanes))
    return took


def near(ready: int) -> None:
    """Checks how many are said to wait: those that were claimed before these came, without a gateway that looks after turns, may be
    among them."""
    assert WAITING <= ready <= 1.05 * WAITING, f"{ready} are told"


async def timed(asked: Awaitable[object]) -> float:
    """Milliseconds until something is answered."""
    began = time.perf_counter()
    await asked
    return (time.perf_counter() - began) * 1000


def read(url: str) -> str:
    """A page."""
    with urllib.request.urlopen(url, timeout=20) as answer:
        return str(answer.read().decode())


def recorded() -> None:
    """As much to tell as a gateway has that serves many methods."""
    for number in range(METHODS):
        method = f"acme.v1.Service{number}/Call"
        for code in ("OK", "DEADLINE_EXCEEDED", "INVALID_ARGUMENT"):
            metrics.CALL_DURATION.record(0.01, metrics.GRPC, method, code)
        metrics.PROCESS_DURATION.record(0.01, metrics.ROWCALL, metrics.PROCESS, method)
