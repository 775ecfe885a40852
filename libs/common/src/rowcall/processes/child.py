"""A member as its supervisor sees it: a process, and the other end of its line. Called by `supervisor`."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
from collections.abc import Sequence
from typing import Self

from rowcall.processes.member import READY, introduced


class Child:
    """A process that was started. Made by `start`."""

    def __init__(self, process: asyncio.subprocess.Process, line: socket.socket) -> None:
        self._process = process
        self._line = line
        self._ended = asyncio.ensure_future(process.wait())

    @classmethod
    async def start(cls, command: Sequence[str], *, number: int, told: str) -> Self:
        """Executes the program as that member; what it writes goes where ours goes.

        Raises:
            OSError: The system starts no further process.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    env=introduced(number, told, theirs),
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    # A session of its own: Ctrl-C in the terminal reaches the supervisor alone, which passes it on once.
                    start_new_session=True,
                )
            except BaseException:
                ours.close()
                raise
        ours.settimeout(0)
        return cls(process, ours)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def ready(self) -> bool:
        """Waits until it serves; False if it ends before."""
        hearing = asyncio.ensure_future(asyncio.get_running_loop().sock_recv(self._line, len(READY)))
        try:
            await asyncio.wait({hearing, self._ended}, return_when=asyncio.FIRST_COMPLETED)
            return hearing.done() and hearing.exception() is None and hearing.result() == READY
        finally:
            hearing.cancel()

    async def ended(self) -> int:
        """Waits for its end; its exit code, or less than 0: minus the number of the signal that ended it."""
        code = await asyncio.shield(self._ended)
        self._line.close()
        return code

    def drain(self) -> None:
        """Lets it end in order."""
        with contextlib.suppress(OSError):  # it has ended
            self._line.shutdown(socket.SHUT_WR)

    def kill(self) -> None:
        """Ends it at once."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
