"""`upkeep` (long): ten minutes at full rate beside a snapshot that is held, and without; whether anything grows with it.

`ROWCALL_UPKEEP_SECONDS=60 make bench-long ONLY=upkeep` is a short form, for trying.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import psycopg
from psycopg_pool import AsyncConnectionPool
from uuid_utils.compat import uuid7

from rowcall.catalogue.model import Policy
from rowcall.probe.v1.probe_pb2 import EchoRequest
from rowcall.queue.model import ORDER_STRIDE, MethodIds, Submission
from rowcall.queue.postgres.store import PostgresJobStore
from tests.bench.figures import Figure, beside
from tests.bench.stage import TENANT, Stage, System, count, say
from tests.proofs.engine import held_snapshot

SECONDS: Final = float(os.environ.get("ROWCALL_UPKEEP_SECONDS", "600"))
PARTS: Final = 10
"""The first tenth is compared with the last: a minute each, in the long form."""
BATCH: Final = 200
AHEAD: Final = 5_000
"""Jobs that wait at most: the worker is always busy, and the backlog never grows."""
WARM_UP: Final = 5.0
DRAIN_LOOKS: Final = 600
"""So often it is looked, every 0.2 s, whether all is done."""
RENEWAL: Final = "renew_worker"

_DONE: Final = """
select coalesce(sum(n_tup_ins), 0) from pg_stat_all_tables where schemaname = 'rowcall' and relname like 'job\\_history\\_%'
"""
_READ: Final = (
    "select indexrelname, idx_tup_read from pg_stat_all_indexes where schemaname = 'rowcall' and idx_tup_read > 0"
)
# Postgres tells what was inserted up to ten seconds late; a sequence at once.
_CLAIMED: Final = "select max(coalesce(pg_sequence_last_value(frontier), 0)) from rowcall.queue_lane"
_TIMES: Final = "select funcname, calls, total_time from pg_stat_user_functions where schemaname = 'rowcall'"


@dataclass(frozen=True, slots=True)
class Moment:
    """What Postgres had counted at a time."""

    at: float
    done: float
    read: Mapping[str, int]
    """Entries that were read of each index."""
    calls: Mapping[str, int]
    times: Mapping[str, float]
    """Of each function: calls, and milliseconds in all."""
    claimed: int
    """How many jobs: of one tenant, each is one stride behind the one before."""
    worked: float
    """Seconds of processor time that the same piece of work took, in all, and how often it was done: how quick the machine is."""
    pieces: int


@dataclass(frozen=True, slots=True)
class Ran:
    """What one run came to."""

    moments: list[Moment]
    """One a second, about."""

    def part(self, number: int) -> tuple[Moment, Moment]:
        """Where one of the parts of the run began and ended."""
        began, ended = self.moments[0].at, self.moments[-1].at
        borders = [began + (ended - began) * (number + each) / PARTS for each in (0, 1)]
        first, last = (min(self.moments, key=lambda moment: abs(moment.at - border)) for border in borders)
        return first, last

    def rate(self, number: int, of: Callable[[Moment], float]) -> float:
        """By how much something grew a second, in a part of the run."""
        first, last = self.part(number)
        return (of(last) - of(first)) / (last.at - first.at)

    def p99(self, function: str) -> float:
        """Of a function that is called about once a second: milliseconds, over the last half of the run."""
        found: list[float] = []
        for one, next_one in zip(self.moments, self.moments[1:], strict=False):
            calls = next_one.calls.get(function, 0) - one.calls.get(function, 0)
            if calls and next_one.at > self.moments[0].at + SECONDS / 2:
                found.append((next_one.times[function] - one.times.get(function, 0.0)) / calls)
        return sorted(found)[math.ceil(len(found) * 0.99) - 1]


async def run(stage: Stage) -> list[Figure]:
    """A real worker, with all that comes round in it; the rows are written to the shard without a gateway."""
    ran: dict[str, Ran] = {}
    for name in ("free", "held"):
        with stage.system() as system:
            system.do("alter system set track_functions = 'pl'", "select pg_reload_conf()")
            system.worker()
            beside_it = partial(held_snapshot, system.dsn) if name == "held" else nullcontext
            ran[name] = await _full_rate(system, beside_it)
        _tell(name, ran[name])
    held, free = ran["held"], ran["free"]
    settings = {**stage.told, "rounds": "1", "seconds": f"{SECONDS:g}", "worker": "one process, default settings"}
    ours = {name: [each.rate(number, _done) for number in (PARTS - 1, 0)] for name, each in ran.items()}
    return [
        beside(
            "upkeep beside a snapshot, completions of the last tenth",
            [ours["held"][0]],
            "jobs/s",
            against="its first tenth",
            theirs=[ours["held"][1]],
            goal=">= 0.95",
            settings=settings,
        ),
        beside(
            "without, completions of the last tenth",
            [ours["free"][0]],
            "jobs/s",
            against="its first tenth",
            theirs=[ours["free"][1]],
            settings=settings,
        ),
        *(
            beside(
                f"{name}, the same piece of work in the last tenth",
                [_speed(ran[each], PARTS - 1)],
                "a second",
                against="in the first",
                theirs=[_speed(ran[each], 0)],
                settings=settings,
            )
            for each, name in (("held", "upkeep beside a snapshot"), ("free", "without"))
        ),
        beside(
            "upkeep beside a snapshot, p99 of a renewal",
            [held.p99(RENEWAL)],
            "ms",
            against="without",
            theirs=[free.p99(RENEWAL)],
            goal="<= 2",
            settings=settings,
        ),
        *(
            beside(
                f"upkeep beside a snapshot, entries of {what} read in the last tenth",
                [_reads(held, PARTS - 1, chosen)],
                "a job",
                against="in the first",
                theirs=[_reads(held, 0, chosen)],
                goal="<= 1.25",
                settings=settings,
            )
            for what, chosen in (
                ("all indexes", lambda index: True),
                ("job_running", lambda index: index == "job_running"),
                ("all other indexes", lambda index: index != "job_running"),
            )
        ),
    ]


def _done(moment: Moment) -> float:
    return moment.done


def _speed(ran: Ran, number: int) -> float:
    """How often a second of processor time does the same piece of work, in a part of the run.

    A rented machine is quicker at one time than at another: what falls with this is not the run's.
    """
    return ran.rate(number, lambda moment: moment.pieces) / ran.rate(number, lambda moment: moment.worked)


def _piece() -> float:
    """Does it; the seconds of processor time that it took."""
    began = time.thread_time()
    words = {f"{number:08}": number for number in range(2_000)}
    sum(words[key] for key in sorted(words, reverse=True))
    return time.thread_time() - began


def _reads(ran: Ran, number: int, chosen: Callable[[str], bool]) -> float:
    """Entries of some indexes that were read for each job that was done, in a part of the run."""
    read = ran.rate(number, lambda moment: sum(value for index, value in moment.read.items() if chosen(index)))
    return max(read / ran.rate(number, _done), 0.01)


def _tell(name: str, ran: Ran) -> None:
    """What a part of the run had, of each index and each function: what a figure does not say."""
    for number in (0, PARTS - 1):
        first, last = ran.part(number)
        seconds = last.at - first.at
        reads = {index: (last.read[index] - first.read.get(index, 0)) / seconds for index in last.read}
        spent = {each: (last.times[each] - first.times.get(each, 0.0)) / seconds for each in last.times}
        say(f"{name}, part {number + 1} of {PARTS}: {ran.rate(number, _done):,.0f} jobs/s")
        say("  entries read a second: " + _most(reads, ",.0f"))
        say("  ms a second in functions: " + _most(spent, ".2f"))


def _most(values: Mapping[str, float], form: str) -> str:
    chosen = sorted(values.items(), key=lambda each: -each[1])[:12]
    return ", ".join(f"{name} {value:{form}}" for name, value in chosen if value > 0)


class Load:
    """What writes jobs as fast as they are done, and looks on."""

    def __init__(self, system: System, store: PostgresJobStore, ids: MethodIds) -> None:
        self._system = system
        self._store = store
        self._ids = ids
        self._submitted = 0
        self._began_at = 0
        """What was submitted, less what was claimed, when the run began: both in jobs, of one tenant that has one stride each."""
        self._request = EchoRequest(payload=bytes(200)).SerializeToString()

    async def run(self, seconds: float) -> list[Moment]:
        """Jobs for so long, and until all are done; what there was to see meanwhile. Raises NotCounted."""
        moments: list[Moment] = []
        first = asyncio.Event()
        looking = asyncio.create_task(self._watch(time.monotonic() + seconds, moments, first))
        await first.wait()
        self._began_at = self._submitted - moments[0].claimed
        await asyncio.gather(self._produce(looking, moments), self._produce(looking, moments), looking)
        done = 0
        for _ in range(DRAIN_LOOKS):
            done = await asyncio.to_thread(self._system.finished)
            if done >= self._submitted:
                break
            await asyncio.sleep(0.2)
        count("upkeep: jobs done", self._submitted, done)
        return moments

    async def _produce(self, looking: asyncio.Task[None], moments: list[Moment]) -> None:
        while not looking.done():
            if self._submitted - moments[-1].claimed - self._began_at > AHEAD:
                await asyncio.sleep(0.02)
                continue
            calls = [Submission(TENANT, uuid7(), self._ids, lane=3, request=self._request) for _ in range(BATCH)]
            for answer in await self._store.submit(calls):
                if isinstance(answer, Exception):
                    raise answer
            self._submitted += BATCH

    async def _watch(self, until: float, moments: list[Moment], first: asyncio.Event) -> None:
        async with await psycopg.AsyncConnection.connect(self._system.dsn, autocommit=True) as connection:
            worked = 0.0
            while time.monotonic() < until:
                worked += _piece()
                moments.append(await _look(connection, worked, len(moments) + 1))
                first.set()
                await asyncio.sleep(0.1)


async def _full_rate(system: System, beside_it: Callable[[], AbstractContextManager[None]]) -> Ran:
    system.do(f"select rowcall.adopt_tenant('{TENANT}', 1)")
    async with AsyncConnectionPool(system.dsn, min_size=2, max_size=4, open=False, name="a") as pool:
        store = PostgresJobStore(pool, pool)
        load = Load(system, store, await store.method_ids("rowcall.probe.v1.ProbeService/Echo", Policy()))
        await load.run(WARM_UP)
        with beside_it():
            moments = await load.run(SECONDS)
        await store.close()
    return Ran(moments)


async def _look(connection: psycopg.AsyncConnection[Any], worked: float, pieces: int) -> Moment:
    done = await (await connection.execute(_DONE.encode())).fetchone()
    read = await (await connection.execute(_READ.encode())).fetchall()
    times = await (await connection.execute(_TIMES.encode())).fetchall()
    claimed = await (await connection.execute(_CLAIMED.encode())).fetchone()
    assert done is not None
    assert claimed is not None
    return Moment(
        time.monotonic(),
        float(done[0]),
        {row[0]: row[1] for row in read},
        {row[0]: row[1] for row in times},
        {row[0]: row[2] for row in times},
        claimed[0] // ORDER_STRIDE,
        worked,
        pieces,
    )
