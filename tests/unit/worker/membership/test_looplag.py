"""How late the event loop is: worst of what was, and of what is; logged once for a time of trouble."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

import structlog

from rowcall_worker.membership.looplag import LoopLag


def lines(logs: list[structlog.typing.EventDict]) -> int:
    return len([line for line in logs if "event loop was blocked" in line["event"]])


async def test_a_blocked_loop_is_noticed_while_it_is_and_after() -> None:
    lag = LoopLag(worker="w")
    lag.start()
    one, other = lag.reading(), lag.reading()
    await asyncio.sleep(0)
    # As a lease's thread would see it, in the middle.
    time.sleep(0.4)  # noqa: ASYNC251  the fault under test
    assert one.take() >= timedelta(seconds=0.2)
    await asyncio.sleep(0.11)
    assert other.take() >= timedelta(seconds=0.2)
    # Each has its own, and has it once.
    one.take()
    assert other.take() < timedelta(seconds=0.2)
    await lag.stop()
    assert lag.reading().take() == timedelta(0)


def test_a_time_of_trouble_is_logged_once() -> None:
    lag = LoopLag(worker="w")
    with structlog.testing.capture_logs() as logs:
        lag.note(0.4, 100.0)
        assert lines(logs) == 0
        for second in range(30):
            lag.note(0.7, 101.0 + second)
        assert lines(logs) == 1
        lag.note(0.7, 141.0)
        assert lines(logs) == 2
