"""The process that was started with `--processes N`: starts the N, keeps their number, ends with them.

Called by the `main` of a service. It serves nothing itself and never starts gRPC. Exit code: 0 when all have drained, the
worst of theirs otherwise; 128 + the signal's number when a second signal ends them at once.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Coroutine, Sequence
from time import monotonic
from typing import Any, Final

import structlog

from rowcall.processes.child import Child, own_command
from rowcall.processes.ends import End, Pauses

CANNOT_START: Final = 1
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

_log = structlog.get_logger(__name__)


def supervise(program: str, processes: int, *, ready_line: str, kill_after: float, told: str = "") -> int:
    """Runs the program that this process is, as so many processes, until a signal comes or they cannot go on.

    Args:
        program: Its name, for what is said on stderr.
        processes: How many.
        ready_line: Printed to stdout when all of them are ready.
        kill_after: Seconds after which one that was told to end, and has not, is killed.
        told: For `Member.told`.

    Returns:
        The exit code.
    """
    supervisor = Supervisor(
        own_command(), processes, program=program, ready_line=ready_line, kill_after=kill_after, told=told
    )
    return asyncio.run(supervisor.run())


class Supervisor:
    """A program as several processes, on a plain event loop."""

    def __init__(
        self,
        command: Sequence[str],
        processes: int,
        *,
        program: str,
        ready_line: str,
        kill_after: float,
        told: str = "",
    ) -> None:
        """As `supervise`; `command` is what each process executes."""
        self._command = command
        self._processes = processes
        self._program = program
        self._ready_line = ready_line
        self._kill_after = kill_after
        self._told = told
        self._children: dict[int, Child] = {}
        self._served = {number: asyncio.Event() for number in range(1, processes + 1)}
        """Which places have had a process that served."""
        self._ending = asyncio.Event()
        self._signalled = False
        self._at_once: int | None = None
        self._codes: list[int] = []

    async def run(self) -> int:
        """Returns the exit code when all have ended."""
        for each in _SIGNALS:
            asyncio.get_running_loop().add_signal_handler(each, self._signal, each)
        first, *others = self._served
        async with asyncio.TaskGroup() as places:
            # The first one finds out whether it can be done at all. What is wrong is said once, not by all of them.
            places.create_task(self._keep(first))
            if await self._unless_ending(self._served[first].wait()):
                for number in others:
                    places.create_task(self._keep(number))
            if await self._unless_ending(self._all_served()):
                sys.stdout.write(f"{self._ready_line}\n")
                sys.stdout.flush()
        return max(self._codes, default=0) if self._at_once is None else self._at_once

    async def _keep(self, number: int) -> None:
        """Has one process after another in a place, until the end."""
        pauses = Pauses()
        while True:
            end = await self._one(number)
            if self._ending.is_set() or end.is_for_all:
                self._codes.append(end.exit_code)
                self._end_all()
                return
            pause = pauses.after(end.served)
            _log.error(
                "process ended by itself, starting another",
                process=number,
                delay_ms=round(pause * 1000),
                **({"exit_code": end.code} if end.signal is None else {"signal": end.signal}),
            )
            if not await self._unless_ending(asyncio.sleep(pause)):
                return

    async def _one(self, number: int) -> End:
        """Starts a process and waits for its end."""
        served = self._served[number]
        first = not served.is_set()
        try:
            child = await Child.start(self._command, number=number, told=self._told)
        except OSError as error:
            sys.stderr.write(f"{self._program}: cannot start a process: {error.strerror}\n")
            return End(CANNOT_START, served=None, first=first)
        _log.info("process started", process=number, pid=child.pid)
        self._children[number] = child
        if self._ending.is_set():
            self._end(child)
        since = None
        if await child.ready():
            since = monotonic()
            served.set()
        code = await child.ended()
        del self._children[number]
        return End(code, served=None if since is None else monotonic() - since, first=first)

    def _signal(self, number: signal.Signals) -> None:
        if self._signalled:
            _log.warning("second signal, ending at once", signal=number.name)
            self._at_once = 128 + number
        else:
            self._signalled = True
            _log.info("stopping", signal=number.name)
        self._end_all()

    def _end_all(self) -> None:
        if not self._ending.is_set():
            asyncio.get_running_loop().call_later(self._kill_after, self._kill_all)
        self._ending.set()
        for child in self._children.values():
            self._end(child)

    def _kill_all(self) -> None:
        """Ends those that have not done so by themselves: one whose interpreter is stuck hears of nothing."""
        for number, child in self._children.items():
            _log.error("process does not end, killing it", process=number, pid=child.pid)
            child.kill()

    def _end(self, child: Child) -> None:
        if self._at_once is None:
            child.drain()
        else:
            child.kill()

    async def _all_served(self) -> None:
        for served in self._served.values():
            await served.wait()

    async def _unless_ending(self, waiting: Coroutine[Any, Any, object]) -> bool:
        """Waits; False if the end of all comes before."""
        task = asyncio.ensure_future(waiting)
        ending = asyncio.ensure_future(self._ending.wait())
        await asyncio.wait({task, ending}, return_when=asyncio.FIRST_COMPLETED)
        task.cancel()
        ending.cancel()
        return not self._ending.is_set()
