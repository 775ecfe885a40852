from __future__ import annotations

import asyncio

import pytest

from rowcall_worker.running import timers
from rowcall_worker.running.timers import WIDTH, Timers


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds that are short, so that the tests are."""
    monkeypatch.setattr(timers, "WIDTH", 0.05)


async def called(over: list[str], count: int) -> None:
    async with asyncio.timeout(10):
        while len(over) < count:  # noqa: ASYNC110  a timer appends to it
            await asyncio.sleep(0.005)


def test_a_second_is_one_outside_of_tests() -> None:
    assert WIDTH == 1


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.09, 0.11, 0.3])
async def test_none_is_called_before_its_time_and_each_is_called(delay: float) -> None:
    loop = asyncio.get_running_loop()
    at: list[float] = []
    over: list[str] = []

    def note(whose: str) -> None:
        over.append(whose)
        at.append(loop.time())

    began = loop.time()
    Timers(note).start("a", delay)
    await called(over, 1)
    # A loop calls what is due within its clock's resolution.
    assert at[0] >= began + delay - 0.002


async def test_those_of_one_second_are_called_in_their_order() -> None:
    over: list[str] = []
    made = Timers(over.append)
    for name, delay in (("c", 0.28), ("a", 0.2), ("b", 0.24), ("d", 0.4)):
        made.start(name, delay)
    await called(over, 4)
    assert over == ["a", "b", "c", "d"]


@pytest.mark.parametrize("delay", [0.02, 0.12, 0.3])
async def test_what_is_stopped_is_not_called(delay: float) -> None:
    over: list[str] = []
    made = Timers(over.append)
    stopped = made.start("stopped", delay)
    made.start("other", delay + 0.01)
    made.stop("stopped", stopped)
    made.stop("stopped", stopped)
    await called(over, 1)
    assert over == ["other"]


async def test_what_is_stopped_after_its_second_has_come_is_not_called() -> None:
    over: list[str] = []
    made = Timers(over.append)
    # Noted together; what the first one's time brings about stops the second one, which has a timer of its own by then.
    noted = made.start("first", 0.2)
    assert isinstance(noted, dict)
    noted["second"] = noted["first"] + 0.02

    def stop_the_second(whose: str) -> None:
        over.append(whose)
        made.stop("second", noted)

    made._over = stop_the_second
    made.start("last", 0.4)
    await called(over, 2)
    assert over == ["first", "last"]


async def test_what_was_called_or_stopped_is_not_kept() -> None:
    over: list[str] = []
    made = Timers(over.append)
    for number in range(100):
        made.stop(str(number), made.start(str(number), 0.15))
    made.start("kept", 0.2)
    await called(over, 1)
    await asyncio.sleep(0)
    assert made._noted == {}
