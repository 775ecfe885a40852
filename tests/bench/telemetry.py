"""`telemetry` (long): what is left of `submit` and `drain`, all spans told, where those who take them are cut off, locked, gone or silent.

Each fault in turn beside the same while all is well, on the same databases; a gateway for each, which stands by while the others are measured.
Spans go to a collector in this process, which keeps nothing, and to the shard, which keeps them. All reach the shard through a proxy in this
process, which can cut the connections that spans go over, and passes the others.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Final

import psycopg

from rowcall.telemetry.activity import ACTIVITY
from rowcall.telemetry.environment import OTLP
from tests.bench import load, requests
from tests.bench.backlog import drained, fill
from tests.bench.figures import Figure, beside
from tests.bench.memory import resident
from tests.bench.stage import Measure, Stage, System, count, median, say
from tests.fix_cluster import Reached
from tests.fix_services import ServiceProcess
from tests.support.collector import Collector
from tests.support.ops import Ops, value
from tests.support.purpose_proxy import PurposeProxy

IN_FLIGHT: Final = 64
JOBS: Final = 20_000
NOBODY: Final = "http://127.0.0.1:9"
"""Where nobody listens."""

WELL: Final = "all well"
CUT, LOCKED, GONE, SILENT = "store cut off", "store locked", "collector gone", "collector silent"
FAULTS: Final[Mapping[str, str]] = {CUT: ACTIVITY, LOCKED: ACTIVITY, GONE: OTLP, SILENT: OTLP}
"""What spans are counted by that nobody takes."""

_NO_SPANS: Final = "truncate rowcall.activity"


@dataclass(slots=True)
class Found:
    """What was found of services in one state."""

    memory: list[float] = field(default_factory=list)
    """MiB of each worker at its end."""
    dropped: dict[str, float] = field(default_factory=lambda: {ACTIVITY: 0.0, OTLP: 0.0})
    """Spans, of gateway and workers."""


class Ways:
    """Where spans go, and how that is broken."""

    def __init__(self, system: System, stack: ExitStack) -> None:
        self._system = system
        self._store = stack.enter_context(PurposeProxy(system.dsn, ACTIVITY))
        collector = Collector(keeps=False)
        stack.callback(collector.stop)
        # It takes connections, and says nothing.
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self._collectors = {GONE: NOBODY, SILENT: f"http://127.0.0.1:{silent.getsockname()[1]}"}
        self._collector = collector.address

    def variables(self, name: str, reached: Reached) -> dict[str, str]:
        """What a service is started with that is to be in a state."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self._collectors.get(name, self._collector),
            "OTEL_EXPORTER_OTLP_INSECURE": "true",
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_TRACES_SAMPLER": "always_on",
            "ROWCALL_ACTIVITY": "true",
            "ROWCALL_OPS_LISTEN": "127.0.0.1:0",
            "ROWCALL_SHARDS": json.dumps({shard: self._store.through(dsn) for shard, dsn in reached.shards.items()}),
        }

    @contextmanager
    def broken(self, name: str) -> Iterator[None]:
        """For as long as services in a state are measured."""
        if name == CUT:
            self._store.away = True
            yield
            self._store.away = False
        elif name == LOCKED:
            with psycopg.connect(self._system.dsn) as connection:
                connection.execute("lock table rowcall.activity in access exclusive mode")
                yield
        else:
            yield


async def run(stage: Stage) -> list[Figure]:
    """Calls and jobs a second by those while all is well; what the processes have more in memory; spans dropped; seconds of the end."""
    found = {name: Found() for name in (WELL, *FAULTS)}
    with stage.system() as system, ExitStack() as stack:
        ways = Ways(system, stack)
        gateways = {name: system.gateway(**ways.variables(name, system.cluster.gateway)) for name in found}

        async def submits(name: str) -> float:
            await asyncio.to_thread(system.do, _NO_SPANS)
            await asyncio.to_thread(system.fresh)
            asked = requests.submit(gateways[name][1], in_flight=IN_FLIGHT, seconds=stage.seconds, tokens=system.tokens)
            with ways.broken(name):
                answered = await load.apart(system.asked(asked))
            count(f"submit, {name}: calls answered with OK", sum(answered.statuses.values()), answered.ok)
            count(f"submit, {name}: rows", answered.ok, await asyncio.to_thread(system.waiting))
            return answered.rate

        async def drains(name: str) -> float:
            await asyncio.to_thread(system.do, _NO_SPANS)
            await fill(system, gateways[name][1], JOBS)

            async def look(worker: ServiceProcess) -> None:
                found[name].memory.append(resident(worker.process.pid) / 2**20)
                await _add_dropped(found[name], worker)

            variables = ways.variables(name, system.cluster.worker)
            with ways.broken(name):
                return JOBS / await drained(system, JOBS, 1, before_end=look, **variables)

        for name in found:
            await submits(name)
        submitted = await stage.in_turn(**{name: _of(submits, name) for name in found})
        done = await stage.in_turn(**{name: _of(drains, name) for name in found})
        memory, ends = {}, {}
        for name, (gateway, _) in gateways.items():
            memory[name] = resident(gateway.process.pid) / 2**20
            await _add_dropped(found[name], gateway)
            began = time.monotonic()
            with ways.broken(name):
                count(f"{name}: the gateway's exit code", 0, await asyncio.to_thread(gateway.end))
            ends[name] = time.monotonic() - began
    for name, each in found.items():
        say(
            f"{name}: dropped of the collector's {each.dropped[OTLP]:,.0f}, of the store's {each.dropped[ACTIVITY]:,.0f}; "
            f"gateway {memory[name]:.0f} MiB, workers {median(each.memory):.0f} MiB"
        )
    settings = {**stage.told, "in flight": str(IN_FLIGHT), "jobs": f"{JOBS:,}", "seconds": f"{stage.seconds:g}"}
    figures = []
    for name, what in FAULTS.items():
        for which, unit, rates in (("submit", "calls/s", submitted), ("drain", "jobs/s", done)):
            figures.append(
                beside(
                    f"{which}, {name}",
                    rates[name],
                    unit,
                    against=WELL,
                    theirs=rates[WELL],
                    goal=">= 0.95",
                    settings=settings,
                )
            )
        more = {
            "gateway": memory[name] - memory[WELL],
            "worker": median(found[name].memory) - median(found[WELL].memory),
        }
        figures += [
            beside(f"{service}'s memory, {name}", [mib], "MiB more", goal="<= 50", settings=settings)
            for service, mib in more.items()
        ]
        figures += [
            beside(f"dropped, {name}", [found[name].dropped[what]], "spans", goal=">= 1", settings=settings),
            beside(f"gateway's end, {name}", [ends[name]], "s", settings=settings),
        ]
    return figures


def _of(measure: Callable[[str], Awaitable[float]], name: str) -> Measure:
    return lambda: measure(name)


async def _add_dropped(found: Found, service: ServiceProcess) -> None:
    samples = await Ops(service).samples()
    for what in found.dropped:
        found.dropped[what] += value(samples, "rowcall_telemetry_dropped_total", what=what)
