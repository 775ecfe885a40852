"""What comes round goes on whatever it raises, and says so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource
from structlog.testing import capture_logs

from rowcall.bounds import Bound
from rowcall.queue.depths import KnownDepths
from rowcall.rounds import come_round
from rowcall.settings.files import WatchedFile
from rowcall.telemetry import tallies
from rowcall.telemetry.push import MetricsPush
from rowcall.telemetry.tallies import Gauge
from rowcall_gateway.admission.known import KnownBounds
from rowcall_gateway.edge.credentials.revocations import Revocations
from tests.support.waiting import until
from tests.unit.telemetry.test_push import NEVER, OFTEN, Exporter

OURS = AttributeError("a fault of ours")


class Faulty:
    """Raises what nobody expects for as long as it is broken."""

    def __init__(self) -> None:
        self.broken = True
        self.asked = 0
        self.answered = 0

    async def __call__(self, *_: object) -> Any:
        self.asked += 1
        if self.broken:
            raise OURS
        self.answered += 1
        return ()


def bounds(faulty: Faulty) -> Awaitable[None]:
    async def read(_: int) -> Sequence[Bound]:
        await faulty()
        return ()

    return KnownBounds(read, {}, lambda: None).run(OFTEN)


def revocations(faulty: Faulty) -> Awaitable[None]:
    return Revocations(faulty, lambda *_: None).run(OFTEN)


def depths(faulty: Faulty) -> Awaitable[None]:
    return KnownDepths("a", faulty)._run()


@pytest.mark.parametrize("made", [bounds, revocations, depths])
async def test_what_is_looked_at_is_looked_at_again_after_a_fault_of_ours(
    made: Callable[[Faulty], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rowcall.queue.depths.LOOK_EVERY", OFTEN)
    faulty = Faulty()
    with capture_logs() as logs:
        running = asyncio.ensure_future(made(faulty))
        await until(lambda: faulty.asked > 2)
        faulty.broken = False
        await until(lambda: faulty.answered > 1)
        running.cancel()
        await asyncio.wait({running})
    assert running.cancelled()
    assert [each["event"] for each in logs] == ["what comes round failed, trying again"], "it is told once"
    assert logs[0]["exc_info"] is OURS


async def test_a_file_that_makes_its_reader_fail_is_looked_at_again(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    read: list[str] = []

    def taken(text: str) -> None:
        if text == "bad":
            raise OURS
        read.append(text)

    watching = asyncio.ensure_future(WatchedFile(file, Path.read_text, taken).watch(OFTEN))
    file.write_text("bad")
    await asyncio.sleep(10 * OFTEN)
    file.write_text("good!")
    await until(lambda: read == ["good!"])
    watching.cancel()
    await asyncio.wait({watching})


async def test_a_figure_that_cannot_be_had_ends_neither_the_metrics_nor_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tallies, "_kept", True)
    gauge, exporter, faulty = Gauge("rowcall.depth", "Depth."), Exporter(), Faulty()

    def reading() -> dict[tuple[str, ...], float]:
        faulty.asked += 1
        if faulty.broken:
            raise OURS
        return {(): 1.0}

    gauge.watch(reading)
    push = MetricsPush(exporter, resource=Resource({}), every=OFTEN)
    push.start([gauge])
    await until(lambda: faulty.asked > 2)
    faulty.broken = False
    await until(lambda: bool(exporter.counts))
    faulty.broken = True
    await push.end()
    assert exporter.ended


async def test_the_first_look_is_at_once_or_later() -> None:
    faulty = Faulty()
    running = [
        asyncio.ensure_future(come_round("looking", faulty, NEVER)),
        asyncio.ensure_future(come_round("looking", faulty, NEVER, after=NEVER)),
    ]
    await until(lambda: faulty.asked == 1)
    for each in running:
        each.cancel()
    await asyncio.wait(running)
