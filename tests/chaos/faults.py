"""The faults of a history check, and when they come: at even steps of the load's progress, in an order that the seed
decides. Each is counted when it has happened."""

from __future__ import annotations

import asyncio
import enum
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import psycopg

from tests.chaos.stage import LOGINS, Seat, Stage
from tests.fix_postgres import RestartablePostgres
from tests.support.waiting import until

_BOUND: Final = 180.0
"""Seconds in which the load must come so far that the next fault is due, or a fault must have its effect."""
_UNDER_WAY: Final = 0.2
"""Seconds for a worker to have settles under way: its jobs take less."""
_LOOK: Final = 0.1
"""Seconds between looks into the shards."""
_TERMINATE: Final = """
select count(*) filter (where pg_terminate_backend(pid)) from pg_stat_activity where usename = any (%s) and random() < %s
"""


class Fault(enum.StrEnum):
    """A kind of fault."""

    KILL_WORKER = "workers killed"
    """kill -9 of a worker, and another one started."""
    STOP_WORKER = "workers stopped beyond their lease and woken"
    """SIGSTOP of a worker until the shards have declared it dead, then SIGCONT."""
    HOLD_WORKER = "workers cut off in silence beyond their lease"
    """As if a worker's host had vanished: nothing passes until the shards have declared it dead, then everything does."""
    KILL_GATEWAY = "gateways killed"
    """kill -9 of a gateway, and another one started on its port."""
    TERMINATE = "rounds of terminated backends"
    """pg_terminate_backend of some or all sessions of the services."""
    RESTART = "immediate restarts of Postgres"
    """A crash of Postgres, and its recovery."""
    CUT = "rounds of cut connections"
    """Every connection of one service is reset."""


class Faults:
    """Injects faults."""

    def __init__(self, stage: Stage, postgres: RestartablePostgres, dice: random.Random) -> None:
        self.counts: Counter[Fault] = Counter()
        """How often each kind has happened."""
        self.sessions_terminated = 0
        self.links_cut = 0
        self._stage = stage
        self._postgres = postgres
        self._dice = dice
        # Always one worker is left in peace: a stage where nobody works proves nothing.
        self._free_workers = [*stage.workers]
        self._some_free = asyncio.Semaphore(len(stage.workers) - 1)
        self._postgres_is_up = asyncio.Lock()
        self._gateways = asyncio.Lock()

    async def run(self, plan: Mapping[Fault, int], progress: Callable[[], int], total: int) -> None:
        """Injects every fault of a plan, spread evenly over the load's way from 0 to `total`."""
        order = [fault for fault, times in plan.items() for _ in range(times)]
        self._dice.shuffle(order)
        async with asyncio.TaskGroup() as under_way:
            for number, fault in enumerate(order, 1):
                due = total * number // (len(order) + 1)
                await until(lambda due=due: progress() >= due, seconds=_BOUND)  # type: ignore[misc]
                under_way.create_task(self._inject(fault))

    async def _inject(self, fault: Fault) -> None:
        if fault in {Fault.KILL_WORKER, Fault.STOP_WORKER, Fault.HOLD_WORKER}:
            async with self._some_free:
                seat = self._free_workers.pop(self._dice.randrange(len(self._free_workers)))
                await self._harm_worker(fault, seat)
                self._free_workers.append(seat)
        elif fault is Fault.KILL_GATEWAY:
            async with self._gateways:
                await self._kill_gateway(self._dice.choice(self._stage.gateways))
        elif fault is Fault.CUT:
            seat = self._dice.choice([*self._stage.gateways, *self._stage.workers])
            self.links_cut += seat.proxy.cut()
        else:
            async with self._postgres_is_up:
                await asyncio.to_thread(self._terminate if fault is Fault.TERMINATE else self._restart)
        self.counts[fault] += 1

    async def _harm_worker(self, fault: Fault, seat: Seat) -> None:
        if fault is Fault.KILL_WORKER:
            await asyncio.to_thread(seat.process.kill)
            seat.start()
            await asyncio.to_thread(seat.process.ready)
        elif fault is Fault.STOP_WORKER:
            # Its link stands still before: what it has sent of settles then arrives when it has been woken, in any case.
            seat.proxy.hold()
            await asyncio.sleep(_UNDER_WAY)
            seat.freeze()
            await self._declared_dead(seat)
            seat.wake()
            seat.proxy.release()
        else:
            seat.proxy.hold()
            await self._declared_dead(seat)
            seat.proxy.release()

    async def _declared_dead(self, seat: Seat) -> None:
        async def dead() -> bool:
            async with self._postgres_is_up:
                return await asyncio.to_thread(self._stage.alive, seat) == 0

        await until(dead, seconds=_BOUND, every=_LOOK)

    async def _kill_gateway(self, seat: Seat) -> None:
        await asyncio.to_thread(seat.process.kill)
        seat.start()
        await asyncio.to_thread(seat.process.ready)

    def _terminate(self) -> None:
        with psycopg.connect(self._postgres.dsn("postgres"), autocommit=True) as connection:
            row = connection.execute(_TERMINATE, [[*LOGINS.values()], self._dice.choice((0.3, 1.0))]).fetchone()
        assert row is not None
        self.sessions_terminated += row[0]

    def _restart(self) -> None:
        self._postgres.server.stop("immediate")
        self._postgres.start()


def told(faults: Faults) -> Sequence[str]:
    """The report of what was injected, a line a kind."""
    return [
        *(f"  {faults.counts[fault]:5} {fault}" for fault in Fault),
        f"  {faults.sessions_terminated:5} sessions terminated",
        f"  {faults.links_cut:5} connections cut",
    ]
