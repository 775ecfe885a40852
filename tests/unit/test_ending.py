"""An event loop that nothing ends but its main coroutine, and a process that leaves whatever still runs in it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
import uvloop

from rowcall import ending

LoopFactory = Callable[[], asyncio.AbstractEventLoop]
END_SECONDS = 30.0


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def loop_factory(request: pytest.FixtureRequest) -> Iterator[LoopFactory]:
    """Makes loops of one of the two kinds, which are closed after the test: a process that has run one ends."""
    made: list[asyncio.AbstractEventLoop] = []

    def make() -> asyncio.AbstractEventLoop:
        made.append(request.param())
        return made[-1]

    yield make
    for loop in made:
        loop.close()


async def raising(error: BaseException) -> None:
    raise error


async def swallowing() -> None:
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)


def test_the_loop_outlives_what_tries_to_end_it_and_loses_nothing(loop_factory: LoopFactory) -> None:
    ran: list[int] = []

    async def main() -> str:
        loop = asyncio.get_running_loop()
        kept = []
        for number, error in enumerate((SystemExit(7), KeyboardInterrupt(), SystemExit(0))):
            loop.call_soon(ran.append, number)
            kept.append(loop.create_task(raising(error)))
            loop.call_soon(sys.exit, 7)
            loop.call_soon_threadsafe(sys.exit, 7)
            loop.call_later(0.001, sys.exit, 7)
            loop.call_later(0.001, ran.append, 10 + number)
        loop.stop()
        await asyncio.sleep(0.05)
        assert [type(task.exception()) for task in kept] == [SystemExit, KeyboardInterrupt, SystemExit]
        return "done"

    assert ending.run(main(), loop_factory) == "done"
    assert [number for number in ran if number < 10] == [0, 1, 2]
    # What was asked for in a millisecond may come first, on a machine that has been busy for one.
    assert [number for number in ran if number >= 10] == [10, 11, 12]


@pytest.mark.parametrize("error", [ValueError("ours"), SystemExit(3), RuntimeError("ours too")])
def test_what_main_raises_is_raised(loop_factory: LoopFactory, error: BaseException) -> None:
    with pytest.raises(type(error)) as raised:
        ending.run(raising(error), loop_factory)
    assert raised.value is error


def test_what_is_left_may_clean_up_and_is_not_waited_for(loop_factory: LoopFactory) -> None:
    cleaned: list[str] = []

    async def cleaning(what: str) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.01)
            cleaned.append(what)

    async def main() -> None:
        tasks = [asyncio.create_task(cleaning("task")), asyncio.create_task(swallowing())]
        await asyncio.sleep(0.01)
        assert not any(task.done() for task in tasks)

    began = time.monotonic()
    ending.run(main(), loop_factory)
    assert cleaned == ["task"]
    assert time.monotonic() - began < END_SECONDS / 2


@pytest.mark.parametrize(
    "left",
    [
        "threading.Thread(target=time.sleep, args=(3600,)).start()",
        # What the end would write finds no room.
        (
            "os.set_blocking(1, False)\ntry:\n    while True: os.write(1, bytes(4096))\n"
            "except BlockingIOError: os.set_blocking(1, True)\nprint('more')"
        ),
    ],
    ids=["a thread", "what it has printed"],
)
def test_a_process_leaves_whatever_runs_in_it(left: str) -> None:
    code = f"import os, threading, time\nfrom rowcall import ending\n{left}\nending.leave(9)"
    # Nobody reads what it prints.
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
    with subprocess.Popen([sys.executable, "-c", code], env=buffered, stdout=subprocess.PIPE) as process:
        try:
            assert process.wait(END_SECONDS) == 9
        finally:
            process.kill()


def test_what_was_printed_is_not_lost() -> None:
    code = "from rowcall import ending; print('last words'); ending.leave(0)"
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True, timeout=END_SECONDS
    )
    assert ended.stdout == "last words\n"


PROGRAM = """
import asyncio, os, signal, sys, threading, time
from datetime import timedelta
from rowcall import ending, logs

logs.configure("info", "json", "program")
ending.MARGIN = ending._LOCKED = timedelta(seconds=1)

async def main():
    told = asyncio.Event()
    end = ending.Ending(told.set, timedelta(0))
    print("ready", flush=True)
    {0}

ending.leave(ending.run(main(), asyncio.new_event_loop) or 0)
"""


def run(what: str, *signals: int) -> tuple[int, str]:
    """Runs that program until it ends, sending it signals as soon as it is ready: exit code, and what it logged."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(what)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            for number in signals:
                process.send_signal(number)
            _, err = process.communicate(timeout=END_SECONDS)
            return process.returncode, err
        finally:
            process.kill()


@pytest.mark.parametrize("number", [2, 15])
def test_the_first_signal_asks_for_an_end_in_order(number: int) -> None:
    code, log = run("await told.wait()", number)
    assert code == 0
    assert '"event": "stopping"' in log


def test_an_end_that_takes_too_long_is_made() -> None:
    code, log = run("while True: time.sleep(0.01)", 15)
    assert code == 128 + 15
    assert "the end takes too long" in log
    assert "<string>:" in log, "it says where it was"


def test_a_second_signal_ends_at_once() -> None:
    code, log = run("await told.wait(); os.kill(os.getpid(), 2); await asyncio.sleep(3600)", 15)
    assert code == 128 + 2
    assert "second signal" in log


def test_the_supervisors_word_is_no_signal() -> None:
    code, _ = run("threading.Thread(target=end.begin).start(); await told.wait(); os.kill(os.getpid(), 15)")
    assert code == 0


def test_an_interpreter_that_is_locked_ends_too() -> None:
    code, _ = run("await told.wait(); import ctypes; ctypes.PyDLL(None).sleep(3600)", 15)
    assert code == 1


def test_signals_are_heard_while_the_loop_is_blocked() -> None:
    """A blocked loop calls nobody."""
    code, log = run("time.sleep(0.2); await told.wait()", 15)
    assert (code, '"signal": "SIGTERM"' in log) == (0, True)
