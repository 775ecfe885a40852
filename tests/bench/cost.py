"""`cost` (long): what figures, spans and their store cost a submitted call and a drained job: with each and without, in turn.

Every variant has databases and a gateway of its own, which stand by while the others are measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Final

from tests.bench import layers, load, requests
from tests.bench.backlog import drained, fill
from tests.bench.drain import JOBS
from tests.bench.figures import Figure, beside
from tests.bench.stage import Measure, Stage, System, count

IN_FLIGHT: Final = 64
WITHOUT: Final = "without"


@dataclass(frozen=True, slots=True)
class Variant:
    """What is switched on together."""

    layers: tuple[str, ...]
    submit: str = ""
    """The goal of its calls a second by those without."""
    drain: str = ""
    """The same of jobs."""


VARIANTS: Final[Mapping[str, Variant]] = {
    "metrics": Variant(("metrics",)),
    "tracing": Variant(("tracing",)),
    "metrics, tracing and activity": Variant(("metrics", "tracing", "activity"), ">= 0.9", ">= 0.8"),
    "the same, and all callers ask": Variant(("metrics", "tracing-asked", "activity"), ">= 0.75", ">= 0.75"),
}


async def run(stage: Stage) -> list[Figure]:
    """Acknowledged calls a second, and jobs a second from the first claim to the last settle, each by those without."""
    with ExitStack() as stack:
        systems = {WITHOUT: stack.enter_context(stage.system())}
        for name, variant in VARIANTS.items():
            more = tuple(layers.named(each) for each in variant.layers)
            systems[name] = stack.enter_context(replace(stage, layers=(*stage.layers, *more)).system())
        addresses = {name: system.gateway()[1] for name, system in systems.items()}

        def submits(name: str) -> Measure:
            async def measure() -> float:
                return await _submitted(systems[name], addresses[name], stage.seconds)

            return measure

        def drains(name: str) -> Measure:
            async def measure() -> float:
                await fill(systems[name], addresses[name], JOBS)
                return JOBS / await drained(systems[name], JOBS)

            return measure

        for name, system in systems.items():
            await _submitted(system, addresses[name], 1)
        submitted = await stage.in_turn(**{name: submits(name) for name in systems})
        done = await stage.in_turn(**{name: drains(name) for name in systems})
    settings = {**stage.told, "in flight": str(IN_FLIGHT), "jobs": f"{JOBS:,}", "seconds": f"{stage.seconds:g}"}
    return [
        beside(
            f"{what} with {name}",
            found[name],
            unit,
            against=WITHOUT,
            theirs=found[WITHOUT],
            goal=goal,
            settings=settings,
        )
        for name, variant in VARIANTS.items()
        for what, unit, found, goal in (
            ("submit", "calls/s", submitted, variant.submit),
            ("drain", "jobs/s", done, variant.drain),
        )
    ]


async def _submitted(system: System, address: str, seconds: float) -> float:
    asked = requests.submit(address, in_flight=IN_FLIGHT, seconds=seconds, tokens=system.tokens)
    system.fresh()
    found = await load.apart(system.asked(asked))
    count("submit: calls answered with OK", sum(found.statuses.values()), found.ok)
    return found.rate
